"""Inner losses of a memory's answer, with their derivative: what a deep memory needs to know of a rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from nestling.errors import InputError
from nestling.rules import delta, hebbian, huber, lp


@dataclass(frozen=True, kw_only=True)
class Loss:
    """An inner loss of an answer y [..., V] and its value v [..., V].

    loss:      (y, v) -> [...], the number that is lowered.
    surprise:  (y, v) -> [..., V], its derivative dL/dy: the local surprise of NL eq. 8.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    surprise: Callable[[Tensor, Tensor], Tensor]


L2 = Loss(loss=delta.loss, surprise=delta.surprise)
DOT_PRODUCT = Loss(loss=hebbian.loss, surprise=hebbian.surprise)


def lp_loss(p: float) -> Loss:
    """|y - v|_p^p for p >= 1."""
    if not p >= 1:
        raise InputError(f"p: expected a number >= 1, got {p}: below 1 the objective is not convex")
    return Loss(loss=partial(lp.loss, p=p), surprise=partial(lp.surprise, p=p))


def huber_loss(threshold: float) -> Loss:
    """Huber error with its threshold > 0 in units of the value."""
    if not threshold > 0:
        raise InputError(f"threshold: expected a number > 0, got {threshold}")
    return Loss(loss=partial(huber.loss, threshold=threshold), surprise=partial(huber.surprise, threshold=threshold))


LOSSES: dict[str, Loss] = {
    "l2": L2,
    "dot_product": DOT_PRODUCT,
    "lp": lp_loss(lp.DEFAULT_P),
    "huber": huber_loss(huber.DEFAULT_THRESHOLD),
}
