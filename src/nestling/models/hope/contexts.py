"""Where contexts begin inside a batch: after left padding, and at the documents of a packed row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nestling.errors import InputError, ShapeError
from nestling.memory.base import Memory
from nestling.memory.state import State

__all__ = ["Starts", "context_starts", "ends_in_padding", "run_in_contexts"]

Starts = list[tuple[int, Tensor]]


def context_starts(mask: Tensor | None, position_ids: Tensor | None, *, batch: int, length: int, seen: int) -> Starts:
    """(token of this call, [B] rows that begin a context there), in order.

    Padding stands on the left: what a memory has written of it is discarded where the text begins. Position 0 begins
    a context too, as packed documents have it.

    Args:
        mask: [B, seen + T], 1 for text and 0 for padding; None is all text.
        position_ids: [B, T] or [1, T]; None goes on counting.
        batch, length: B and T of this call.
        seen: tokens before this call.

    Raises:
        ShapeError: a mask of another shape.
        InputError: text after padding after text.
    """
    starts = torch.zeros(batch, length, dtype=torch.bool)
    text = torch.ones(batch, length, dtype=torch.bool)
    if mask is not None:
        if mask.shape != (batch, seen + length):
            raise ShapeError(
                f"attention_mask: expected [{batch}, {seen + length}] for {seen} tokens in the cache and {length} new "
                f"ones, got {list(mask.shape)}"
            )
        known = mask.to("cpu").bool()
        before = torch.cat([torch.zeros(batch, 1, dtype=torch.bool), known[:, :-1]], dim=1)
        begins = known & ~before
        if (begins.sum(1) > 1).any():
            raise InputError("attention_mask: padding inside or behind a text that goes on; put it on the left")
        starts |= begins[:, seen:]
        text = known[:, seen:]
    if position_ids is not None:
        starts |= (position_ids.to("cpu") == 0).expand(batch, length) & text
    if seen == 0:
        starts[:, :1] = False
    return [(int(place), starts[:, place]) for place in starts.any(0).nonzero().flatten()]


def ends_in_padding(mask: Tensor | None) -> bool:
    """Whether the last token of some row is padding."""
    return mask is not None and mask.shape[1] > 0 and not bool(mask[:, -1].all())


def run_in_contexts(memory: Memory[Any], x: Tensor, state: State | None, starts: Starts) -> tuple[Tensor, State]:
    """`memory(x, state)`, beginning anew where contexts start."""
    if not starts:
        return memory(x, state)
    pieces, done = [], 0
    for place, rows in starts:
        if place > done:
            y, state = memory(x[:, done:place], state)
            pieces.append(y)
        assert state is not None
        state = memory.reset(state, rows)
        done = place
    y, after = memory(x[:, done:], state)
    return torch.cat([*pieces, y], dim=1), after
