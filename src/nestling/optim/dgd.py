"""Delta Gradient Descent: every linear map is a memory whose decay depends on what it reads."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from nestling.errors import InputError, UnknownNameError
from nestling.ops.shrink_along import shrink_along
from nestling.optim.base import Group, Range
from nestling.optim.layer_inputs import WatchedLayer
from nestling.optim.layer_maps import is_embedding
from nestling.optim.row import OptimizerRow
from nestling.optim.watching import WatchingOptimizer

__all__ = ["DGD", "FORMS", "REDUCTIONS", "ROW", "TARGETS"]

Form = Literal["implicit", "explicit"]
Reduction = Literal["mean", "sum"]
Target = Literal["surprise", "answer"]
FORMS = ("implicit", "explicit")
TARGETS = ("surprise", "answer")
REDUCTIONS = ("mean", "sum")


class DGD(WatchingOptimizer):
    """Delta Gradient Descent on every linear map of a module.

    objective  erase/2 |W X^T|^2 - <W X^T, U^T> + 1/(2 eta) |W - alpha W_t|^2,   U = -dLoss/dY, one row per sample
               (erase = 1: 1/2 |W X^T - U^T|^2 up to a constant, NL 56)
    implicit   W <- (alpha W + eta U^T X) (I + eta erase X^T X)^-1
    explicit   W <- alpha W - eta erase W X^T X + eta U^T X
    answer     W <- alpha W + eta U^T X (I + eta erase X^T X)^-1     the implicit form with the target "answer"

    Source: NL eq. 54-57, 112-121; for one sample the implicit form is `rules.dgd.step` with key x and value u, the
    explicit one `rules.dgd.step_explicit` on the Hebbian rule.
    Symbols: eta is `lr`; alpha = 1 - lr weight_decay. U^T X is minus the gradient, so only inputs are gathered, and
    clipping, scaling and averaging of gradients work as usual.

    The paper's target of a layer's answer is the surprise U itself, so what a layer says shrinks towards the size of a
    gradient: in deep networks erase = 1 holds learning back, and small values of `erase` learn. With target="answer"
    the objective is 1/2 |W X^T - (W_t X^T + U^T)|^2 + 1/(2 eta) |W - W_t|^2: the answer is moved by U and nothing is
    erased. It is the recursive form with a P that knows only the present samples.

    A layer is [W b] with the key (x, 1): Linear, Conv1d, Conv2d (keys are patches), Embedding (keys are one-hot) and
    transformers' Conv1D. Other parameters take plain gradient steps at the same rate. The implicit form is a
    contraction along the inputs at every rate; the explicit one needs eta erase |X^T X| <= 2.

    Args:
        params: parameters or groups.
        lr: eta >= 0.
        module: whose layers are watched; build the optimizer before the first call of a compiled module.
        form: "implicit" or "explicit".
        target: "surprise" (the paper's) or "answer" (implicit form only).
        erase: >= 0, weight of the erase; 1 is the paper's, 0 is gradient descent.
        reduction: of the loss over samples: "mean" divides X^T X by the number of rows a layer saw in this step.
        weight_decay: >= 0, decoupled.
    """

    RANGES: ClassVar[dict[str, Range]] = {"lr": (0, math.inf), "erase": (0, math.inf), "weight_decay": (0, math.inf)}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-1,
        *,
        module: nn.Module,
        form: Form = "implicit",
        target: Target = "surprise",
        erase: float = 1.0,
        reduction: Reduction = "mean",
        weight_decay: float = 0.0,
    ) -> None:
        if form not in FORMS:
            raise UnknownNameError("form of DGD", form, FORMS)
        if target not in TARGETS:
            raise UnknownNameError("target of DGD", target, TARGETS)
        if target == "answer" and form == "explicit":
            raise InputError(
                "target: expected 'surprise' with the explicit form, got 'answer', which has none: it is "
                "gradient descent"
            )
        if reduction not in REDUCTIONS:
            raise UnknownNameError("reduction", reduction, REDUCTIONS)
        defaults = {
            "lr": lr,
            "form": form,
            "target": target,
            "erase": erase,
            "reduction": reduction,
            "weight_decay": weight_decay,
        }
        super().__init__(params, module=module, defaults=defaults)

    def _update_layer(self, group: Group, watched: WatchedLayer, weight: Tensor, grad: Tensor, keys: Tensor) -> Tensor:
        eta = float(group["lr"])
        one_hot = is_embedding(watched.layer.module)
        num_rows = float(keys.sum()) if one_hot else keys.shape[-2]
        rate = eta * group["erase"] / (max(num_rows, 1) if group["reduction"] == "mean" else 1)
        decayed = (1 - eta * group["weight_decay"]) * weight
        moved = group["target"] == "answer"
        shrinks = -eta * grad if moved else decayed - eta * grad
        kept = decayed if moved else 0.0
        if one_hot:  # X^T X is diagonal: the counts
            counts = keys.view(1, -1, 1)
            if group["form"] == "implicit":
                return kept + shrinks / (1 + rate * counts)
            return decayed - rate * weight * counts - eta * grad
        if group["form"] == "implicit":
            return kept + shrink_along(shrinks, keys, rate=rate)
        return decayed - rate * ((weight @ keys.mT) @ keys) - eta * grad


ROW = OptimizerRow(
    name="dgd",
    optimizer=DGD,
    summary="Delta Gradient Descent: decay along what each layer reads, implicit (any rate) or explicit",
    update="W <- (alpha W - eta G) (I + eta X^T X)^-1",
    equations="NL 54-57, 112-121",
    needs="module",
)
