"""The scores of one run, from its accuracy matrix."""

from __future__ import annotations

from typing import TypedDict

from nestling import metrics


class MatrixScores(TypedDict):
    """Figures that depend on the accuracy matrix alone."""

    average_accuracy: float
    forgetting: float
    backward_transfer: float
    forward_transfer: float
    learning_accuracy: float


def matrix_scores(matrix: list[list[float]], untrained: list[float], *, higher_is_better: bool) -> MatrixScores:
    """All scores of `nestling.metrics` that a result reports.

    Args:
        matrix: [T, T], R[i, j] = score on j after learning i.
        untrained: [T], score of the untrained module.
        higher_is_better: False for losses such as bits per byte.
    """
    return {
        "average_accuracy": metrics.average_accuracy(matrix),
        "forgetting": metrics.forgetting(matrix, higher_is_better=higher_is_better),
        "backward_transfer": metrics.backward_transfer(matrix, higher_is_better=higher_is_better),
        "forward_transfer": metrics.forward_transfer(matrix, untrained, higher_is_better=higher_is_better),
        "learning_accuracy": metrics.learning_accuracy(matrix),
    }
