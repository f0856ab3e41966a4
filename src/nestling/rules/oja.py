"""Oja's rule: Hebbian learning that keeps itself bounded (OjaNet)."""

from __future__ import annotations

from torch import Tensor

from nestling.rules.matrix import apply, initial, outer, read, spread
from nestling.rules.rule import Rule
from nestling.shapes import check_write

__all__ = ["RULE", "gradient", "objective", "read", "step"]


def objective(state: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Inner objective of Oja's rule.

    L(M) = -<M k, v> + 1/2 |M^T v|^2

    Source: NL eq. 66.

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
    similarity = (apply(state, key) * value).sum(-1)
    return -similarity + 0.5 * apply(state.mT, value).square().sum(-1)


def gradient(state: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Gradient of `objective` by the state, [B, H, V, K].

    grad L(M) = -v (k - M^T v)^T

    Source: NL eq. 66-67.
    """
    return -outer(value, key - apply(state.mT, value))


def step(state: Tensor, key: Tensor, value: Tensor, *, eta: Tensor, alpha: Tensor) -> Tensor:
    """Write one key-value pair with Oja's rule.

    objective  L(M) = -<M k, v> + 1/2 |M^T v|^2
    update     M <- alpha M + eta v (k - M^T v)^T

    Source: NL eq. 66-67 (OjaNet). Along v the old content shrinks by alpha - eta |v|^2: stable for
    eta |v|^2 <= 1 + alpha.

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
    return spread(alpha) * state + spread(eta) * outer(value, key - apply(state.mT, value))


RULE = Rule(
    name="oja",
    title="Oja",
    objective_text="L(M) = -<M k, v> + 1/2 |M^T v|^2",
    update_text="M <- alpha M + eta v (k - M^T v)^T",
    equations="NL 66, 67",
    model="OjaNet",
    file="oja.py",
    state_kind="matrix",
    objective=objective,
    gradient=gradient,
    step=step,
    initial=initial,
    write=step,
    read=read,
    fast_twin="nestling.ops.erase_value.erase_value",
)
