"""Two programs for one recurrence: the words shared by the comparisons with references written by others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

BATCH = 2
FLOAT32_TOLERANCE = 2e-5
FLOAT64_TOLERANCE = 1e-10
Tensors = dict[str, Tensor]
Run = Callable[[Tensors], tuple[Tensor, ...]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two programs for one recurrence. Both return answers, then final states; `inputs` makes what they share."""

    rule: str
    theirs: str
    inputs: Callable[[int], Tensors]
    ours_run: Run
    theirs_run: Run
    tolerance: float
    compare_gradients: bool = True
