"""What self-modifying Titans carry from call to call."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nestling.memory.state import State, Weights


@dataclass(frozen=True)
class SelfModifyingState(State):
    """State of self-modifying Titans; float32 or float64.

    memory:     the memories, see `MatrixMemories` and `MlpMemories`; first axes [B, H].
    anchor:     the same at the end of the last full chunk, where projections, targets and gradients are taken.
    position:   [B, 2] int64, tokens since the anchor of the projections, and of the memory that is read.
    tail:       [B, H, W - 1, 3 K], the last keys, queries and values before the short convolution.
    surprise:   momentum accumulators in the shapes of the memories, or empty.
    """

    memory: Weights
    anchor: Weights
    position: Tensor
    tail: Tensor
    surprise: Weights = ()

    @property
    def num_rows(self) -> int:
        """Batch rows B."""
        return self.position.shape[0]
