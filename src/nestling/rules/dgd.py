"""Delta Gradient Descent: a step whose decay depends on the key, in explicit and in implicit form.

`step` is the implicit form on the L2 objective, with the value as target. `step_explicit` and `step_implicit` put DGD
on the gradient of any rule.
"""

from __future__ import annotations

from torch import Tensor

from nestling.rules.delta import gradient as delta_gradient
from nestling.rules.delta import objective as delta_objective
from nestling.rules.matrix import Gradient, apply, initial, outer, read, spread
from nestling.rules.rule import Rule
from nestling.shapes import check_shape, check_write

__all__ = ["EXPLICIT", "RULE", "implicit_rate", "objective", "read", "step", "step_explicit", "step_implicit"]


def implicit_rate(key: Tensor, *, eta: Tensor) -> Tensor:
    """The inner learning rate of the implicit form: eta' = eta / (1 + eta |k|^2).

    Source: NL eq. 57, 121; any key norm by Sherman-Morrison. eta' |k|^2 < 1 for every eta >= 0.

    Args:
        key: [..., K], any norm.
        eta: [...] >= 0.

    Returns:
        eta' [...].
    """
    return eta / (1 + eta * key.square().sum(-1))


def objective(state: Tensor, key: Tensor, value: Tensor, *, previous: Tensor, eta: Tensor) -> Tensor:
    """Proximal objective that `step` minimises exactly.

    l(M) = 1/2 |M k - v|^2 + 1/(2 eta) |M - M_prev|^2

    Source: NL eq. 56, 113.

    Args:
        state: [B, H, V, K] the memory M to judge.
        key: [B, H, K].
        value: [B, H, V].
        previous: [B, H, V, K] the memory M_prev before the write (after its decay: alpha M_t).
        eta: [B, H] > 0, inner learning rate.

    Returns:
        one number per row and head, [B, H].

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    sizes = check_write(state, key, value, eta=eta)
    check_shape("previous", previous, "BHVK", sizes)
    error = 0.5 * (apply(state, key) - value).square().sum(-1)
    return error + (state - previous).square().sum((-2, -1)) / (2 * eta)


def step(state: Tensor, key: Tensor, value: Tensor, *, eta: Tensor, alpha: Tensor) -> Tensor:
    """Write one key-value pair with implicit Delta Gradient Descent.

    objective  l(M) = 1/2 |M k - v|^2 + 1/(2 eta) |M - alpha M_t|^2
    solution   M <- alpha M (I - eta' k k^T) + eta' v k^T,   eta' = eta / (1 + eta |k|^2)

    Source: NL eq. 56-57, 113-121; any key norm by Sherman-Morrison. Along k the old content shrinks by
    alpha / (1 + eta |k|^2), so no eta can make it diverge.

    Args:
        state: [B, H, V, K] the memory before the write.
        key: [B, H, K], any norm.
        value: [B, H, V].
        eta: [B, H] >= 0, inner learning rate.
        alpha: [B, H] in [0, 1], retention.

    Returns:
        the new state; the input is unchanged.

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    check_write(state, key, value, eta=eta, alpha=alpha)
    decayed = spread(alpha) * state
    rate = spread(implicit_rate(key, eta=eta))
    return decayed - rate * outer(apply(decayed, key), key) + rate * outer(value, key)


def step_implicit(
    state: Tensor, key: Tensor, value: Tensor, *, eta: Tensor, alpha: Tensor, gradient: Gradient = delta_gradient
) -> Tensor:
    """Write one key-value pair with implicit DGD on the gradient of any rule.

    objective  l(M) = 1/2 |M k - u|^2 + 1/(2 eta) |M - alpha M_t|^2,   u = -dL/dy at y = alpha M_t k
    solution   M <- alpha M (I - eta' k k^T) - eta' grad L(alpha M),   eta' = eta / (1 + eta |k|^2)

    Source: NL eq. 54-57, 112-121. With the Hebbian gradient u = v and this is `step`; with the L2 gradient it erases
    twice: along k the old content is multiplied by alpha (1 - eta |k|^2) / (1 + eta |k|^2), always inside (-1, 1].

    Args:
        state: [B, H, V, K] the memory before the write.
        key: [B, H, K], any norm.
        value: [B, H, V].
        eta: [B, H] >= 0, inner learning rate.
        alpha: [B, H] in [0, 1], retention.
        gradient: the rule's gradient, (state, key, value) -> [B, H, V, K].

    Returns:
        the new state; the input is unchanged.

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    check_write(state, key, value, eta=eta, alpha=alpha)
    decayed = spread(alpha) * state
    rate = spread(implicit_rate(key, eta=eta))
    return decayed - rate * outer(apply(decayed, key), key) - rate * gradient(decayed, key, value)


def step_explicit(
    state: Tensor, key: Tensor, value: Tensor, *, eta: Tensor, alpha: Tensor, gradient: Gradient = delta_gradient
) -> Tensor:
    """Write one key-value pair with explicit DGD on the gradient of any rule.

    objective  L(M) of the rule whose gradient is given, and 1/2 |M k|^2 for the erase
    update     M <- M (alpha I - eta k k^T) - eta grad L(M)

    Source: NL eq. 88, 92 (dot product), 93 (L2). With the Hebbian gradient it is the delta rule. With the L2 gradient
    it erases twice, along k by alpha - 2 eta |k|^2, and needs eta |k|^2 <= alpha / 2 to keep the sign.

    Args:
        state: [B, H, V, K] the memory before the write.
        key: [B, H, K].
        value: [B, H, V].
        eta: [B, H] >= 0, inner learning rate.
        alpha: [B, H] in [0, 1], retention.
        gradient: the rule's gradient, (state, key, value) -> [B, H, V, K].

    Returns:
        the new state; the input is unchanged.

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    check_write(state, key, value, eta=eta, alpha=alpha)
    erased = spread(alpha) * state - spread(eta) * outer(apply(state, key), key)
    return erased - spread(eta) * gradient(state, key, value)


RULE = Rule(
    name="dgd",
    title="Delta Gradient Descent, implicit",
    objective_text="l(M) = 1/2 |M k - v|^2 + 1/(2 eta) |M - alpha M_t|^2",
    update_text="M <- alpha M (I - eta' k k^T) + eta' v k^T, eta' = eta / (1 + eta |k|^2)",
    equations="NL 56, 57, 113-121",
    model="Delta Gradient Descent with the value as target; Longhorn",
    file="dgd.py",
    state_kind="matrix",
    objective=objective,
    gradient=None,
    step=step,
    initial=initial,
    write=step,
    read=read,
    fast_twin="nestling.ops.erase_write.erase_write",
)

EXPLICIT = Rule(
    name="dgd_explicit",
    title="Delta Gradient Descent, explicit, on any rule",
    objective_text="L(M) of the rule it stands on (delta unless given), and 1/2 |M k|^2 for the erase",
    update_text="M <- M (alpha I - eta k k^T) - eta grad L(M)",
    equations="NL 88, 92, 93",
    model="self-modifying Titans, Hope",
    file="dgd.py",
    state_kind="matrix",
    objective=delta_objective,
    gradient=None,
    step=step_explicit,
    initial=initial,
    write=step_explicit,
    read=read,
    fast_twin="nestling.ops.erase_write.erase_write",
)
