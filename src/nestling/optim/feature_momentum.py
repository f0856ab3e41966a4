"""Momentum of features of the gradient: the memory is written with phi(g) in the place of g."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from nestling.errors import UnknownNameError
from nestling.optim.base import Group, MemoryOptimizer, Range, decay_weights
from nestling.optim.momentum import PRECONDITIONERS, Preconditioner, precondition
from nestling.optim.row import OptimizerRow

__all__ = ["FEATURES", "ROW", "FeatureMomentum"]


def _tanh(grads: list[Tensor]) -> list[Tensor]:
    """tanh(g / rms) rms: linear for usual entries, bounded for outliers."""
    sizes = torch._foreach_norm(grads)
    scales = [size / max(grad.numel(), 1) ** 0.5 for size, grad in zip(sizes, grads)]
    torch._foreach_clamp_min_(scales, torch.finfo(scales[0].dtype).tiny)
    features = torch._foreach_tanh(torch._foreach_div(grads, scales))
    torch._foreach_mul_(features, scales)
    return list(features)


def _root(grads: list[Tensor]) -> list[Tensor]:
    """sign(g) sqrt |g|: between the gradient and its sign."""
    features = torch._foreach_sqrt(torch._foreach_abs(grads))
    torch._foreach_mul_(features, torch._foreach_sign(grads))
    return list(features)


def _cubic(grads: list[Tensor]) -> list[Tensor]:
    """g + g^3: the odd polynomial of degree 3, which favours large entries."""
    return list(torch._foreach_addcmul(grads, grads, torch._foreach_mul(grads, grads)))


FEATURES: dict[str, Callable[[list[Tensor]], list[Tensor]]] = {
    "identity": lambda grads: grads,
    "sign": lambda grads: list(torch._foreach_sign(grads)),
    "root": _root,
    "tanh": _tanh,
    "cubic": _cubic,
}


class FeatureMomentum(MemoryOptimizer):
    """Momentum with a feature map on its keys.

    objective  <m, P phi(g)>, and (1 - alpha)/2 |m|^2 for the retention
    update     m <- alpha m - eta P phi(g)
               W <- W + m

    Source: NL eq. 51. Symbols: alpha is `momentum`, eta `lr`.

    Every phi is odd and keeps signs, so the step stays a descent direction without momentum.

    Args:
        params: parameters or groups.
        lr: eta >= 0; its unit is that of W over phi(g).
        momentum: alpha in [0, 1].
        features: "identity" (then it is `Momentum`), "sign", "root" sign(g) sqrt|g|, "tanh" tanh(g / rms) rms, or
            "cubic" g + g^3.
        preconditioner: "none" or "diagonal" as in `Momentum`, from phi(g).
        beta: in [0, 1), of the preconditioner.
        eps: > 0, of the preconditioner.
        weight_decay: >= 0, decoupled.
    """

    RANGES: ClassVar[dict[str, Range]] = {
        "lr": (0, math.inf),
        "momentum": (0, 1),
        "beta": (0, 1),
        "weight_decay": (0, math.inf),
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        *,
        momentum: float = 0.9,
        features: str = "tanh",
        preconditioner: Preconditioner = "none",
        beta: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if features not in FEATURES:
            raise UnknownNameError("feature map", features, FEATURES)
        if preconditioner not in PRECONDITIONERS:
            raise UnknownNameError("preconditioner", preconditioner, PRECONDITIONERS)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "features": features,
            "preconditioner": preconditioner,
            "beta": beta,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    def _update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        decay_weights(group, params)
        memory = self._buffers(params, "memory")
        values = precondition(self, group, params, FEATURES[group["features"]](grads))
        torch._foreach_mul_(memory, group["momentum"])
        torch._foreach_add_(memory, values, alpha=-float(group["lr"]))
        torch._foreach_add_(params, memory)


ROW = OptimizerRow(
    name="feature_momentum",
    optimizer=FeatureMomentum,
    summary="momentum of features of the gradient, bounded for outliers unless told otherwise",
    update="m <- alpha m - eta P phi(g); W <- W + m",
    equations="NL 51",
)
