"""Gated delta rule: Gated DeltaNet, which decays first and corrects the decayed memory."""

from __future__ import annotations

from torch import Tensor

from nestling.rules import delta
from nestling.rules.delta import gradient, objective
from nestling.rules.matrix import initial, read, spread
from nestling.rules.rule import Rule
from nestling.shapes import check_write

__all__ = ["RULE", "gradient", "objective", "read", "step"]


def step(state: Tensor, key: Tensor, value: Tensor, *, eta: Tensor, alpha: Tensor) -> Tensor:
    """Write one key-value pair: decay first, then correct what the decayed memory answers.

    objective  L(M) = 1/2 |M k - v|^2, taken at alpha M
    update     M <- alpha M (I - eta k k^T) + eta v k^T

    Source: Gated DeltaNet (arXiv 2412.06464) eq. 10; compare NL eq. 65.

    Args:
        state: [B, H, V, K] the memory before the write.
        key: [B, H, K].
        value: [B, H, V].
        eta: [B, H] >= 0, inner learning rate (beta there).
        alpha: [B, H] in [0, 1], retention.

    Returns:
        the new state; the input is unchanged.

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    check_write(state, key, value, eta=eta, alpha=alpha)
    decayed = spread(alpha) * state
    return decayed - spread(eta) * delta.gradient(decayed, key, value)


RULE = Rule(
    name="gated_delta",
    title="Gated delta",
    objective_text="L(M) = 1/2 |M k - v|^2, taken at alpha M",
    update_text="M <- alpha M (I - eta k k^T) + eta v k^T",
    equations="NL 65; Gated DeltaNet 10",
    model="Gated DeltaNet",
    file="gated_delta.py",
    state_kind="matrix",
    objective=objective,
    gradient=gradient,
    step=step,
    initial=initial,
    write=step,
    read=read,
    fast_twin="nestling.ops.erase_write.erase_write",
)
