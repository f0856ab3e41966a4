"""Streaming linear discriminant analysis: a mean per class and one covariance for all."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from nestling.errors import InputError
from nestling.learners.additive import AdditiveStrategy, add_class_sums, empty_class_sums, solve_discriminant
from nestling.streams.base import Kind, Problem, Training


class StreamingLDA(AdditiveStrategy):
    """Classify by the nearest class mean in the metric of the pooled within-class covariance.

    score_c(x) = x . S'^-1 mean_c - mean_c . S'^-1 mean_c / 2,   S' = (1 - shrinkage) S + shrinkage (tr S / D) I

    Source: Hayes and Kanan, Lifelong Machine Learning with Deep Streaming Linear Discriminant Analysis, CVPR-W 2020,
    eq. 1-4. Two differences: the covariance is the pooled one of all data so far (theirs uses the class means as they
    were when an example came, which depends on the order), and the shrinkage is in units of the mean variance.

    Args: shrinkage: in (0, 1], weight of the identity.
    """

    name: ClassVar[str] = "slda"
    summary: ClassVar[str] = "streaming linear discriminant analysis on the inputs, closed form, nothing stored"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification"})

    def __init__(
        self, module: nn.Module, problem: Problem, *, training: Training, seed: int, shrinkage: float = 1e-4
    ) -> None:
        if not 0 < shrinkage <= 1:
            raise InputError(f"expected shrinkage above 0 and at most 1, got {shrinkage}")
        super().__init__(module, problem, training=training, seed=seed)
        self.shrinkage = shrinkage
        self.sums = empty_class_sums(problem.num_outputs, self.num_inputs)

    def _absorb(self, inputs: Tensor, targets: Tensor) -> None:
        add_class_sums(self.sums, inputs.double(), targets)

    def _solve(self) -> dict[str, Tensor]:
        return solve_discriminant(self.sums, self.shrinkage)

    def _read(self, weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return inputs.double() @ weights["weight"] + weights["offset"]
