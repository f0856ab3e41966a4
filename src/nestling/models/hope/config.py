"""What a Hope model is made of."""

from __future__ import annotations

import difflib
from dataclasses import field, fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from nestling.errors import InputError, UnknownNameError
from nestling.layers import MIXERS
from nestling.layers.continuum_options import check_options
from nestling.models.auto import make_models_known
from nestling.models.hope.mixer_defaults import completed
from nestling.ops.activations import activation_named
from nestling.schedule import Level

__all__ = ["HopeConfig"]

OBJECTIVES = {"local": "local", "next_token": "given"}


@strict
class HopeConfig(PreTrainedConfig):
    """Configuration of `HopeModel` and `HopeForCausalLM`.

    A block is a mixer over time and a continuum memory over features. What the mixers are makes the model:

        Hope             mixer_types=["self_modifying"]
        Hope-Attention   mixer_types=["attention"]
        Titans           mixer_types=["deep_momentum"]
        DeltaNet         mixer_types=["delta"]
        Gated DeltaNet   mixer_types=["gated_delta"]
        RetNet-like      mixer_types=["hebbian"]
        a hybrid         mixer_types=["gated_delta", "gated_delta", "sliding_window"]

    Source: NL 8.3, eq. 94-97.

    Args:
        vocab_size: entries of the vocabulary.
        hidden_size: width D.
        num_hidden_layers: blocks.
        num_attention_heads: heads H of every mixer.
        head_dim: width of keys and values of a head; None is hidden_size / num_attention_heads.
        intermediate_size: width F of all levels of a block together, a multiple of their number; None is 8/3 D,
            rounded up. So any number of levels has the same number of parameters.
        hidden_act: silu, gelu, relu or tanh.
        gated_mlp: whether levels are gated as in Llama.
        mixer_types: names of `nestling.layers.MIXERS`, repeated from the first block to the last.
        mixer_options: further options by the name of a mixer, for example {"sliding_window": {"window": 256}};
            completed with what Hope models set for a mixer (`mixer_defaults`), which a saved model then names.
        update_periods: one level per number, in tokens, the level next to the input first.
        continuum_mode: "static", "online" or "meta".
        continuum_variant: "sequential", "nested" or "independent".
        continuum_objective: "local" (levels move whenever the model reads), or "next_token" (they move in
            `nestling.models.hope.read`, which sees the text that is to be predicted; mode online only).
        continuum_inner_rate, continuum_limit, continuum_accumulation, continuum_retention: of `ContinuumMemory`
            and its levels.
        rms_norm_eps, initializer_range, tie_word_embeddings, use_cache, and token ids: as in transformers.

    Raises:
        InputError: a value outside its range, or an unknown key near a known one.
    """

    model_type = "hope"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012  as transformers has it

    vocab_size: int = 32000
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    head_dim: int | None = None
    intermediate_size: int | None = None
    hidden_act: str = "silu"
    gated_mlp: bool = True
    mixer_types: list[str] = field(default_factory=lambda: ["self_modifying"])
    mixer_options: dict[str, Any] = field(default_factory=dict)
    update_periods: list[int] = field(default_factory=lambda: [512, 2048, 8192, 32768])
    continuum_mode: str = "static"
    continuum_variant: str = "sequential"
    continuum_objective: str = "local"
    continuum_inner_rate: float = 0.1
    continuum_limit: float | None = 1.0
    continuum_accumulation: str = "mean"
    continuum_retention: float = 1.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in sizes, check everything."""
        own = [part.name for part in fields(self)]
        for name in kwargs:
            near = difflib.get_close_matches(name, own, n=1, cutoff=0.85)
            if near:
                raise InputError(f"HopeConfig: unknown key {name!r}: did you mean {near[0]!r}?")
        super().__post_init__(**kwargs)
        self._check_sizes()
        if self.intermediate_size is None:
            step = 8 * len(self.update_periods)
            self.intermediate_size = -(-8 * self.hidden_size // (3 * step)) * step
        if self.intermediate_size % len(self.update_periods):
            raise InputError(
                f"intermediate_size: expected a multiple of the {len(self.update_periods)} levels, "
                f"got {self.intermediate_size}"
            )
        for name in (*self.mixer_types, *self.mixer_options):
            if name not in MIXERS:
                raise UnknownNameError("mixer", name, MIXERS)
        self.mixer_options = completed(self.mixer_types, self.mixer_options)
        self._check_continuum()
        make_models_known()

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels of every block."""
        return tuple(
            Level(
                name=f"level {number}",
                update_period=period,
                accumulation=self.continuum_accumulation,  # pyright: ignore[reportArgumentType]  checked by Level
                retention=self.continuum_retention,
                anchor="start",
            )
            for number, period in enumerate(self.update_periods)
        )

    @property
    def layer_objective(self) -> str:
        """The objective as `ContinuumMemory` names it."""
        return OBJECTIVES[self.continuum_objective]

    def mixer_type(self, layer: int) -> str:
        """Name of the mixer of a block."""
        return self.mixer_types[layer % len(self.mixer_types)]

    def _check_sizes(self) -> None:
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
        for name in sizes:
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected a number >= 1, got {getattr(self, name)}")
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}: "
                "change one, or give head_dim"
            )
        if not self.mixer_types or not self.update_periods:
            raise InputError("expected at least one name in mixer_types and one number in update_periods")
        activation_named(self.hidden_act)

    def _check_continuum(self) -> None:
        if self.continuum_objective not in OBJECTIVES:
            raise UnknownNameError("continuum_objective", self.continuum_objective, OBJECTIVES)
        if self.continuum_objective == "next_token" and self.continuum_mode == "meta":
            raise InputError(
                "continuum_objective 'next_token' needs continuum_mode 'online'; mode 'meta' needs 'local'"
            )
        check_options(
            self.levels,
            self.continuum_mode,
            self.continuum_variant,
            self.layer_objective,
            self.continuum_inner_rate,
            self.continuum_limit,
        )
