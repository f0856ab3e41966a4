"""One block: a mixer over time, then the continuum memory, each behind a norm and beside a residual."""

from __future__ import annotations

from torch import Tensor, nn

from nestling.layers import MIXERS
from nestling.layers.continuum_memory import ContinuumMemory
from nestling.memory.base import Memory
from nestling.models.hope.cache import BlockState
from nestling.models.hope.config import HopeConfig
from nestling.models.hope.contexts import Starts, run_in_contexts
from nestling.models.hope.mixer_defaults import completed

__all__ = ["HopeBlock", "make_mixer"]


def make_mixer(config: HopeConfig, layer: int) -> Memory:
    """The mixer of a block, new."""
    name = config.mixer_type(layer)
    given = completed([name], config.mixer_options)[name]
    width = {} if config.head_dim is None else {"head_dim": config.head_dim}
    return MIXERS[name](dim=config.hidden_size, num_heads=config.num_attention_heads, **{**width, **given})


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
