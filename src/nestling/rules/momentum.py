"""Momentum on any rule: the surprise of Titans, which carries past gradients on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nestling.rules import delta, matrix
from nestling.rules.delta import gradient as delta_gradient
from nestling.rules.matrix import Gradient, apply, spread
from nestling.rules.rule import Rule
from nestling.shapes import check_shape, check_write

__all__ = ["RULE", "Accumulated", "read", "step"]


DEFAULT_MOMENTUM = 0.5


class Accumulated(NamedTuple):
    """A memory and its surprise accumulator, both [B, H, V, K]."""

    memory: Tensor
    surprise: Tensor


def step(
    state: Accumulated,
    key: Tensor,
    value: Tensor,
    *,
    eta: Tensor,
    alpha: Tensor,
    momentum: Tensor,
    gradient: Gradient = delta_gradient,
) -> Accumulated:
    """Write one key-value pair with momentum on the gradient of any rule.

    objective  L(M) of the rule whose gradient is given
    update     S <- momentum S - eta grad L(M)
               M <- alpha M + S

    Source: Titans (arXiv 2501.00663) eq. 13-14; NL eq. 10-13 for the same rule as an optimizer.
    Symbols: Titans calls eta theta, momentum eta, and 1 - alpha alpha.

    Args:
        state: memory and surprise, each [B, H, V, K], before the write.
        key: [B, H, K].
        value: [B, H, V].
        eta: [B, H] >= 0, inner learning rate.
        alpha: [B, H] in [0, 1], retention.
        momentum: [B, H] in [0, 1), how much of the past surprise is kept. 0 is the plain rule.
        gradient: the rule's gradient, (memory, key, value) -> [B, H, V, K].

    Returns:
        the new memory and surprise; the input is unchanged.

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    sizes = check_write(state.memory, key, value, eta=eta, alpha=alpha, momentum=momentum)
    check_shape("state.surprise", state.surprise, "BHVK", sizes)
    surprise = spread(momentum) * state.surprise - spread(eta) * gradient(state.memory, key, value)
    return Accumulated(memory=spread(alpha) * state.memory + surprise, surprise=surprise)


def read(state: Accumulated, query: Tensor) -> Tensor:
    """Ask the memory: y = M q, [B, H, V]. The surprise is not read."""
    sizes = check_shape("state.memory", state.memory, "BHVK")
    check_shape("query", query, "BHK", sizes)
    return apply(state.memory, query)


def initial(
    batch: int, heads: int, value_width: int, key_width: int, *, dtype: torch.dtype = torch.float32
) -> Accumulated:
    """An empty memory without surprise."""
    empty = matrix.initial(batch, heads, value_width, key_width, dtype=dtype)
    return Accumulated(memory=empty, surprise=empty.clone())


def write(state: Accumulated, key: Tensor, value: Tensor, *, eta: Tensor, alpha: Tensor) -> Accumulated:
    """One `step` on the delta rule with momentum 0.5 for every row and head."""
    momentum = torch.full_like(eta, DEFAULT_MOMENTUM)
    return step(state, key, value, eta=eta, alpha=alpha, momentum=momentum)


RULE = Rule(
    name="momentum",
    title="Momentum on any rule",
    objective_text="L(M) of the rule it stands on (delta unless given)",
    update_text="S <- momentum S - eta grad L(M); M <- alpha M + S",
    equations="Titans 13, 14; NL 10-13",
    model="Titans with a matrix memory (momentum 0.5 unless given)",
    file="momentum.py",
    state_kind="matrix and momentum",
    objective=delta.objective,
    gradient=None,
    step=step,
    initial=initial,
    write=write,
    read=read,
    fast_twin="nestling.ops.anchored.anchored",
)
