"""The table of language models that can be trained from the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from nestling.errors import InputError, NestlingError, UnknownNameError
from nestling.recipes.language.fitting import count_parameters, fit_number, fit_width
from nestling.recipes.language.sizes import Size

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["LANGUAGE_MODELS", "LanguageModel", "make_config", "model_named"]

Options = Mapping[str, Any]
# (size, size of the vocabulary, parameters wanted, further keys of the configuration)
Builder = Callable[[Size, int, int, Options], "PreTrainedConfig"]


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """One row: a model by name.

    name:    as in commands.
    summary: one line for people.
    build:   makes its configuration.
    """

    name: str
    summary: str
    build: Builder


def _llama_of_width(size: Size, vocab_size: int, options: Options, width: int) -> PreTrainedConfig:
    from transformers import LlamaConfig

    given: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": size.hidden_size,
        "num_hidden_layers": size.num_layers,
        "num_attention_heads": size.num_heads,
        "intermediate_size": width,
        "max_position_embeddings": 1 << 20,
        "tie_word_embeddings": True,
        **_NO_TOKENS,
    }
    return LlamaConfig(**{**given, **options})


def _llama(size: Size, vocab_size: int, target: int, options: Options) -> PreTrainedConfig:
    return fit_width(
        partial(_llama_of_width, size, vocab_size, options), target=target, granule=max(1, size.hidden_size // 64)
    )


def _hope(mixers: tuple[str, ...]) -> Builder:
    def build(size: Size, vocab_size: int, target: int, options: Options) -> PreTrainedConfig:
        from nestling.models.hope import HopeConfig

        given: dict[str, Any] = {
            "vocab_size": vocab_size,
            "hidden_size": size.hidden_size,
            "num_hidden_layers": size.num_layers,
            "num_attention_heads": size.num_heads,
            "mixer_types": list(mixers),
            "mixer_options": {"sliding_window": {"window": size.window}} if "sliding_window" in mixers else {},
        }
        if mixers == ("self_modifying",) and "num_attention_heads" not in options:
            given |= {"num_attention_heads": size.memory_heads, "head_dim": size.hidden_size // size.num_heads}
        given |= options
        levels = len(HopeConfig(**given).update_periods)
        return fit_width(
            lambda width: HopeConfig(**{**given, "intermediate_size": width}),
            target=target,
            granule=levels * max(1, size.hidden_size // 64),
        )

    return build


def _mamba_head(size: Size) -> int:
    """Width of a head: 64 as published, less where that would leave fewer than four heads."""
    return min(64, size.hidden_size // 2)


def _mamba2(size: Size, vocab_size: int, target: int, options: Options) -> PreTrainedConfig:
    """There is no MLP: the number of blocks is fitted, then the width of the states; what options name stays."""
    from transformers import Mamba2Config

    def make(layers: int, state: int) -> PreTrainedConfig:
        given: dict[str, Any] = {
            "vocab_size": vocab_size,
            "hidden_size": size.hidden_size,
            "num_hidden_layers": layers,
            "head_dim": _mamba_head(size),
            "num_heads": 2 * size.hidden_size // _mamba_head(size),
            "expand": 2,
            "n_groups": 1,
            "state_size": state,
            "chunk_size": 64,
            "initializer_range": 0.02,
            "tie_word_embeddings": True,
            **_NO_TOKENS,
        }
        return Mamba2Config(**{**given, **options})

    state = options.get("state_size", 64 if size.hidden_size < 512 else 128)
    layers = options.get("num_hidden_layers") or fit_number(lambda count: make(count, state), target=target, granule=1)
    if "state_size" in options:
        return make(layers, state)
    return make(layers, fit_number(lambda width: make(layers, width), target=target, granule=4))


def _samba(size: Size, vocab_size: int, target: int, options: Options) -> PreTrainedConfig:
    from nestling.models.samba import SambaConfig

    given: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": size.hidden_size,
        "num_hidden_layers": size.num_layers,
        "num_attention_heads": size.num_heads,
        "num_key_value_heads": size.num_heads,
        "sliding_window": size.window,
        "mamba_d_head": _mamba_head(size),
        "mamba_n_heads": 2 * size.hidden_size // _mamba_head(size),
        "mamba_d_state": 64 if size.hidden_size < 512 else 128,
        "mamba_chunk_size": 64,
        "tie_word_embeddings": True,
        **_NO_TOKENS,
        **options,
    }
    return fit_width(
        lambda width: SambaConfig(**{**given, "intermediate_size": width}),
        target=target,
        granule=max(1, size.hidden_size // 64),
    )


# What a tokenizer has is written by the one who knows it.
_NO_TOKENS: dict[str, Any] = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}

_ROWS = (
    LanguageModel(
        name="hope", summary="Hope: self-modifying Titans and continuum memory", build=_hope(("self_modifying",))
    ),
    LanguageModel(
        name="hope_attention",
        summary="Hope-Attention: softmax attention and continuum memory",
        build=_hope(("attention",)),
    ),
    LanguageModel(name="titans", summary="Titans (LMM): a neural memory with momentum", build=_hope(("titans",))),
    LanguageModel(name="deltanet", summary="DeltaNet: matrix memories with the delta rule", build=_hope(("delta",))),
    LanguageModel(
        name="gated_deltanet", summary="Gated DeltaNet: delta rule with decay", build=_hope(("gated_delta",))
    ),
    LanguageModel(
        name="retnet", summary="RetNet-like: Hebbian matrix memories with a learned decay", build=_hope(("hebbian",))
    ),
    LanguageModel(
        name="ttt", summary="TTT-MLP-like: an MLP memory by plain gradient steps", build=_hope(("deep_gradient",))
    ),
    LanguageModel(name="llama", summary="Llama (Transformer++), of transformers", build=_llama),
    LanguageModel(name="mamba2", summary="Mamba-2, of transformers", build=_mamba2),
    LanguageModel(
        name="samba", summary="Samba-like: Mamba-2 and sliding-window attention in turn, on transformers", build=_samba
    ),
)

LANGUAGE_MODELS: dict[str, LanguageModel] = {row.name: row for row in _ROWS}


def model_named(name: str) -> LanguageModel:
    """The row of this name. Raises UnknownNameError with the nearest one."""
    if name not in LANGUAGE_MODELS:
        raise UnknownNameError("language model", name, LANGUAGE_MODELS)
    return LANGUAGE_MODELS[name]


def make_config(model: str, size: Size, *, vocab_size: int, options: Options | None = None) -> PreTrainedConfig:
    """Configuration of a model at a size: as many parameters as a Llama of that size has.

    Args:
        model: a key of `LANGUAGE_MODELS`.
        size: widths and depth.
        vocab_size: entries of the vocabulary.
        options: further keys of the configuration, for example {"continuum_mode": "meta"}.

    Raises:
        UnknownNameError: for the model.
        InputError: options that the configuration refuses.
    """
    row = model_named(model)
    target = count_parameters(_llama_of_width(size, vocab_size, {}, size.mlp_width))
    try:
        return row.build(size, vocab_size, target, options or {})
    except NestlingError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the configuration of {model!r} cannot be made from {dict(options or {})}: {error}"
        ) from error
