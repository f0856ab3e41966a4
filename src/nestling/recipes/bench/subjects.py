"""What is timed: blocks of equal parameters around our memories and around attention, and peers as they are."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestling.errors import ResourceError
from nestling.layers import SelfModifyingTitans
from nestling.memory import DeepMemory, MatrixMemory

HEAD_DIM = 64
CHUNK_SIZE = 64


class CachedAttention(nn.Module):
    """Causal SDPA with a key-value cache as state: the baseline."""

    def __init__(self, *, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.pairs = nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Without a state causal attention; with one, a token that sees the whole preallocated cache."""
        query, key, value = self.pairs(x).view(*x.shape[:2], 3, self.num_heads, -1).transpose(1, 3).unbind(2)
        if state is not None:
            keys, values = state
            keys[:, :, -1:], values[:, :, -1:] = key, value
            key, value = keys, values
        y = F.scaled_dot_product_attention(query, key, value, is_causal=state is None)
        return self.output(y.transpose(1, 2).flatten(2)), state

    def cache(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        """A full cache of `length` tokens."""
        width = self.output.in_features // self.num_heads
        shape = (batch, self.num_heads, length, width)
        generator = torch.Generator().manual_seed(0)
        return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


class Block(nn.Module):
    """x + mixer(norm x), then x + MLP(norm x)."""

    def __init__(self, mixer: nn.Module, *, dim: int, num_parameters: int) -> None:
        super().__init__()
        self.mixer = mixer
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        spent = sum(parameter.numel() for parameter in self.parameters()) + dim
        hidden = (num_parameters - spent) // (2 * dim + 1)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """y and the mixer's state."""
        mixed, state = self.mixer(self.norms[0](x), state)
        x = x + mixed
        return x + self.mlp(self.norms[1](x)), state


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something to time.

    make:     width -> module with forward(x, state) -> (y, state).
    baseline: the subject whose times ours are divided into.
    package:  distribution that must be installed, or "".
    decodes:  whether one token at a time is timed too.
    trains:   whether the backward pass is timed.
    largest:  B * T * D above which it is left out, for what is slower than everything else by far; None is no bound.
    """

    make: Callable[[int], nn.Module]
    baseline: str
    package: str = ""
    decodes: bool = True
    trains: bool = True
    largest: int | None = None


def _parameters(dim: int) -> int:
    """Parameters of the attention block with an MLP of 4 * dim: the budget of every block."""
    return 12 * dim * dim + 9 * dim


def _attention_block(dim: int) -> nn.Module:
    mixer = CachedAttention(dim=dim, num_heads=dim // HEAD_DIM)
    return Block(mixer, dim=dim, num_parameters=_parameters(dim))


def _matrix_block(rule: str, dim: int) -> nn.Module:
    mixer = MatrixMemory(rule, dim=dim, num_heads=dim // HEAD_DIM, chunk_size=CHUNK_SIZE)
    return Block(mixer, dim=dim, num_parameters=_parameters(dim))


def _self_modifying_block(kind: str, dim: int, *, hidden: int | None = None) -> nn.Module:
    mixer = SelfModifyingTitans(dim=dim, num_heads=dim // HEAD_DIM, kind=kind, hidden=hidden, chunk_size=CHUNK_SIZE)
    return Block(mixer, dim=dim, num_parameters=_parameters(dim))


def _deep(dim: int) -> nn.Module:
    return DeepMemory("momentum", dim=dim, num_heads=1, hidden=4 * dim, chunk_size=CHUNK_SIZE)


def _titans_pytorch(dim: int) -> nn.Module:
    from titans_pytorch import NeuralMemory  # pyright: ignore[reportMissingImports]

    # Its defaults: one head of width dim, two maps with a hidden width of 4 * dim, momentum: the state of `_deep`.
    return NeuralMemory(dim=dim, chunk_size=CHUNK_SIZE)


def _fla_delta(dim: int) -> nn.Module:
    from fla.ops.delta_rule.naive import delta_rule_chunkwise  # pyright: ignore[reportMissingImports]

    class Reference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pairs = nn.Linear(dim, 3 * dim, bias=False)
            self.rate = nn.Linear(dim, dim // HEAD_DIM)
            self.output = nn.Linear(dim, dim, bias=False)

        def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
            query, key, value = self.pairs(x).unflatten(-1, (3, -1, HEAD_DIM)).transpose(1, 3).unbind(2)
            key = F.normalize(key, dim=-1)
            y, _ = delta_rule_chunkwise(query, key, value, self.rate(x).sigmoid().transpose(1, 2), CHUNK_SIZE)
            return self.output(y.transpose(1, 2).flatten(2)), state

    return Block(Reference(), dim=dim, num_parameters=_parameters(dim))


def _nested_learning(dim: int) -> nn.Module:
    from nested_learning.titan import self_modifying as theirs  # pyright: ignore[reportMissingImports]

    class Updates(nn.Module):
        """Its reading with writes, which no gradient passes; chunks as ours, where its default is 1."""

        def __init__(self) -> None:
            super().__init__()
            config = theirs.SelfModifyingTitansConfig(
                dim=dim, chunk_size_other=CHUNK_SIZE, chunk_size_memory=CHUNK_SIZE
            )
            self.inner = theirs.SelfModifyingTitans(config)

        def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
            return self.inner.forward_with_updates(x, self.inner.init_fast_state() if state is None else state)

    return Updates()


# One head of width 256 and 4096 tokens; and 1024.
LARGE, SMALL = 4096 * 256, 1024 * 256

SUBJECTS: dict[str, Subject] = {
    "sdpa": Subject(make=_attention_block, baseline="sdpa"),
    "delta": Subject(make=partial(_matrix_block, "delta"), baseline="sdpa"),
    "gated_delta": Subject(make=partial(_matrix_block, "gated_delta"), baseline="sdpa"),
    "dgd": Subject(make=partial(_matrix_block, "dgd"), baseline="sdpa"),
    "self_modifying": Subject(make=partial(_self_modifying_block, "matrix"), baseline="sdpa"),
    "self_modifying_mlp": Subject(make=partial(_self_modifying_block, "mlp"), baseline="sdpa", largest=LARGE),
    "self_modifying_mlp_wide": Subject(
        make=partial(_self_modifying_block, "mlp", hidden=2 * HEAD_DIM), baseline="sdpa", largest=LARGE
    ),
    "nested_learning": Subject(
        make=_nested_learning, baseline="sdpa", package="nested_learning", decodes=False, trains=False, largest=SMALL
    ),
    "fla_delta": Subject(make=_fla_delta, baseline="sdpa", package="fla", decodes=False, largest=SMALL),
    "deep_momentum": Subject(make=_deep, baseline="titans_pytorch", largest=LARGE),
    "titans_pytorch": Subject(
        make=_titans_pytorch, baseline="titans_pytorch", package="titans_pytorch", decodes=False, largest=LARGE
    ),
}


def available_subjects() -> list[str]:
    """Subjects whose package is installed, in the table's order."""
    return [name for name, row in SUBJECTS.items() if not row.package or importlib.util.find_spec(row.package)]


def build(name: str, width: int) -> nn.Module:
    """The module of a subject, from seed 0.

    Raises:
        ResourceError: its package is not installed.
    """
    torch.manual_seed(0)
    row = SUBJECTS[name]
    if row.package and not importlib.util.find_spec(row.package):
        raise ResourceError(f"{name} needs the package {row.package}: install it, or leave this subject out")
    return row.make(width)
