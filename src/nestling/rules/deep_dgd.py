"""Delta Gradient Descent on a deep memory: every linear map erases along its own input.

NL leaves open how DGD acts on a memory of two layers. Here each map is a memory of its own (NL eq. 8, 29-31): its key
is the input it saw, its value the negative local surprise. The erase uses k for the first map, sigma(W_1 k) for the
next.
"""

from __future__ import annotations

from torch import Tensor

from nestling.rules.deep import DEFAULT_ACTIVATION, Weights, check_deep, factors
from nestling.rules.dgd import implicit_rate
from nestling.rules.losses import L2, Loss
from nestling.rules.matrix import apply, outer, spread

__all__ = ["step_explicit", "step_implicit"]


def step_explicit(
    state: Weights,
    key: Tensor,
    value: Tensor,
    *,
    eta: Tensor,
    alpha: Tensor,
    loss: Loss = L2,
    activation: str = DEFAULT_ACTIVATION,
) -> Weights:
    """Write one key-value pair with explicit DGD on every layer.

    objective  L(W) = loss(M(k), v), and 1/2 |W_l x_l|^2 for the erase, x_l the input of map l
    update     W_l <- W_l (alpha I - eta x_l x_l^T) - eta grad_l L(W)

    Source: NL eq. 88, 92-93, per linear map. The erase alone needs
    eta |x_l|^2 <= 1 + alpha, and hidden inputs are not normalised.

    Args:
        state: L weights, [B, H, F, K], ..., [B, H, K, F], before the write.
        key: [B, H, K].
        value: [B, H, K].
        eta: [B, H] >= 0, inner learning rate.
        alpha: [B, H] in [0, 1], retention.
        loss: of `nestling.rules.losses`.
        activation: silu, gelu, relu or tanh.

    Returns:
        the new weights; the input is unchanged.

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    check_deep(state, key=key, value=value, eta=eta, alpha=alpha)
    parts = factors(state, key, value, loss=loss, activation=activation)
    updated = []
    for weight, seen, surprise in zip(state, *parts):
        erased = spread(alpha) * weight - spread(eta) * outer(apply(weight, seen), seen)
        updated.append(erased - spread(eta) * outer(surprise, seen))
    return tuple(updated)


def step_implicit(
    state: Weights,
    key: Tensor,
    value: Tensor,
    *,
    eta: Tensor,
    alpha: Tensor,
    loss: Loss = L2,
    activation: str = DEFAULT_ACTIVATION,
) -> Weights:
    """Write one key-value pair with implicit DGD on every layer.

    objective  l(W_l) = 1/2 |W_l x_l - u_l|^2 + 1/(2 eta) |W_l - alpha W_l,t|^2,   u_l = -surprise_l at alpha W_t
    solution   W_l <- alpha W_l (I - eta'_l x_l x_l^T) + eta'_l u_l x_l^T,   eta'_l = eta / (1 + eta |x_l|^2)

    Source: NL eq. 54-57, 112-121, per linear map. The erase is a contraction for every eta and every |x_l|.

    Args:
        state: L weights, [B, H, F, K], ..., [B, H, K, F], before the write.
        key: [B, H, K].
        value: [B, H, K].
        eta: [B, H] >= 0, inner learning rate.
        alpha: [B, H] in [0, 1], retention.
        loss: of `nestling.rules.losses`.
        activation: silu, gelu, relu or tanh.

    Returns:
        the new weights; the input is unchanged.

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    check_deep(state, key=key, value=value, eta=eta, alpha=alpha)
    decayed = tuple(spread(alpha) * weight for weight in state)
    parts = factors(decayed, key, value, loss=loss, activation=activation)
    updated = []
    for weight, seen, surprise in zip(decayed, *parts):
        rate = spread(implicit_rate(seen, eta=eta))
        updated.append(weight - rate * outer(apply(weight, seen), seen) - rate * outer(surprise, seen))
    return tuple(updated)
