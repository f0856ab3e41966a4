"""What was learned from running text: one context per kind of text, each with levels of its own."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nestling.memory.key_gate import KeySums
from nestling.memory.token_memory import TokenMemory

__all__ = ["Context", "Delta", "ReadState", "rounded"]


@dataclass(frozen=True)
class Delta:
    """The change of one linear map, y = (W + B A) x. Args: a: [R, I].   b: [O, R], zero in the beginning."""

    a: Tensor
    b: Tensor

    @classmethod
    def fresh(cls, num_in: int, num_out: int, rank: int, *, generator: torch.Generator) -> Delta:
        """A change of nothing: A random, B zero."""
        a = torch.randn(rank, num_in, generator=generator) / math.sqrt(num_in)
        return cls(a.half().float(), torch.zeros(num_out, rank))

    def __call__(self, x: Tensor) -> Tensor:
        """B A x of x [..., I]."""
        a, b = self.a.to(x.device, x.dtype), self.b.to(x.device, x.dtype)
        return (x @ a.T) @ b.T


@dataclass(frozen=True)
class Context:
    """Levels of one kind of text; whatever is read elsewhere leaves them alone.

    Args:
        id: of the context.   keys: sums by which it is known again.   deltas: of the maps of the model's MLP blocks,
            by name.   memory: which token followed which state.   share: of the memory in an answer, in (0, 1).
        num_tokens: read into it.   readings: ids of the readings that fed it.
    """

    id: str
    keys: KeySums
    deltas: dict[str, Delta]
    memory: TokenMemory
    share: float
    num_tokens: int = 0
    readings: tuple[str, ...] = ()

    def hash(self) -> str:
        """SHA-256 of what it has learned."""
        digest = hashlib.sha256(f"{self.id} {self.share!r} {self.num_tokens} {self.readings}".encode())
        for tensor in (self.keys.total, self.keys.second, *_tensors(self.deltas)):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest() + self.memory.hash()

    def num_bytes(self) -> int:
        """As it is saved."""
        sums = 4 * (self.keys.total.numel() + self.keys.second.numel())
        return sums + sum(2 * each.numel() for each in _tensors(self.deltas)) + self.memory.num_bytes()


@dataclass(frozen=True)
class ReadState:
    """All contexts, in the order in which they began, and what is no context (`background`); it is not learned.

    It never changes; a change is a new state.
    """

    contexts: tuple[Context, ...] = field(default=())
    background: tuple[KeySums, ...] = field(default=())

    def hash(self) -> str:
        """SHA-256 of everything read; empty when nothing was."""
        if not self.contexts:
            return ""
        return hashlib.sha256("".join(sorted(each.hash() for each in self.contexts)).encode()).hexdigest()

    def with_context(self, changed: Context) -> ReadState:
        """The same with one context put in the place of the one of its id, or behind the others."""
        if all(each.id != changed.id for each in self.contexts):
            return replace(self, contexts=(*self.contexts, changed))
        return replace(self, contexts=tuple(changed if each.id == changed.id else each for each in self.contexts))

    def without(self, reading: str) -> ReadState:
        """The same without the contexts that a reading fed."""
        return replace(self, contexts=tuple(each for each in self.contexts if reading not in each.readings))


def rounded(context: Context) -> Context:
    """Rounded to what is saved, so that a memory that was saved and loaded is the same one."""
    deltas = {name: Delta(each.a.half().float(), each.b.half().float()) for name, each in context.deltas.items()}
    return replace(context, deltas=deltas)


def _tensors(deltas: dict[str, Delta]) -> list[Tensor]:
    return [part for name in sorted(deltas) for part in (deltas[name].a, deltas[name].b)]
