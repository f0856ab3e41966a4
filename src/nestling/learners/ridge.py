"""Ridge regression from sums: linear, exact, the same for every order of the data."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from nestling.learners.additive import AdditiveStrategy
from nestling.streams.base import Kind, Problem, Training

RIDGES = tuple(10.0**power for power in range(-7, 2))
HELD_OUT_SHARE = 10


class RidgeRegression(AdditiveStrategy):
    """Least squares on the inputs; classes are one-hot targets, actions are targets as they are.

    objective  l(W) = sum_i |W^T x_i - y_i|^2 + r |W|^2,   x with a constant 1 appended that is not penalised
    solution   W = (A + r I)^-1 B,   A = sum_i x_i x_i^T,   B = sum_i x_i y_i^T
    ridge      r = q tr(A) / D; q is the value of `RIDGES` whose W from nine tenths of the examples has the least
               error on the last tenth:  tr(W^T A' W) - 2 tr(W^T B') + const, from the sums A', B' of that tenth.
               W then comes from all examples with that r.

    Which tenth an example belongs to is decided by its own numbers, so order changes nothing and equal inputs stay
    together.

    Source: NL section 2 (least squares) and recursive least squares, of which this is the sum form.
    """

    name: ClassVar[str] = "ridge"
    summary: ClassVar[str] = (
        "ridge regression on the inputs, closed form, nothing stored, ridge chosen on held-out sums"
    )
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification", "regression"})

    def __init__(self, module: nn.Module, problem: Problem, *, training: Training, seed: int) -> None:
        super().__init__(module, problem, training=training, seed=seed)
        width, outputs = self.num_inputs + 1, problem.num_outputs
        self.sums = {
            "seen": torch.zeros(outputs, dtype=torch.float64),
            "second": torch.zeros(width, width, dtype=torch.float64),
            "cross": torch.zeros(width, outputs, dtype=torch.float64),
            "held_second": torch.zeros(width, width, dtype=torch.float64),
            "held_cross": torch.zeros(width, outputs, dtype=torch.float64),
        }

    def _absorb(self, inputs: Tensor, targets: Tensor) -> None:
        values = self._values(targets)
        self.sums["seen"] += values.abs().sum(0)
        held = held_out(inputs)
        for prefix, part in (("", ~held), ("held_", held)):
            keys = append_one(inputs[part])
            self.sums[f"{prefix}second"].addmm_(keys.T, keys)
            self.sums[f"{prefix}cross"].addmm_(keys.T, values[part])

    def _solve(self) -> dict[str, Tensor]:
        sums = self.sums
        second, cross = sums["second"] + sums["held_second"], sums["cross"] + sums["held_cross"]
        ridge = choose_ridge(sums["second"], sums["cross"], sums["held_second"], sums["held_cross"])
        return {"weight": solve_ridge(second, cross, ridge)}

    def _read(self, weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
        outputs = append_one(inputs) @ weights["weight"]
        if self.problem.kind == "classification":
            outputs = outputs.masked_fill(self.sums["seen"] == 0, -torch.inf)
        return outputs

    def _values(self, targets: Tensor) -> Tensor:
        if self.problem.kind == "classification":
            return nn.functional.one_hot(targets, self.problem.num_outputs).double()
        return targets.reshape(len(targets), self.problem.num_outputs).double()


def append_one(inputs: Tensor) -> Tensor:
    """[n, D] -> [n, D + 1] float64 with a constant 1 as the last column."""
    return nn.functional.pad(inputs.double(), (0, 1), value=1.0)


def held_out(inputs: Tensor) -> Tensor:
    """True for about one in `HELD_OUT_SHARE` of inputs [n, D] float32, by a hash of their bits; equal rows agree."""
    bits = inputs.contiguous().view(torch.int32).long()
    place = torch.arange(1, bits.shape[1] + 1)
    mixed = (bits * (2 * place * 2654435761 + 1)).sum(1)
    mixed = (mixed ^ (mixed >> 29)) * 0x1CE4E5B9BF58476D
    return ((mixed ^ (mixed >> 32)) & 0x7FFFFFFF) % HELD_OUT_SHARE == 0


def solve_ridge(second: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """W [D + 1, V] = (A + r I)^-1 B, r = ridge tr(A) / D, no penalty on the constant in the last place."""
    strength = ridge * second.diagonal()[:-1].mean().clamp(min=1e-30)
    penalty = strength.repeat(len(second))
    penalty[-1] = 0.0
    return torch.cholesky_solve(cross, torch.linalg.cholesky(second + penalty.diag()))


def choose_ridge(second: Tensor, cross: Tensor, held_second: Tensor, held_cross: Tensor) -> float:
    """The value of `RIDGES` with the least squared error on the held-out sums; the middle one if they are empty."""
    if second[-1, -1] == 0 or held_second[-1, -1] == 0:
        return RIDGES[len(RIDGES) // 2]
    errors = []
    for ridge in RIDGES:
        weight = solve_ridge(second, cross, ridge)
        errors.append(float((weight * (held_second @ weight - 2 * held_cross)).sum()))
    return RIDGES[min(range(len(RIDGES)), key=errors.__getitem__)]
