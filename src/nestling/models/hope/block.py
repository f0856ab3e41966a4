"""One block: a mixer over time, then the continuum memory, each behind a norm and beside a residual."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nestling.layers import MIXERS
from nestling.layers.continuum_memory import ContinuumMemory
from nestling.memory import DEEP_RULES, MATRIX_RULES
from nestling.memory.base import Memory
from nestling.models.hope.cache import BlockState
from nestling.models.hope.config import HopeConfig
from nestling.models.hope.contexts import Starts, run_in_contexts

__all__ = ["HopeBlock", "make_mixer"]


# What language models of these names have beside the rule: short convolutions on q, k and v (but RetNet), norm and gate
# of answers (DeltaNet: the norm alone), and places in attention.
AS_PUBLISHED: dict[str, dict[str, Any]] = {
    **{name: {"conv_width": 4, "output": "gated"} for name in MATRIX_RULES},
    **{f"deep_{name}": {"conv_width": 4, "output": "gated"} for name in DEEP_RULES},
    "hebbian": {"output": "gated"},
    "delta": {"conv_width": 4, "output": "normed"},
    "titans": {"conv_width": 4, "output": "gated"},
    "self_modifying": {"output": "gated"},
    **{name: {"rope_theta": 10_000.0} for name in ("attention", "sliding_window")},
}
# Matrix memories of self-modifying Titans may forget, for what decays is the deviation from their start.
FORGETTING: dict[str, Any] = {"decay_to": "initial", "span": 8.0, "span_ratio": 1024.0, "gate": 0.1}


def make_mixer(config: HopeConfig, layer: int) -> Memory:
    """The mixer of a block, new."""
    name = config.mixer_type(layer)
    given = config.mixer_options.get(name, {})
    options = {"head_dim": config.head_dim} if config.head_dim is not None else {}
    options |= AS_PUBLISHED.get(name, {})
    asked = (given.get("kind", "matrix"), given.get("decay_to", "initial"))
    if name == "self_modifying" and asked == ("matrix", "initial"):
        options |= FORGETTING
    return MIXERS[name](dim=config.hidden_size, num_heads=config.num_attention_heads, **{**options, **given})


class HopeBlock(nn.Module):
    """h <- h + mixer(norm(h)),  h <- h + continuum(norm(h)).

    Source: NL eq. 94-97; norms before, as in Llama.
    """

    def __init__(self, config: HopeConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.mixer_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mixer = make_mixer(config, layer)
        self.continuum_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        assert config.intermediate_size is not None
        self.continuum = ContinuumMemory(
            dim=config.hidden_size,
            hidden=config.intermediate_size // len(config.update_periods),
            levels=config.levels,
            mode=config.continuum_mode,
            variant=config.continuum_variant,
            objective=config.layer_objective,
            inner_rate=config.continuum_inner_rate,
            limit=config.continuum_limit,
            activation=config.hidden_act,
            gated=config.gated_mlp,
        )

    def forward(self, hidden: Tensor, state: BlockState | None, starts: Starts) -> tuple[Tensor, BlockState]:
        """Hidden states [B, T, D] and the state after them.

        Args:
            hidden: [B, T, D].
            state: of this block; None begins a context in every row.
            starts: of `context_starts`.
        """
        before = (None, None) if state is None else state
        mixed, mixer = run_in_contexts(self.mixer, self.mixer_norm(hidden), before[0], starts)
        hidden = hidden + mixed
        changed, continuum = run_in_contexts(self.continuum, self.continuum_norm(hidden), before[1], starts)
        return hidden + changed, (mixer, continuum)
