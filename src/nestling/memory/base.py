"""What every memory module shares: the streaming call, its state, and resetting rows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from nestling.errors import InputError, ShapeError
from nestling.memory.state import State
from nestling.ops.unit_vectors import unit_vectors

StateT = TypeVar("StateT", bound=State)


class Memory(nn.Module, ABC, Generic[StateT]):
    """A sequence mixer that carries a state from call to call.

        y, state = memory(x)            # a new context for every row
        y, state = memory(x, state)     # the same context goes on; any split of the tokens gives the same answers

    y_t depends on tokens up to t of its own row only. Inputs may be float32 or bfloat16; states are float32
    (float64 in a float64 module).

    Args:
        dim: width D of the tokens.
        num_heads: independent memories H.
        head_dim: width of keys and values of one memory; None is dim / num_heads.
    """

    def __init__(self, *, dim: int, num_heads: int, head_dim: int | None) -> None:
        super().__init__()
        if head_dim is None and dim % num_heads:
            raise InputError(f"dim {dim} is not a multiple of num_heads {num_heads}: change one, or give head_dim")
        self.dim, self.num_heads = dim, num_heads
        self.head_dim = dim // num_heads if head_dim is None else head_dim

    @abstractmethod
    def initial_state(self, batch: int) -> StateT:
        """The learned state before the first token, for `batch` rows."""

    @abstractmethod
    def mix(self, x: Tensor, state: StateT) -> tuple[Tensor, StateT]:
        """`forward` with a state."""

    def forward(self, x: Tensor, state: StateT | None = None) -> tuple[Tensor, StateT]:
        """Write and read T tokens.

        Args:
            x: [B, T, D].
            state: as returned by the last call; None starts a new context in every row.

        Returns:
            y [B, T, D] in the type of x, and the state after the last token; the given state is unchanged.

        Raises:
            ShapeError: x is not [B, T, D], or the state has another number of rows.
        """
        if x.ndim != 3 or x.shape[-1] != self.dim:
            raise ShapeError(f"x: expected [B, T, D] with D = {self.dim}, got {list(x.shape)}")
        if state is None:
            state = self.initial_state(len(x))
        if state.num_rows != len(x):
            raise ShapeError(
                f"state: expected {len(x)} rows as in x, got {state.num_rows}: one state row per batch row"
            )
        return self.mix(x, state)

    def reset(self, state: StateT, rows: Tensor | Sequence[int]) -> StateT:
        """The state with some rows at the start of a new context; the others and the given state are unchanged.

        Args:
            state: of this memory.
            rows: [B] bool mask, or row numbers.
        """
        batch = state.num_rows
        chosen = torch.as_tensor(rows)
        if chosen.dtype != torch.bool:
            chosen = torch.zeros(batch, dtype=torch.bool).index_fill(0, chosen.long(), True)
        if chosen.shape != (batch,):
            raise ShapeError(f"rows: expected a mask of {batch} rows or row numbers, got shape {list(chosen.shape)}")
        return state.where(chosen, self._fresh_like(state, batch))

    def _fresh_like(self, state: StateT, batch: int) -> StateT:
        """An initial state in the shapes of `state`."""
        del state
        return self.initial_state(batch)


def state_dtype(parameter: Tensor) -> torch.dtype:
    """float64 in a float64 module, else float32."""
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def unit(vector: Tensor) -> Tensor:
    """Vector [..., K] scaled to length 1, in at least float32; 0 stays 0, a length beyond the type's range gives 0."""
    return unit_vectors(vector if vector.dtype == torch.float64 else vector.float())


def retention_bias(num_heads: int, *, spans: tuple[float, float] = (2.0**5, 2.0**12)) -> Tensor:
    """Logits [H] of alpha at the start: 1 - alpha from 1 / spans[0] to 1 / spans[1], as heads should differ.

    Args:
        num_heads: H; one head alone takes the longer span.
        spans: tokens that the fastest and the slowest head remember.
    """
    fastest, slowest = (-math.log2(span) for span in spans)
    lost = torch.logspace(slowest, fastest, num_heads, base=2.0, dtype=torch.float64).flip(0)
    return torch.logit(1 - lost).float()
