"""Delta Momentum: a memory of gradients that corrects what it answers, so that its decay depends on the gradient."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from nestling.errors import UnknownNameError
from nestling.optim.base import Group, MemoryOptimizer, Range, decay_weights
from nestling.optim.momentum import PRECONDITIONERS, Preconditioner, precondition
from nestling.optim.row import OptimizerRow

__all__ = ["FORMS", "ROW", "DeltaMomentum"]

Form = Literal["matrix", "scalar"]
FORMS = ("matrix", "scalar")


class DeltaMomentum(MemoryOptimizer):
    """Momentum by the delta rule: what the present gradient stands for is erased before it is written.

    objective  erase/2 |m h^T|^2 + eta <m, P g>,   h the gradient, normalised
    matrix     m <- m (alpha I - erase h^T h) - eta P g
    scalar     m <- (alpha - erase |h|^2) m - eta P g
    step       W <- W + m

    Source: NL eq. 48 (scalar), 49 (matrix). Symbols: alpha is `momentum`, eta `lr`, inside the memory as printed.

    As printed h = g, and a gradient longer than sqrt(1 + alpha) makes the memory grow without bound. Here
    h = g / max(|g|, running root mean square of |g|) unless `normalize` is False: |h| <= 1 keeps the factor's
    eigenvalues in [alpha - erase, alpha], and a gradient small for its time still erases little.

    A parameter [out, ...] is the matrix [out, the rest], a vector one row. The matrix form costs two matrix products.

    Args:
        params: parameters or groups.
        lr: eta >= 0.
        momentum: alpha in [0, 1].
        erase: in [0, 1]; 0 is `Momentum`.
        form: "matrix" or "scalar".
        normalize: whether h is bounded; False is the printed form.
        norm_beta: in [0, 1), decay of the running mean of |g|^2.
        preconditioner: "none" or "diagonal", as in `Momentum`; beta and eps are its options.
        beta: in [0, 1).
        eps: > 0.
        weight_decay: >= 0, decoupled.
    """

    RANGES: ClassVar[dict[str, Range]] = {
        "lr": (0, math.inf),
        "momentum": (0, 1),
        "erase": (0, 1),
        "norm_beta": (0, 1),
        "beta": (0, 1),
        "weight_decay": (0, math.inf),
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        *,
        momentum: float = 0.9,
        erase: float = 1.0,
        form: Form = "matrix",
        normalize: bool = True,
        norm_beta: float = 0.9,
        preconditioner: Preconditioner = "none",
        beta: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if form not in FORMS:
            raise UnknownNameError("form of Delta Momentum", form, FORMS)
        if preconditioner not in PRECONDITIONERS:
            raise UnknownNameError("preconditioner", preconditioner, PRECONDITIONERS)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "erase": erase,
            "form": form,
            "normalize": normalize,
            "norm_beta": norm_beta,
            "preconditioner": preconditioner,
            "beta": beta,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    def _update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        decay_weights(group, params)
        memory = self._buffers(params, "memory")
        sizes = self._lengths_of(params)
        lengths = self._bounds(group, params, sizes)
        values = precondition(self, group, params, grads)
        alpha, erase, eta = group["momentum"], group["erase"], float(group["lr"])
        if group["form"] == "matrix":
            for m, grad, value, length in zip(memory, grads, values, lengths):
                _write(m, grad, value, (erase / length.square()), alpha=alpha, eta=eta)
        else:
            for m, size, length in zip(memory, sizes, lengths):
                m.mul_(alpha - erase * (size / length).square())
            torch._foreach_add_(memory, values, alpha=-eta)
        torch._foreach_add_(params, memory)

    def _bounds(self, group: Group, params: list[Tensor], sizes: list[Tensor]) -> list[Tensor]:
        """|g| / |h| of every gradient."""
        if not group["normalize"]:
            return [torch.ones_like(size) for size in sizes]
        beta, squares, fade = group["norm_beta"], [], []
        for p, size in zip(params, sizes):
            state = self.state[p]
            count = state["num_lengths"] = state.get("num_lengths", 0) + 1
            squares.append(state.setdefault("mean_square", torch.zeros_like(size)))
            fade.append(1 - beta**count)
        torch._foreach_mul_(squares, beta)
        torch._foreach_addcmul_(squares, sizes, sizes, value=1 - beta)
        usual = torch._foreach_sqrt(torch._foreach_div(squares, fade))
        torch._foreach_maximum_(usual, sizes)
        return [length.clamp_(min=torch.finfo(length.dtype).tiny) for length in usual]


def _write(memory: Tensor, grad: Tensor, value: Tensor, erase: Tensor, *, alpha: float, eta: float) -> None:
    """m <- m (alpha I - c g^T g) - eta v in place, in the cheaper order: two products in the smaller side.

    Args:
        memory: m, as a matrix [out, the rest].
        grad: g.
        value: v, P g; where it is g itself, eta goes into the diagonal of the small product and costs no pass.
        erase: c, a tensor of one number.
        alpha: the decay.
        eta: the rate.
    """
    shape = (len(memory), -1) if memory.ndim > 1 else (1, -1)
    rows, key, added = memory.reshape(shape), grad.reshape(shape), value.reshape(shape)
    tall, whole = rows.shape[0] > rows.shape[1], type(memory) is Tensor and memory.is_contiguous()
    factor = (key.mT @ key if tall else rows @ key.mT) * erase
    if not whole:  # a sharded or permuted memory keeps its placement
        erased = (rows @ factor if tall else factor @ key).view_as(memory)
        memory.mul_(alpha).sub_(erased).add_(value, alpha=-eta)
    elif tall:
        factor.neg_().diagonal().add_(alpha)
        memory.copy_(torch.addmm(added, rows, factor, beta=-eta).view_as(memory))
    else:
        own = value is grad
        if own:
            factor.diagonal().add_(eta)
        rows.addmm_(factor, key, beta=alpha, alpha=-1)
        if not own:
            memory.add_(value, alpha=-eta)


ROW = OptimizerRow(
    name="delta_momentum",
    optimizer=DeltaMomentum,
    summary="momentum by the delta rule: its decay depends on the gradient",
    update="m <- m (alpha I - h^T h) - eta P g, h = g normalised; W <- W + m",
    equations="NL 48-49",
)
