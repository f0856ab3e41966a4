"""Huber rule: regression that limits what one outlier can write (Yaad)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from nestling.errors import InputError
from nestling.rules.matrix import apply, initial, outer, read, spread
from nestling.rules.rule import Rule
from nestling.shapes import check_write

__all__ = ["RULE", "gradient", "loss", "objective", "read", "step", "surprise"]

DEFAULT_THRESHOLD = 1.0


def loss(output: Tensor, value: Tensor, *, threshold: float = DEFAULT_THRESHOLD) -> Tensor:
    """Huber error, summed over coordinates, [..., V] and [..., V] to [...]; equation in `objective`."""
    size = (output - value).abs()
    near = 0.5 * size.square()
    far = threshold * (size - 0.5 * threshold)
    return torch.where(size <= threshold, near, far).sum(-1)


def surprise(output: Tensor, value: Tensor, *, threshold: float = DEFAULT_THRESHOLD) -> Tensor:
    """Derivative of `loss` by the output: dL/dy_j = clip(y_j - v_j, -threshold, threshold)."""
    return (output - value).clamp(-threshold, threshold)


def objective(state: Tensor, key: Tensor, value: Tensor, *, threshold: float = DEFAULT_THRESHOLD) -> Tensor:
    """Inner objective of the Huber rule.

    L(M) = sum_j h((M k - v)_j),   h(r) = r^2 / 2               if |r| <= threshold
                                   h(r) = threshold |r| - threshold^2 / 2   otherwise

    Source: NL eq. 59; Miras (arXiv 2504.13173), the inner loss of Yaad, coordinate by coordinate.

    Args:
        state: [B, H, V, K].
        key: [B, H, K].
        value: [B, H, V].
        threshold: > 0, in units of the value; where the square turns into the absolute error.

    Returns:
        one number per row and head, [B, H].

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
        InputError: threshold not positive.
    """
    _check(threshold)
    check_write(state, key, value)
    return loss(apply(state, key), value, threshold=threshold)


def gradient(state: Tensor, key: Tensor, value: Tensor, *, threshold: float = DEFAULT_THRESHOLD) -> Tensor:
    """Gradient of `objective` by the state, [B, H, V, K].

    grad L(M) = clip(M k - v, -threshold, threshold) k^T

    Source: Miras.
    """
    _check(threshold)
    return outer(surprise(apply(state, key), value, threshold=threshold), key)


def step(
    state: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    eta: Tensor,
    alpha: Tensor,
    threshold: float = DEFAULT_THRESHOLD,
) -> Tensor:
    """Write one key-value pair with one gradient step on the Huber error.

    objective  L(M) = sum_j h((M k - v)_j), see `objective`
    update     M <- alpha M - eta clip(M k - v, -threshold, threshold) k^T

    Source: NL eq. 59; Miras, the inner loss of Yaad. An infinite threshold is the delta rule.

    Args:
        state: [B, H, V, K] the memory before the write.
        key: [B, H, K].
        value: [B, H, V].
        eta: [B, H] >= 0, inner learning rate.
        alpha: [B, H] in [0, 1], retention.
        threshold: > 0, in units of the value.

    Returns:
        the new state; the input is unchanged.

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
        InputError: threshold not positive.
    """
    check_write(state, key, value, eta=eta, alpha=alpha)
    return spread(alpha) * state - spread(eta) * gradient(state, key, value, threshold=threshold)


def with_threshold(threshold: float) -> partial[Tensor]:
    """`gradient` with its threshold fixed, for rules that wrap a gradient (momentum, DGD)."""
    _check(threshold)
    return partial(gradient, threshold=threshold)


def _check(threshold: float) -> None:
    if not threshold > 0:
        raise InputError(f"threshold: expected a number > 0, got {threshold}")


RULE = Rule(
    name="huber",
    title="Huber",
    objective_text="L(M) = sum_j h((M k - v)_j), h quadratic up to the threshold, then linear",
    update_text="M <- alpha M - eta clip(M k - v, -threshold, threshold) k^T",
    equations="NL 59; Miras",
    model="inner loss of Yaad, coordinate-wise (threshold 1 unless given)",
    file="huber.py",
    state_kind="matrix",
    objective=objective,
    gradient=gradient,
    step=step,
    initial=initial,
    write=step,
    read=read,
    fast_twin="nestling.ops.anchored.anchored",
    twin_is_exact=False,
)
