"""Keys, queries and values of a chunk: through the short convolution, keys and queries to length 1, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nestling.memory.short_convolution import convolve_forward
from nestling.ops.unit_vectors import SMALLEST

__all__ = ["Order", "grad_vectors", "make_vectors"]


class Order(NamedTuple):
    """Where keys, queries and values stand in a stack of them, 0 to 2."""

    key: int
    query: int
    value: int


def make_vectors(
    key: Tensor, query: Tensor, value: Tensor, tail: Tensor, taps: Tensor, order: Order
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Convolve and scale.

    Args:
        key, query, value: before the convolution, [R, C, K].
        tail: [R, W - 1, 3 K], what the convolution saw before: keys, queries, values.
        taps: [R, W, 3 K].
        order: of the stack.

    Returns:
        all that the convolution sees [R, W - 1 + C, 3 K]; keys and queries of length 1 and values behind it, as a stack
        [R, 3 C, K]; lengths of keys and of queries before, [R, C, 1].
    """
    (rows, length, width), before = query.shape, tail.shape[1]
    seen = query.new_empty(rows, before + length, 3 * width)
    seen[:, :before] = tail
    for i, part in enumerate((key, query, value)):
        seen[:, before:, i * width : (i + 1) * width] = part
    key, query, value = convolve_forward(seen, taps).split(width, dim=-1)
    stack = query.new_empty(rows, 3 * length, width)
    parts = stack.split(length, dim=1)
    sizes = _length(key), _length(query)
    torch.div(key, sizes[0], out=parts[order.key])
    torch.div(query, sizes[1], out=parts[order.query])
    parts[order.value].copy_(value)
    return seen, stack, sizes


def grad_vectors(grad: Tensor, stack: Tensor, sizes: Sequence[Tensor], order: Order) -> Tensor:
    """Of what came out of the convolution [R, C, 3 K], from that of the stack [R, 3 C, K], which is overwritten."""
    (rows, _, width), length = stack.shape, sizes[0].shape[1]
    made = stack.new_empty(rows, length, 3 * width)
    grads, units, found = grad.split(length, dim=1), stack.split(length, dim=1), made.split(width, dim=-1)
    for i, (place, size) in enumerate(zip((order.key, order.query), sizes)):
        unit = units[place]
        along = (grads[place] * unit).sum(-1, keepdim=True)
        torch.div(grads[place].addcmul_(unit, along, value=-1), size, out=found[i])
    found[2].copy_(grads[order.value])
    return made


def _length(vector: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vector, dim=-1, keepdim=True).clamp_(min=SMALLEST)
