"""Small models of equal size for the synthetic tasks, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from nestling.errors import InputError, UnknownNameError

__all__ = ["SMALL_MODELS", "Sizes", "make_small_model"]

NEAREST = 0.05  # share by which the number of parameters may differ from Hope's


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What all models share; parameters are counted on Hope with these sizes and a default MLP.

    width:  D, a multiple of 8.
    layers: blocks.
    heads:  H, a divisor of D.
    span:   tokens that the fastest head of Hope's memories remembers at the start, > 1.
    span_ratio: how many times as long the slowest one does, >= 1.
    rate_gain: how much faster Hope's memories learn when to keep and when to turn: a parity is carried as far as what
        is kept is near 1.
    conv_width: of the short convolutions of all mixers that are memories of ours; 1 leaves them out. None is 1 for
        formal languages, where a symbol must act by itself, and 4 for the rest.
    chunk_size: tokens between two anchors of the memories; 256 is longer than most tasks, so that the projections of
        Hope then stand still within a sequence, while its memory is written and turned token by token.
    """

    width: int = 32
    layers: int = 2
    heads: int = 4
    span: float = 8.0
    span_ratio: float = 1024.0
    rate_gain: float = 16.0
    conv_width: int | None = None
    chunk_size: int = 256

    def __post_init__(self) -> None:
        if self.width < 8 or self.width % 8 or self.heads < 1 or self.width % self.heads or self.layers < 1:
            raise InputError(f"sizes: expected width a multiple of 8 and of heads, layers >= 1, got {self}")


Build = Callable[[int, Sizes, int], Any]


def _hope(mixer: str) -> Build:
    def build(vocab_size: int, sizes: Sizes, free: int) -> Any:
        from nestling.models.hope import HopeConfig, HopeForCausalLM

        conv_width = 4 if sizes.conv_width is None else sizes.conv_width
        options: dict[str, Any] = {"chunk_size": sizes.chunk_size, "conv_width": conv_width}
        if mixer == "self_modifying":
            options |= {"negative_eigenvalues": True, "decay_to": "initial", "gate": 0.5}
            options |= {"span": sizes.span, "span_ratio": sizes.span_ratio, "rate_gain": sizes.rate_gain}
        return HopeForCausalLM(
            HopeConfig(
                vocab_size=vocab_size,
                hidden_size=sizes.width,
                num_hidden_layers=sizes.layers,
                num_attention_heads=sizes.heads,
                intermediate_size=2 * free,
                update_periods=[64, 256],
                mixer_types=[mixer],
                mixer_options={} if mixer == "attention" else {mixer: options},
            )
        )

    return build


def _llama(vocab_size: int, sizes: Sizes, free: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=sizes.width,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.heads,
            intermediate_size=2 * free,
            tie_word_embeddings=True,
        )
    )


def _mamba2(vocab_size: int, sizes: Sizes, free: int) -> Any:
    from transformers import Mamba2Config, Mamba2ForCausalLM

    width = 2 * free
    return Mamba2ForCausalLM(
        Mamba2Config(
            vocab_size=vocab_size,
            hidden_size=width,
            num_hidden_layers=sizes.layers,
            num_heads=width // 2,
            head_dim=4,
            state_size=16,
            n_groups=1,
            chunk_size=sizes.chunk_size,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


# Every builder is called with the vocabulary, the sizes, and a free number that its parameters grow with.
SMALL_MODELS: dict[str, Build] = {
    "hope": _hope("self_modifying"),
    "hope_attention": _hope("attention"),
    "llama": _llama,
    "titans": _hope("titans"),
    "deltanet": _hope("delta"),
    "gated_delta": _hope("gated_delta"),
    "mamba2": _mamba2,
}


def make_small_model(name: str, *, vocab_size: int, sizes: Sizes, seed: int) -> Any:
    """A new model of that name with the number of parameters nearest to that of Hope.

    Args:
        name: of SMALL_MODELS.
        vocab_size: of the task.
        sizes: shared by all models.
        seed: of the initial weights.

    Returns:
        a causal language model of transformers.

    Raises:
        UnknownNameError: no such model.
        InputError: no size of this model comes within 5 percent of Hope's.
    """
    if name not in SMALL_MODELS:
        raise UnknownNameError("small model", name, SMALL_MODELS)
    hope_free = round(4 * sizes.width / 3)  # levels of 8/3 D together
    wanted = _count("hope", vocab_size, sizes, hope_free)
    free = hope_free if name == "hope" else _nearest(name, vocab_size, sizes, wanted)
    got = _count(name, vocab_size, sizes, free)
    if abs(got - wanted) > NEAREST * wanted:
        raise InputError(f"{name}: its nearest size has {got} parameters, expected {wanted} as Hope: other sizes?")
    torch.manual_seed(seed)
    return SMALL_MODELS[name](vocab_size, sizes, free)


def _count(name: str, vocab_size: int, sizes: Sizes, free: int) -> int:
    with torch.device("meta"):
        model = SMALL_MODELS[name](vocab_size, sizes, free)
    return sum(parameter.numel() for parameter in model.parameters())


def _nearest(name: str, vocab_size: int, sizes: Sizes, wanted: int) -> int:
    """The free number whose count is nearest, by halving."""
    low, high = 1, 8 * sizes.width
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if _count(name, vocab_size, sizes, middle) < wanted else (low, middle)
    return min((low, max(1, low - 1)), key=lambda free: abs(_count(name, vocab_size, sizes, free) - wanted))
