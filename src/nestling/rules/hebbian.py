"""Hebbian rule: linear attention, RetNet (constant alpha), gated linear attention (input-dependent alpha)."""

from __future__ import annotations

from torch import Tensor

from nestling.rules.matrix import apply, initial, outer, read, spread
from nestling.rules.rule import Rule
from nestling.shapes import check_write

__all__ = ["RULE", "gradient", "loss", "objective", "read", "step", "surprise"]


def loss(output: Tensor, value: Tensor) -> Tensor:
    """Dot-product similarity, negated: -<y, v>, [..., V] and [..., V] to [...]."""
    return -(output * value).sum(-1)


def surprise(output: Tensor, value: Tensor) -> Tensor:
    """Derivative of `loss` by the output: dL/dy = -v."""
    return -value.expand_as(output)


def objective(state: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Inner objective of the Hebbian rule.

    L(M) = -<M k, v>

    Source: NL eq. 5, 16.

    Args:
        state: [B, H, V, K].
        key: [B, H, K].
        value: [B, H, V].

    Returns:
        one number per row and head, [B, H].

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    check_write(state, key, value)
    return loss(apply(state, key), value)


def gradient(state: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Gradient of `objective` by the state, [B, H, V, K].

    grad L(M) = -v k^T

    Source: NL eq. 16.
    """
    return outer(surprise(apply(state, key), value), key)


def step(state: Tensor, key: Tensor, value: Tensor, *, eta: Tensor, alpha: Tensor) -> Tensor:
    """Write one key-value pair by adding its outer product.

    objective  L(M) = -<M k, v>
    update     M <- alpha M + eta v k^T

    Source: NL eq. 5, 16, 64. alpha = 1 is linear attention, constant alpha RetNet, alpha(x) gated linear attention.

    Args:
        state: [B, H, V, K] the memory before the write.
        key: [B, H, K].
        value: [B, H, V].
        eta: [B, H] >= 0, inner learning rate.
        alpha: [B, H] in [0, 1], retention.

    Returns:
        the new state; the input is unchanged.

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    check_write(state, key, value, eta=eta, alpha=alpha)
    return spread(alpha) * state + spread(eta) * outer(value, key)


RULE = Rule(
    name="hebbian",
    title="Hebbian",
    objective_text="L(M) = -<M k, v>",
    update_text="M <- alpha M + eta v k^T",
    equations="NL 5, 16, 64",
    model="linear attention (alpha = 1), RetNet (constant alpha), gated linear attention (input-dependent alpha)",
    file="hebbian.py",
    state_kind="matrix",
    objective=objective,
    gradient=gradient,
    step=step,
    initial=initial,
    write=step,
    read=read,
    fast_twin="nestling.ops.erase_write.erase_write",
)
