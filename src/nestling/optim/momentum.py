"""Momentum, and momentum of preconditioned gradients: a memory that is written by its dot product with the gradient."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from nestling.errors import UnknownNameError
from nestling.optim.base import Group, MemoryOptimizer, Range, decay_weights
from nestling.optim.row import OptimizerRow

__all__ = ["PRECONDITIONERS", "ROW", "Momentum", "precondition"]

Preconditioner = Literal["none", "diagonal"]
PRECONDITIONERS = ("none", "diagonal")


class Momentum(MemoryOptimizer):
    """Gradient descent whose step is the answer of a memory of past gradients.

    objective  <m, P g>, and (1 - alpha)/2 |m|^2 for the retention
    update     m <- alpha m - eta P g
               W <- W + m

    Source: NL eq. 10-13, 33-37 (P = I), 46-47 (P).
    Symbols: alpha is `momentum`, eta `lr`. The rate stands inside the memory, as printed: with a constant rate this
    is torch.optim.SGD with momentum; under a schedule, past gradients keep the rate of their time.

    Args:
        params: parameters or groups.
        lr: eta >= 0.
        momentum: alpha in [0, 1].
        preconditioner: "none" (P = I) or "diagonal": P = 1 / (sqrt(v) + eps), v the bias-corrected mean of g^2.
        beta: in [0, 1), decay of v.
        eps: > 0.
        weight_decay: >= 0, decoupled.
    """

    RANGES: ClassVar[dict[str, Range]] = {
        "lr": (0, float("inf")),
        "momentum": (0, 1),
        "beta": (0, 1),
        "weight_decay": (0, float("inf")),
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        *,
        momentum: float = 0.9,
        preconditioner: Preconditioner = "none",
        beta: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if preconditioner not in PRECONDITIONERS:
            raise UnknownNameError("preconditioner", preconditioner, PRECONDITIONERS)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "preconditioner": preconditioner,
            "beta": beta,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    def _update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        decay_weights(group, params)
        memory = self._buffers(params, "memory")
        values = precondition(self, group, params, grads)
        torch._foreach_mul_(memory, group["momentum"])
        torch._foreach_add_(memory, values, alpha=-float(group["lr"]))
        torch._foreach_add_(params, memory)


def precondition(optimizer: MemoryOptimizer, group: Group, params: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """P g of a group, with P as its option `preconditioner` says; the gradients are unchanged.

    v <- beta v + (1 - beta) g^2,   P = 1 / (sqrt(v / (1 - beta^t)) + eps)

    Source: NL eq. 46-47; 101-105 for this P as the optimal elementwise memory.
    """
    if group["preconditioner"] == "none":
        return grads
    beta, squares = group["beta"], optimizer._buffers(params, "square")
    torch._foreach_mul_(squares, beta)
    torch._foreach_addcmul_(squares, grads, grads, value=1 - beta)
    scale = torch._foreach_sqrt(squares)
    torch._foreach_div_(scale, [(1 - beta**step) ** 0.5 for step in optimizer._count_steps(params)])
    torch._foreach_add_(scale, group["eps"])
    return list(torch._foreach_div(grads, scale))


ROW = OptimizerRow(
    name="momentum",
    optimizer=Momentum,
    summary="momentum, plain or of preconditioned gradients: a linear memory of gradients",
    update="m <- alpha m - eta P g; W <- W + m",
    equations="NL 10-13, 33-37, 46-47",
)
