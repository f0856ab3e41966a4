"""Recursive least squares as a memory with rows and heads: `least_squares.step` with its state in one piece."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nestling.rules import least_squares, matrix
from nestling.rules.rule import Rule
from nestling.shapes import check_shape, check_write

__all__ = ["RULE", "Recursive", "initial", "read", "write"]

DEFAULT_RIDGE = 1e-2


class Recursive(NamedTuple):
    """A memory [B, H, V, K] and the inverse covariance of its keys [B, H, K, K]."""

    memory: Tensor
    inverse: Tensor


def initial(
    batch: int,
    heads: int,
    value_width: int,
    key_width: int,
    *,
    ridge: float = DEFAULT_RIDGE,
    dtype: torch.dtype = torch.float32,
) -> Recursive:
    """An empty memory: P = I / ridge, ridge > 0."""
    inverse = torch.eye(key_width, dtype=dtype) / ridge
    return Recursive(
        memory=matrix.initial(batch, heads, value_width, key_width, dtype=dtype),
        inverse=inverse.expand(batch, heads, key_width, key_width).clone(),
    )


def write(state: Recursive, key: Tensor, value: Tensor, *, eta: Tensor, alpha: Tensor) -> Recursive:
    """Write one weighted pair; afterwards the memory is the exact minimiser over the whole past.

    objective  l(M) = sum_i alpha^(t-i) eta_i 1/2 |M k_i - v_i|^2 + alpha^t ridge/2 |M|^2   (constant alpha)
    update     P <- P / alpha;   P <- P - g (P k)^T,   g = eta P k / (1 + eta k^T P k);   M <- M + (v - M k) g^T

    Source: NL eq. 59-60; `least_squares.step`, with forgetting per row and head by decaying P first.

    Args:
        state: memory [B, H, V, K] and inverse [B, H, K, K] before the write.
        key: [B, H, K], any norm.
        value: [B, H, V].
        eta: [B, H] >= 0, weight of this pair; 0 leaves the memory as it is.
        alpha: [B, H] in (0, 1], forgetting factor; 1 keeps everything.

    Returns:
        the new state; the input is unchanged.

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    check_write(state.memory, key, value, eta=eta, alpha=alpha)
    weight = eta.sqrt().unsqueeze(-1)
    decayed = state.inverse / matrix.spread(alpha)
    memory, inverse = least_squares.step(state.memory, decayed, weight * key, weight * value)
    return Recursive(memory=memory, inverse=inverse)


def read(state: Recursive, query: Tensor) -> Tensor:
    """Ask the memory: y = M q, [B, H, V]."""
    sizes = check_shape("state.memory", state.memory, "BHVK")
    check_shape("query", query, "BHK", sizes)
    return matrix.apply(state.memory, query)


RULE = Rule(
    name="least_squares",
    title="Recursive least squares",
    objective_text="l(M) = sum_i lambda^(t-i) 1/2 |M k_i - v_i|^2 + lambda^t ridge/2 |M|^2",
    update_text="P <- (P - P k (lambda + k^T P k)^-1 k^T P) / lambda; M <- M + (v - M k) (P k)^T",
    equations="NL 59, 60",
    model="Mesa layer, analytic continual learning (ridge 0.01 unless given)",
    file="least_squares.py",
    state_kind="matrix and covariance",
    objective=least_squares.objective,
    gradient=None,
    step=least_squares.step,
    initial=initial,
    write=write,
    read=read,
)
