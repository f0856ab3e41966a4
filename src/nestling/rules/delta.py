"""Delta rule: DeltaNet, the L2 regression memory with an explicit gradient step."""

from __future__ import annotations

from torch import Tensor

from nestling.rules.matrix import apply, initial, outer, read, spread
from nestling.rules.rule import Rule
from nestling.shapes import check_write

__all__ = ["RULE", "gradient", "loss", "objective", "read", "step", "surprise"]


def loss(output: Tensor, value: Tensor) -> Tensor:
    """Half the squared error: 1/2 |y - v|^2, [..., V] and [..., V] to [...]."""
    return 0.5 * (output - value).square().sum(-1)


def surprise(output: Tensor, value: Tensor) -> Tensor:
    """Derivative of `loss` by the output: dL/dy = y - v."""
    return output - value


def objective(state: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Inner objective of the delta rule.

    L(M) = 1/2 |M k - v|^2

    Source: NL eq. 65.

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

    grad L(M) = (M k - v) k^T

    Source: NL eq. 65.
    """
    return outer(surprise(apply(state, key), value), key)


def step(state: Tensor, key: Tensor, value: Tensor, *, eta: Tensor, alpha: Tensor) -> Tensor:
    """Write one key-value pair by correcting what the memory answers to the key.

    objective  L(M) = 1/2 |M k - v|^2
    update     M <- M (alpha I - eta k k^T) + eta v k^T

    Source: NL eq. 65 (DeltaNet). Along k the old content shrinks by alpha - eta |k|^2: stable for
    eta |k|^2 <= 1 + alpha.

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
    return spread(alpha) * state - spread(eta) * gradient(state, key, value)


RULE = Rule(
    name="delta",
    title="Delta",
    objective_text="L(M) = 1/2 |M k - v|^2",
    update_text="M <- M (alpha I - eta k k^T) + eta v k^T",
    equations="NL 65",
    model="DeltaNet; TTT with a linear memory",
    file="delta.py",
    state_kind="matrix",
    objective=objective,
    gradient=gradient,
    step=step,
    initial=initial,
    write=step,
    read=read,
    fast_twin="nestling.ops.erase_write.erase_write",
)
