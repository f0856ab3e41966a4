"""L_p rule: regression with any power p of the error (Moneta)."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from nestling.errors import InputError
from nestling.rules.matrix import apply, initial, outer, read, spread
from nestling.rules.rule import Rule
from nestling.shapes import check_write

__all__ = ["RULE", "gradient", "loss", "objective", "read", "step", "surprise"]

DEFAULT_P = 3.0


def loss(output: Tensor, value: Tensor, *, p: float = DEFAULT_P) -> Tensor:
    """Power of the error: sum_j |y_j - v_j|^p, [..., V] and [..., V] to [...]."""
    return (output - value).abs().pow(p).sum(-1)


def surprise(output: Tensor, value: Tensor, *, p: float = DEFAULT_P) -> Tensor:
    """Derivative of `loss` by the output: dL/dy_j = p |y_j - v_j|^(p-1) sign(y_j - v_j)."""
    error = output - value
    return p * error.abs().pow(p - 1) * error.sign()


def objective(state: Tensor, key: Tensor, value: Tensor, *, p: float = DEFAULT_P) -> Tensor:
    """Inner objective of the L_p rule.

    L(M) = |M k - v|_p^p

    Source: NL eq. 59; Miras (arXiv 2504.13173), the inner loss of Moneta.

    Args:
        state: [B, H, V, K].
        key: [B, H, K].
        value: [B, H, V].
        p: >= 1. 1 is the absolute error, 2 twice the delta rule's objective.

    Returns:
        one number per row and head, [B, H].

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
        InputError: p below 1.
    """
    _check(p)
    check_write(state, key, value)
    return loss(apply(state, key), value, p=p)


def gradient(state: Tensor, key: Tensor, value: Tensor, *, p: float = DEFAULT_P) -> Tensor:
    """Gradient of `objective` by the state, [B, H, V, K].

    grad L(M) = p (|M k - v|^(p-1) * sign(M k - v)) k^T

    Source: Miras. At p = 1 an error of exactly 0 has subgradient 0.
    """
    _check(p)
    return outer(surprise(apply(state, key), value, p=p), key)


def step(state: Tensor, key: Tensor, value: Tensor, *, eta: Tensor, alpha: Tensor, p: float = DEFAULT_P) -> Tensor:
    """Write one key-value pair with one gradient step on the L_p error.

    objective  L(M) = |M k - v|_p^p
    update     M <- alpha M - eta p (|M k - v|^(p-1) * sign(M k - v)) k^T

    Source: NL eq. 59; Miras, the inner loss of Moneta. p = 2 is the delta rule with 2 eta.

    Args:
        state: [B, H, V, K] the memory before the write.
        key: [B, H, K].
        value: [B, H, V].
        eta: [B, H] >= 0, inner learning rate.
        alpha: [B, H] in [0, 1], retention.
        p: >= 1.

    Returns:
        the new state; the input is unchanged.

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
        InputError: p below 1.
    """
    check_write(state, key, value, eta=eta, alpha=alpha)
    return spread(alpha) * state - spread(eta) * gradient(state, key, value, p=p)


def with_power(p: float) -> partial[Tensor]:
    """`gradient` with its power fixed, for rules that wrap a gradient (momentum, DGD)."""
    _check(p)
    return partial(gradient, p=p)


def _check(p: float) -> None:
    if not p >= 1:
        raise InputError(f"p: expected a number >= 1, got {p}: below 1 the objective is not convex")


RULE = Rule(
    name="lp",
    title="L_p",
    objective_text="L(M) = |M k - v|_p^p",
    update_text="M <- alpha M - eta p (|M k - v|^(p-1) * sign(M k - v)) k^T",
    equations="NL 59; Miras",
    model="inner loss of Moneta (p = 3 unless given)",
    file="lp.py",
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
