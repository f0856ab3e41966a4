"""Muon: the answer of the momentum memory is orthogonalised before it moves the weights."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import math
from collections import defaultdict
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from nestling.errors import UnknownNameError
from nestling.ops.newton_schulz import QUINTIC, newton_schulz
from nestling.optim.base import Group, MemoryOptimizer, Range, decay_weights
from nestling.optim.elementwise import adam_step, split_matrices
from nestling.optim.row import OptimizerRow
from nestling.optim.sharded import placed_like, whole

__all__ = ["ADJUSTMENTS", "ROW", "Muon", "orthogonal", "rate_factor"]

Adjustment = Literal["match_rms_adamw", "original", "none"]
ADJUSTMENTS = ("match_rms_adamw", "original", "none")
Precision = Literal["bfloat16", "parameter"]


class Muon(MemoryOptimizer):
    """Momentum with an orthogonal answer.

    update     m <- mu m + (1 - mu) g                     (its scale does not matter to the answer)
               W <- W - lr r NewtonSchulz(mu m + (1 - mu) g)     nesterov; else NewtonSchulz(m)

    Source: NL eq. 42-44, 52; Jordan et al. 2024; rate factors r from Liu et al. 2025 (arXiv 2502.16982).

    Parameters of two axes and more are matrices [out, the rest]; the others take Adam's step at lr * vector_scale.
    Embeddings and heads are better left to Adam too: give them a group with elementwise=True. Matrices of several heads
    in one parameter [H, out, in] are matrices of their own in a group with stacked=True.

    Args:
        params: parameters or groups.
        lr: >= 0.
        momentum: mu in [0, 1].
        nesterov: whether the present gradient counts twice.
        weight_decay: >= 0, decoupled, for all parameters.
        steps: of Newton-Schulz, >= 1.
        adjust: r for a [V, K] matrix: "match_rms_adamw" 0.2 sqrt(max(V, K)), so that one lr suits both kinds;
            "original" sqrt(max(1, V / K)); "none" 1. torch.optim.Muon's default is "original".
        precision: of Newton-Schulz: "bfloat16" as torch's, or "parameter", the type of the parameter.
        elementwise: whether matrices too take Adam's step.
        stacked: whether parameters of three axes and more are stacks of matrices [H, out, the rest], each with an
            answer of its own.
        vector_scale: > 0, factor of lr for Adam's step.
        vector_betas: of Adam's step.
        vector_eps: of Adam's step.
    """

    RANGES: ClassVar[dict[str, Range]] = {
        "lr": (0, math.inf),
        "momentum": (0, 1),
        "weight_decay": (0, math.inf),
        "steps": (1, 100),
        "vector_scale": (0, math.inf),
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.1,
        steps: int = 5,
        adjust: Adjustment = "match_rms_adamw",
        precision: Precision = "bfloat16",
        elementwise: bool = False,
        stacked: bool = False,
        vector_scale: float = 1.0,
        vector_betas: tuple[float, float] = (0.9, 0.999),
        vector_eps: float = 1e-8,
    ) -> None:
        if adjust not in ADJUSTMENTS:
            raise UnknownNameError("adjustment", adjust, ADJUSTMENTS)
        if precision not in ("bfloat16", "parameter"):
            raise UnknownNameError("precision", precision, ("bfloat16", "parameter"))
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "steps": steps,
            "adjust": adjust,
            "precision": precision,
            "elementwise": elementwise,
            "stacked": stacked,
            "vector_scale": vector_scale,
            "vector_betas": vector_betas,
            "vector_eps": vector_eps,
        }
        super().__init__(params, defaults)

    def _update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        decay_weights(group, params)
        (matrices, slopes), rest = split_matrices(group, params, grads)
        adam_step(self, group, *rest)
        if not matrices:
            return
        memory = self._buffers(matrices, "memory")
        torch._foreach_lerp_(memory, slopes, 1 - group["momentum"])
        wanted = list(torch._foreach_lerp(slopes, memory, group["momentum"])) if group["nesterov"] else memory
        stacked = bool(group.get("stacked"))
        answers = orthogonal(wanted, steps=group["steps"], precision=group["precision"], stacked=stacked)
        for p, answer in zip(matrices, answers):
            p.add_(answer, alpha=-float(group["lr"]) * rate_factor(group["adjust"], p, stacked=stacked))


def orthogonal(tensors: list[Tensor], *, steps: int, precision: Precision, stacked: bool = False) -> list[Tensor]:
    """Newton-Schulz of each tensor as a matrix [out, the rest]; matrices of one shape go through it together.

    stacked: tensors of three axes and more are stacks of matrices [H, out, the rest], each orthogonal by itself.

    A sharded matrix is gathered, and every rank does the whole iteration: its products need all of it.
    """
    answers: list[Tensor] = [torch.empty(0)] * len(tensors)
    together: dict[Any, list[int]] = defaultdict(list)
    stacks = [_as_stack(whole(tensor), stacked=stacked) for tensor in tensors]
    for index, stack in enumerate(stacks):
        together[(stack.shape[1:], stack.dtype, stack.device)].append(index)
    for indices in together.values():
        dtype = torch.bfloat16 if precision == "bfloat16" else stacks[indices[0]].dtype
        joined = torch.cat([stacks[index] for index in indices])
        found = newton_schulz(joined[0] if len(joined) == 1 else joined, steps=steps, coefficients=QUINTIC, dtype=dtype)
        parts = found.view_as(joined).split([len(stacks[index]) for index in indices])
        for index, part in zip(indices, parts):
            answers[index] = placed_like(part.reshape(tensors[index].shape), tensors[index])
    return answers


def _as_stack(tensor: Tensor, *, stacked: bool) -> Tensor:
    """[matrices, out, in]."""
    return tensor.flatten(2) if stacked and tensor.ndim > 2 else tensor.flatten(1).unsqueeze(0)


def rate_factor(adjust: Adjustment, p: Tensor, *, stacked: bool = False) -> float:
    """How much larger the step of this matrix is than lr."""
    one = p[0] if stacked and p.ndim > 2 else p
    rows, columns = one.shape[0], one[0].numel()
    if adjust == "original":
        return math.sqrt(max(1.0, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns)) if adjust == "match_rms_adamw" else 1.0


ROW = OptimizerRow(
    name="muon",
    optimizer=Muon,
    summary="momentum whose step is orthogonalised by Newton-Schulz; Adam for vectors",
    update="m <- mu m + (1 - mu) g; W <- W - lr r NewtonSchulz(m)",
    equations="NL 42-44, 52",
)
