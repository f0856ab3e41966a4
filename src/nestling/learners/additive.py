"""What the closed-form strategies share: one pass over the data, sums that only grow, a solution made on demand."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nestling.errors import DataError, InputError, ShapeError
from nestling.learners.base import Progress, Strategy
from nestling.streams.base import Examples, Problem, Training

CHUNK_SIZE = 512


class AdditiveStrategy(Strategy):
    """Learn by adding to sums over examples; what was learned does not depend on the order beyond rounding.

    A subclass allocates `self.sums` (float64, zero at the start), adds to them in `_absorb`, and turns them into
    weights in `_solve`, which runs once after learning, at the first prediction. Inputs are flattened to [N, D].
    The module is not used.

    Raises: InputError for a kind of problem the strategy cannot learn.
    """

    sums: dict[str, Tensor]

    def __init__(self, module: nn.Module, problem: Problem, *, training: Training, seed: int) -> None:
        super().__init__(module, problem, training=training, seed=seed)
        if problem.kind not in self.kinds:
            raise InputError(
                f"strategy {self.name!r} learns {' and '.join(sorted(self.kinds))}, this stream is {problem.kind}: "
                "choose another strategy (see `nestling strategies`)"
            )
        self.num_inputs = torch.Size(problem.input_shape).numel()
        self.num_examples = 0
        self._position = 0
        self._weights: dict[str, Tensor] | None = None

    @abstractmethod
    def _absorb(self, inputs: Tensor, targets: Tensor) -> None:
        """Add inputs [n, D] float32 and targets [n] or [n, V] to `self.sums`."""

    @abstractmethod
    def _solve(self) -> dict[str, Tensor]:
        """The weights that follow from `self.sums`."""

    @abstractmethod
    def _read(self, weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs [n, V] for inputs [n, D] float32."""

    def learn(self, train: Examples) -> Iterator[Progress]:
        """Add every example once, `CHUNK_SIZE` at a time.

        Raises: ShapeError for inputs of another width than the problem's, DataError for NaN or infinity.
        """
        inputs = self._flatten(train.inputs)
        if not bool(torch.isfinite(inputs).all()):
            raise DataError(
                "training inputs hold NaN or infinity: expected finite numbers; clean the data and start again"
            )
        while self._position < len(train):
            chunk = slice(self._position, self._position + CHUNK_SIZE)
            self._absorb(inputs[chunk], train.targets[chunk])
            self._position = min(self._position + CHUNK_SIZE, len(train))
            self.num_examples += len(train.targets[chunk])
            self._weights = None
            yield Progress(self._position, len(train))
        self._position = 0
        self._weights = self._solve()

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> Tensor:
        """Outputs [N, num_outputs] float32 for inputs [N, ...]; classes never seen score -inf."""
        if self.num_examples == 0:
            raise InputError(f"strategy {self.name!r} has learned nothing yet: call learn() before predict()")
        if self._weights is None:
            self._weights = self._solve()
        flat = self._flatten(inputs)
        weights = self._weights
        return torch.cat([self._read(weights, part).float() for part in flat.split(4 * CHUNK_SIZE)])

    def state_dict(self) -> dict[str, Any]:
        """The sums and the place in the current experience."""
        sums = {name: value.clone() for name, value in self.sums.items()}
        return {"sums": sums, "num_examples": self.num_examples, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the sums and the place in the current experience."""
        self.sums = {name: value.clone() for name, value in state["sums"].items()}
        self.num_examples = int(state["num_examples"])
        self._position = int(state["position"])
        self._weights = None

    def num_parameters(self) -> int:
        """Weights [D, V] and offsets [V] of the linear read."""
        return (self.num_inputs + 1) * self.problem.num_outputs

    def _flatten(self, inputs: Tensor) -> Tensor:
        if tuple(inputs.shape[1:]) != self.problem.input_shape:
            raise ShapeError(
                f"inputs: expected [N, {', '.join(map(str, self.problem.input_shape))}], got {list(inputs.shape)}"
            )
        return inputs.reshape(len(inputs), self.num_inputs).float()


def add_class_sums(sums: dict[str, Tensor], keys: Tensor, targets: Tensor) -> None:
    """Add keys [n, D] float64 of classes targets [n] to counts [V], sums [V, D] and second moment [D, D]."""
    sums["count"] += torch.bincount(targets, minlength=len(sums["count"]))
    sums["sum"].index_add_(0, targets, keys)
    sums["second"].addmm_(keys.T, keys)


def empty_class_sums(num_classes: int, width: int) -> dict[str, Tensor]:
    """Zero sums for `add_class_sums`."""
    return {
        "count": torch.zeros(num_classes, dtype=torch.float64),
        "sum": torch.zeros(num_classes, width, dtype=torch.float64),
        "second": torch.zeros(width, width, dtype=torch.float64),
    }


def solve_discriminant(sums: dict[str, Tensor], shrinkage: float) -> dict[str, Tensor]:
    """Linear discriminant from class sums: one covariance for all classes, equal priors.

    mean_c = sum_c / n_c        S = (second - sum_c n_c mean_c mean_c^T) / n
    S'     = (1 - shrinkage) S + shrinkage (tr S / D) I
    weight = S'^-1 mean_c       offset_c = -mean_c . weight_c / 2       (-inf for a class never seen)

    Args: shrinkage: in (0, 1].
    Returns: weight [D, V] and offset [V], float64.
    """
    count, total = sums["count"], sums["sum"]
    mean = total / count.clamp(min=1)[:, None]
    within = (sums["second"] - total.T @ mean) / count.sum()
    variance = within.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    shrunk = (1 - shrinkage) * within + shrinkage * variance * torch.eye(len(within), dtype=torch.float64)
    weight = torch.cholesky_solve(mean.T, torch.linalg.cholesky(shrunk))
    offset = -(mean.T * weight).sum(0) / 2
    return {"weight": weight, "offset": offset.masked_fill(count == 0, -torch.inf)}
