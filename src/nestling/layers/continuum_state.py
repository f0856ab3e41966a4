"""What a continuum memory carries from call to call."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nestling.memory.state import State, Weights

__all__ = ["ContinuumState"]


@dataclass(frozen=True)
class ContinuumState(State):
    """State of a continuum memory; float32 or float64. Weights stand level by level, map by map: [B, out, in].

    position:       [B] int64, tokens of this context whose update is gathered or applied.
    delta:          what the weights have moved in this context; 0 at its start.
    gathered:       gradient since the last change, summed over tokens.
    start:          nested: delta with which a level begins again; of all levels but the slowest.
    start_gathered: nested: gradient since `start` last changed.
    last:           local objective: the last input of every level, [B, 1, D].
    """

    position: Tensor
    delta: Weights = ()
    gathered: Weights = ()
    start: Weights = ()
    start_gathered: Weights = ()
    last: Weights = ()

    @property
    def num_rows(self) -> int:
        """Batch rows B."""
        return self.position.shape[0]

    def moved(self) -> Tensor:
        """[B] length of all deltas of a row together, in float32 or float64."""
        if not self.delta:
            return torch.zeros_like(self.position, dtype=torch.float32)
        return torch.stack([part.square().sum((1, 2)) for part in self.delta]).sum(0).sqrt()
