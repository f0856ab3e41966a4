"""The rows of the deep memories in the table of rules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nestling.errors import ShapeError
from nestling.rules import deep, deep_dgd
from nestling.rules.rule import Rule

__all__ = ["DEEP", "DEEP_DGD", "DEEP_MOMENTUM"]

DEFAULT_EXPANSION = 2
DEFAULT_MOMENTUM = 0.5


def initial(
    batch: int, heads: int, value_width: int, key_width: int, *, dtype: torch.dtype = torch.float32
) -> deep.Weights:
    """Two layers, hidden width twice the key width, the same random first layer at every call; answers its input."""
    if value_width != key_width:
        raise ShapeError(
            f"value_width: expected {key_width}, the key width, got {value_width}: "
            "a residual memory adds its input to its answer; project one of them"
        )
    generator = torch.Generator().manual_seed(0)
    hidden = DEFAULT_EXPANSION * key_width
    return deep.initial(batch, heads, key_width, hidden=hidden, generator=generator, dtype=dtype)


def initial_momentum(
    batch: int, heads: int, value_width: int, key_width: int, *, dtype: torch.dtype = torch.float32
) -> deep.Accumulated:
    """`initial` without surprise."""
    memory = initial(batch, heads, value_width, key_width, dtype=dtype)
    return deep.Accumulated(memory=memory, surprise=tuple(torch.zeros_like(weight) for weight in memory))


def write_momentum(
    state: deep.Accumulated, key: Tensor, value: Tensor, *, eta: Tensor, alpha: Tensor
) -> deep.Accumulated:
    """One `deep.step_momentum` with momentum 0.5 for every row and head."""
    momentum = torch.full_like(eta, DEFAULT_MOMENTUM)
    return deep.step_momentum(state, key, value, eta=eta, alpha=alpha, momentum=momentum)


def read_momentum(state: deep.Accumulated, query: Tensor) -> Tensor:
    """Ask the memory; the surprise is not read."""
    return deep.read(state.memory, query)


def _row(**fields: Any) -> Rule:
    twin = "nestling.ops.anchored.anchored"
    return Rule(state_kind="MLP", objective=deep.objective, fast_twin=twin, twin_is_exact=False, **fields)


DEEP = _row(
    name="deep",
    title="Gradient step on an MLP",
    objective_text="L(W) = loss(M(k), v), M(x) = x + W_L sigma( ... sigma(W_1 x)), any loss of `losses.py`",
    update_text="W_l <- alpha W_l - eta grad_l L(W)",
    equations="NL 89, 91; TTT 1",
    model="TTT-MLP",
    file="deep.py",
    gradient=deep.gradient,
    step=deep.step,
    initial=initial,
    write=deep.step,
    read=deep.read,
)

DEEP_MOMENTUM = _row(
    name="deep_momentum",
    title="Momentum on an MLP",
    objective_text="L(W) = loss(M(k), v)",
    update_text="S_l <- momentum S_l - eta grad_l L(W); W_l <- alpha W_l + S_l",
    equations="Titans 13, 14",
    model="Titans' neural memory (momentum 0.5 unless given)",
    file="deep.py",
    gradient=None,
    step=deep.step_momentum,
    initial=initial_momentum,
    write=write_momentum,
    read=read_momentum,
)

DEEP_DGD = _row(
    name="deep_dgd",
    title="Delta Gradient Descent on an MLP",
    objective_text="L(W) = loss(M(k), v); per linear map l with its own input x_l: 1/2 |W_l x_l|^2 for the erase",
    update_text="W_l <- W_l (alpha I - eta x_l x_l^T) - eta grad_l L(W); implicit form in the same file",
    equations="NL 88-93",
    model="self-modifying Titans, Hope, with deep memories",
    file="deep_dgd.py",
    gradient=None,
    step=deep_dgd.step_explicit,
    initial=initial,
    write=deep_dgd.step_explicit,
    read=deep.read,
)
