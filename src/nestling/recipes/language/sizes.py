"""Sizes of language models: widths and depths that all models of a size share, and how each size is trained."""

from __future__ import annotations

from dataclasses import dataclass

from nestling.errors import UnknownNameError

__all__ = ["SIZES", "Size", "size_named"]


@dataclass(frozen=True, kw_only=True)
class Size:
    """One size.

    The number of parameters is that of a Llama with these widths and an MLP of 8/3 D; every other model is given as
    many (see `language.fitting`).

    name:        as in commands.
    hidden_size: width D.   num_layers: blocks.   num_heads: heads.
    memory_heads: heads of Hope's self-modifying memories, each as wide as D / num_heads.
    window:      tokens of a sliding window.
    length:      tokens of a training row.   batch_size: rows of an optimizer step.   tokens: of a whole training.
    lr:          peak learning rate of AdamW.
    source:      where widths and training come from.
    """

    name: str
    hidden_size: int
    num_layers: int
    num_heads: int
    memory_heads: int
    window: int
    length: int
    batch_size: int
    tokens: int
    lr: float
    source: str

    @property
    def mlp_width(self) -> int:
        """Llama's width of an MLP: 8/3 D, a multiple of 8."""
        return -(-8 * self.hidden_size // (3 * 8)) * 8


_TITANS = "Titans (arXiv 2501.00663) 5.1: half a million tokens a step, cosine, weight decay 0.1"

_ROWS = (
    Size(
        name="tiny",
        hidden_size=64,
        num_layers=2,
        num_heads=2,
        memory_heads=2,
        window=64,
        length=128,
        batch_size=8,
        tokens=200_000,
        lr=4e-3,
        source="for tests and first tries: minutes on one core",
    ),
    Size(
        name="mini",
        hidden_size=128,
        num_layers=4,
        num_heads=4,
        memory_heads=8,
        window=128,
        length=256,
        batch_size=8,
        tokens=4_000_000,
        lr=3e-3,
        source="for comparisons on a processor: about half an hour on one core",
    ),
    Size(
        name="small",
        hidden_size=256,
        num_layers=8,
        num_heads=4,
        memory_heads=8,
        window=256,
        length=512,
        batch_size=32,
        tokens=100_000_000,
        lr=2e-3,
        source="for one small GPU",
    ),
    Size(
        name="medium",
        hidden_size=512,
        num_layers=12,
        num_heads=8,
        memory_heads=16,
        window=512,
        length=1024,
        batch_size=64,
        tokens=1_000_000_000,
        lr=1e-3,
        source="for one GPU",
    ),
    Size(
        name="125m",
        hidden_size=768,
        num_layers=12,
        num_heads=12,
        memory_heads=24,
        window=1024,
        length=2048,
        batch_size=256,
        tokens=2_500_000_000,
        lr=6e-4,
        source="widths of GPT-3 small; 20 tokens a parameter",
    ),
    Size(
        name="340m",
        hidden_size=1024,
        num_layers=24,
        num_heads=16,
        memory_heads=32,
        window=2048,
        length=4096,
        batch_size=128,
        tokens=15_000_000_000,
        lr=4e-4,
        source=_TITANS,
    ),
    Size(
        name="760m",
        hidden_size=1536,
        num_layers=24,
        num_heads=16,
        memory_heads=32,
        window=2048,
        length=4096,
        batch_size=128,
        tokens=30_000_000_000,
        lr=4e-4,
        source=f"{_TITANS}; 30B tokens as in NL table 1",
    ),
    Size(
        name="1.3b",
        hidden_size=2048,
        num_layers=24,
        num_heads=16,
        memory_heads=32,
        window=2048,
        length=4096,
        batch_size=128,
        tokens=100_000_000_000,
        lr=4e-4,
        source=f"{_TITANS}; 100B tokens as in NL table 1",
    ),
)

SIZES: dict[str, Size] = {row.name: row for row in _ROWS}


def size_named(name: str) -> Size:
    """The size of this name. Raises UnknownNameError with the nearest one."""
    if name not in SIZES:
        raise UnknownNameError("size", name, SIZES)
    return SIZES[name]
