"""M3, multi-scale momentum Muon: a fast and a slow memory of gradients, both orthogonalised, over a second moment."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from nestling.errors import UnknownNameError
from nestling.optim.base import Group, MemoryOptimizer, Range, decay_weights
from nestling.optim.elementwise import adam_step, split_matrices
from nestling.optim.muon import Precision, orthogonal
from nestling.optim.row import OptimizerRow

__all__ = ["FORMS", "M3", "ROW"]

Form = Literal["stable", "printed"]
FORMS = ("stable", "printed")
STEP_SIZE = 0.2


class M3(MemoryOptimizer):
    """A continuum of two momenta: one written every step, one every `update_period` steps.

    printed    m1 <- m1 + b1 g;   V <- V + b2 g^2;   every f steps m2 <- m2 + b3 (sum of the last f gradients)
               W <- W - lr D / (sqrt V + eps),   D = NS(m1) + a NS(m2)
    stable     m1 <- b1 m1 + (1 - b1) g;   m2 <- b3 m2 + (1 - b3) mean of the last f;   V <- b2 V + (1 - b2) D^2
               W <- W - lr 0.2 E / rms(E),   E = D / (sqrt V + eps)

    Source: NL eq. 75, Algorithm 1.
    Symbols: f is `update_period` in steps, a `slow_weight`, b1 b2 b3 `betas`.

    The stable form is the default, for three reasons. As printed nothing decays: after t steps a new gradient is one
    part in t of m1. The step has the unit of an inverse gradient, so a change of the loss's scale changes the run.
    And V of the gradient divides an answer that no longer has the gradient's size: entries with hardly any gradient,
    which Newton-Schulz lifts to the size of the others, get steps that dwarf all else. So V is here the second moment
    of the answer itself, as in AdaMuon (arXiv 2507.11005), and each step is rescaled to a root mean square of 0.2, as
    in Muon with "match_rms_adamw".

    Parameters of fewer than two axes take Adam's step, as in Muon.

    Args:
        params: parameters or groups.
        lr: >= 0.
        form: "stable" or "printed".
        betas: b1, b2, b3, each in [0, 1]: decays when stable, weights of the new gradient when printed.
        slow_weight: a >= 0.
        update_period: f >= 1, in steps.
        eps: > 0.
        weight_decay: >= 0, decoupled.
        steps: of Newton-Schulz, >= 1.
        precision: of Newton-Schulz, "bfloat16" or "parameter".
        elementwise: whether matrices too take Adam's step.
        stacked: whether parameters of three axes and more are stacks of matrices, see `Muon`.
        vector_scale: > 0, factor of lr for Adam's step.
        vector_betas: of Adam's step.
        vector_eps: of Adam's step.
    """

    RANGES: ClassVar[dict[str, Range]] = {
        "lr": (0, math.inf),
        "slow_weight": (0, math.inf),
        "update_period": (1, math.inf),
        "weight_decay": (0, math.inf),
        "steps": (1, 100),
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        form: Form = "stable",
        betas: tuple[float, float, float] = (0.95, 0.999, 0.9),
        slow_weight: float = 0.5,
        update_period: int = 8,
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        steps: int = 5,
        precision: Precision = "bfloat16",
        elementwise: bool = False,
        stacked: bool = False,
        vector_scale: float = 1.0,
        vector_betas: tuple[float, float] = (0.9, 0.999),
        vector_eps: float = 1e-8,
    ) -> None:
        if form not in FORMS:
            raise UnknownNameError("form of M3", form, FORMS)
        defaults = {
            "lr": lr,
            "form": form,
            "betas": betas,
            "slow_weight": slow_weight,
            "update_period": update_period,
            "eps": eps,
            "weight_decay": weight_decay,
            "steps": steps,
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
        if matrices:
            self._move(group, matrices, slopes)
            self._remember_slowly(group, matrices, slopes)

    def _move(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        """Write the fast memory and the second moment, and step."""
        first, second, _ = group["betas"]
        fast, squares = self._buffers(params, "fast"), self._buffers(params, "square")
        slow_answers, steps = self._buffers(params, "slow_answer"), self._count_steps(params)
        printed = group["form"] == "printed"
        if printed:
            torch._foreach_add_(fast, grads, alpha=first)
            torch._foreach_addcmul_(squares, grads, grads, value=second)
        else:
            torch._foreach_lerp_(fast, grads, 1 - first)
        answers = orthogonal(fast, **_how(group))
        moves = torch._foreach_mul(slow_answers, group["slow_weight"])
        torch._foreach_add_(moves, answers)
        if not printed:
            torch._foreach_mul_(squares, second)
            torch._foreach_addcmul_(squares, moves, moves, value=1 - second)
        scale = torch._foreach_sqrt(squares)
        if not printed:
            torch._foreach_div_(scale, [(1 - second**step) ** 0.5 for step in steps])
        torch._foreach_add_(scale, group["eps"])
        torch._foreach_div_(moves, scale)
        lr = float(group["lr"])
        if not printed:
            # A matrix whose gradients were all 0 has no direction; it stays.
            sizes = [size.clamp(min=torch.finfo(size.dtype).tiny) for size in torch._foreach_norm(moves)]
            torch._foreach_div_(moves, sizes)
            torch._foreach_mul_(moves, [STEP_SIZE * p.numel() ** 0.5 for p in params])
        torch._foreach_add_(params, moves, alpha=-lr)

    def _remember_slowly(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        """Gather the gradient; at the end of a period write the slow memory, whose answer serves the next period."""
        third, period = group["betas"][2], int(group["update_period"])
        pending = self._buffers(params, "pending")
        torch._foreach_add_(pending, grads)
        due = [p for p in params if self.state[p]["step"] % period == 0]
        if not due:
            return
        slow, sums = self._buffers(due, "slow"), self._buffers(due, "pending")
        if group["form"] == "printed":
            torch._foreach_add_(slow, sums, alpha=third)
        else:
            torch._foreach_lerp_(slow, torch._foreach_div(sums, float(period)), 1 - third)
        torch._foreach_zero_(sums)
        for p, answer in zip(due, orthogonal(slow, **_how(group))):
            self.state[p]["slow_answer"].copy_(answer)


def _how(group: Group) -> dict[str, Any]:
    """Of Newton-Schulz."""
    return {"steps": group["steps"], "precision": group["precision"], "stacked": bool(group.get("stacked"))}


ROW = OptimizerRow(
    name="m3",
    optimizer=M3,
    summary="a fast and a slow momentum, both orthogonalised, over a second moment; Adam for vectors",
    update="W <- W - lr (NS(m1) + a NS(m2)) / (sqrt V + eps), m2 written every f steps",
    equations="NL 75, Algorithm 1",
)
