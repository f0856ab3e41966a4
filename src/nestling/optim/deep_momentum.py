"""Deep Momentum Gradient Descent (DMGD): the memory of gradients is a multi-layer network."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from nestling.errors import UnknownNameError
from nestling.ops.activations import activation_named
from nestling.optim.base import Group, MemoryOptimizer, Range, decay_weights
from nestling.optim.row import OptimizerRow
from nestling.rules import deep
from nestling.rules.losses import DOT_PRODUCT, L2, Loss

__all__ = ["OBJECTIVES", "ROW", "DeepMomentum", "memory_gradients", "memory_read"]

Objective = Literal["next", "l2", "dot_product"]
OBJECTIVES: dict[str, Loss] = {"next": L2, "l2": L2, "dot_product": DOT_PRODUCT}
ACTIVATION = "silu"


class DeepMomentum(MemoryOptimizer):
    """Gradient descent whose step is the answer of a small residual MLP, which learns what gradients come next.

    key        u <- momentum u + (1 - momentum) g,   rows of u / r,   r the running root mean square of g
    memory     m(u) = u + W2 silu(W1 u), one for every parameter, shared by its rows
    objective  next: mean over rows of 1/2 |m(u_before) - g|^2     what it knew before should have said what came
               l2: 1/2 |m(u) - gain u|^2;   dot_product: -<m(u), gain u>
    write      W_l <- alpha W_l - eta_l grad_l objective
    step       W <- W - lr m(u)      with the memory just written

    Source: NL eq. 50, whose key is the present gradient: momentum 0 with "l2" or "dot_product". The memory is that of
    `rules.deep` (NL eq. 89).
    Symbols: alpha is `retention`, eta `inner_lr`. Our memory answers the gradient itself, so the step subtracts it.

    What the paper leaves open, as decided here. A memory shared by rows cannot hold a momentum for each of them, so a
    linear momentum is its key. With "next" the memory learns along which directions that momentum foretells the
    gradient: those are kept, directions that are noise are damped, directions that swing back are turned. The residual
    makes the empty memory plain momentum, in units of the gradient's size, so lr has the unit of AdamW's.
    eta_l = inner_lr / (1 + c_l) with c_l an upper bound of the objective's curvature along map l
    (c_2 = mean |silu(W1 u)|^2, c_1 = |W2|^2 mean |u|^2), so that one inner rate suits every width.

    A parameter [out, ...] has rows of the rest; a vector is taken coordinate by coordinate, rows of width 1.
    Memory: the momentum, and 2 * hidden numbers per column.

    Args:
        params: parameters or groups.
        lr: >= 0.
        hidden: width of the memory, >= 1.
        objective: "next", "l2" or "dot_product". The last knows no value that is large enough: keep retention below 1.
        momentum: of the key, in [0, 1].
        gain: >= 1, for "l2" and "dot_product".
        inner_lr: in [0, 1]; 0 is momentum in units of the gradient's size.
        retention: alpha in [0, 1].
        norm_beta: in [0, 1), decay of the running mean of g^2 over the whole parameter.
        weight_decay: >= 0, decoupled.
        seed: of the memories' first maps.
    """

    RANGES: ClassVar[dict[str, Range]] = {
        "lr": (0, math.inf),
        "hidden": (1, math.inf),
        "gain": (1, math.inf),
        "momentum": (0, 1),
        "inner_lr": (0, 1),
        "retention": (0, 1),
        "norm_beta": (0, 1),
        "weight_decay": (0, math.inf),
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        hidden: int = 32,
        objective: Objective = "next",
        momentum: float = 0.9,
        gain: float = 5.0,
        inner_lr: float = 0.1,
        retention: float = 1.0,
        norm_beta: float = 0.95,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        if objective not in OBJECTIVES:
            raise UnknownNameError("inner objective", objective, OBJECTIVES)
        defaults = {
            "lr": lr,
            "hidden": hidden,
            "gain": gain,
            "momentum": momentum,
            "objective": objective,
            "inner_lr": inner_lr,
            "retention": retention,
            "norm_beta": norm_beta,
            "weight_decay": weight_decay,
            "seed": seed,
        }
        super().__init__(params, defaults)

    def _update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        decay_weights(group, params)
        linear = self._buffers(params, "linear")
        before, scales = [m.clone() for m in linear], self._scales(group, params)
        torch._foreach_lerp_(linear, grads, 1 - group["momentum"])
        for p, grad, old, new, scale in zip(params, grads, before, linear, scales):
            row = (len(p), -1) if p.ndim > 1 else (-1, 1)
            now = (new / scale).reshape(row)
            if group["objective"] == "next":
                self._write(group, p, (old / scale).reshape(row), (grad / scale).reshape(row))
            else:
                self._write(group, p, now, group["gain"] * now)
            answer = memory_read(self._memory(group, p, now), now)
            p.add_(answer.view_as(p), alpha=-float(group["lr"]))

    def _scales(self, group: Group, params: list[Tensor]) -> list[Tensor]:
        """Running root mean square of each parameter's gradients, bias-corrected."""
        beta, scales = group["norm_beta"], []
        for p, size in zip(params, self._lengths_of(params)):
            state = self.state[p]
            count = state["step"] = state.get("step", 0) + 1
            square = state.setdefault("mean_square", torch.zeros_like(size))
            square.mul_(beta).addcmul_(size, size, value=(1 - beta) / max(p.numel(), 1))
            scales.append((square / (1 - beta**count)).sqrt().clamp(min=torch.finfo(size.dtype).tiny))
        return scales

    def _memory(self, group: Group, p: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The two maps of a parameter's memory, [F, K] and [K, F]; the second starts at 0."""
        state = self.state[p]
        if "first_map" not in state:
            generator = torch.Generator().manual_seed(group["seed"])
            width, hidden = rows.shape[1], int(group["hidden"])
            maps = deep.initial(1, 1, width, hidden=hidden, generator=generator, dtype=p.dtype)
            state["first_map"], state["second_map"] = (_placed(weight[0, 0].to(p.device), p) for weight in maps)
        return state["first_map"], state["second_map"]

    def _write(self, group: Group, p: Tensor, rows: Tensor, values: Tensor) -> None:
        maps = self._memory(group, p, rows)
        gradients, curvatures = memory_gradients(maps, rows, values, OBJECTIVES[group["objective"]])
        for weight, gradient, curvature in zip(maps, gradients, curvatures):
            weight.mul_(group["retention"]).sub_(group["inner_lr"] / (1 + curvature) * gradient)


def _placed(weight: Tensor, p: Tensor) -> Tensor:
    """Beside a sharded parameter the memory is whole on every rank; all ranks draw the same numbers."""
    mesh: Any = getattr(p, "device_mesh", None)
    if mesh is None:
        return weight
    from torch.distributed.tensor import Replicate, distribute_tensor  # slow to import; only sharded runs need it

    return distribute_tensor(weight, mesh, [Replicate()] * mesh.ndim)


def memory_read(maps: tuple[Tensor, Tensor], rows: Tensor) -> Tensor:
    """m(u) of every row [R, K]: `rules.deep.read` for all rows at once."""
    first, second = maps
    return rows + activation_named(ACTIVATION).function(rows @ first.mT) @ second.mT


def memory_gradients(
    maps: tuple[Tensor, Tensor], rows: Tensor, values: Tensor, loss: Loss
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Gradients of the mean loss over rows, `rules.deep.gradient` averaged, and bounds of the curvature along each map.

    Source: NL eq. 30, 50, 89.

    Args:
        maps: [F, K] and [K, F].
        rows: keys [R, K].
        values: [R, K].
        loss: of `rules.losses`.

    Returns:
        the two gradients in the maps' shapes, and two numbers >= 0.
    """
    first, second = maps
    activation = activation_named(ACTIVATION)
    sums = rows @ first.mT
    hidden = activation.function(sums)
    surprise = loss.surprise(rows + hidden @ second.mT, values) / max(len(rows), 1)
    below = activation.derivative(sums) * (surprise @ second)
    curvatures = (
        second.square().sum() * rows.square().sum(1).mean(),
        hidden.square().sum(1).mean(),
    )
    return (below.mT @ rows, surprise.mT @ hidden), curvatures


ROW = OptimizerRow(
    name="deep_momentum",
    optimizer=DeepMomentum,
    summary="DMGD: an MLP per parameter learns along which directions momentum foretells the gradient",
    update="m <- alpha m - eta grad L(m(u), g); W <- W - lr m(u)",
    equations="NL 50",
)
