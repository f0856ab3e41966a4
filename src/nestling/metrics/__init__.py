"""Pure functions of the accuracy matrix R[i, j] = score on j after learning i, and what learning cost."""

from __future__ import annotations

from nestling.metrics.cost import Cost, measure_cost, peak_memory_bytes, reset_peak_memory
from nestling.metrics.matrix import (
    average_accuracy,
    average_anytime_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    learning_accuracy,
)

__all__ = [
    "Cost",
    "average_accuracy",
    "average_anytime_accuracy",
    "backward_transfer",
    "forgetting",
    "forward_transfer",
    "learning_accuracy",
    "measure_cost",
    "peak_memory_bytes",
    "reset_peak_memory",
]
