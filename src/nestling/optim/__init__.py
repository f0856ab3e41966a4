"""Optimizers as associative memories of gradients: one small file each, and the table of all of them.

A new optimizer is a new file with its row, and one line here. All are torch.optim.Optimizer.
"""

from __future__ import annotations

import torch

from nestling.errors import UnknownNameError
from nestling.optim import deep_momentum, delta_momentum, dgd, feature_momentum, m3, momentum, muon, recursive_dgd
from nestling.optim.base import MemoryOptimizer
from nestling.optim.deep_momentum import DeepMomentum
from nestling.optim.delta_momentum import DeltaMomentum
from nestling.optim.dgd import DGD
from nestling.optim.feature_momentum import FeatureMomentum
from nestling.optim.m3 import M3
from nestling.optim.momentum import Momentum
from nestling.optim.muon import Muon
from nestling.optim.nested import NestedOptimizer
from nestling.optim.recursive_dgd import RecursiveDGD
from nestling.optim.row import OptimizerRow

__all__ = [
    "DGD",
    "M3",
    "OPTIMIZERS",
    "DeepMomentum",
    "DeltaMomentum",
    "FeatureMomentum",
    "MemoryOptimizer",
    "Momentum",
    "Muon",
    "NestedOptimizer",
    "OptimizerRow",
    "RecursiveDGD",
    "optimizer_named",
]

_ADAMW = OptimizerRow(
    name="adamw",
    optimizer=torch.optim.AdamW,
    summary="torch's AdamW, the reference: elementwise optimal memory of gradients",
    update="m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2; W <- (1 - lr wd) W - lr m / (sqrt v + eps)",
    equations="NL 101-105",
    reference=True,
)

_ROWS = (
    _ADAMW,
    momentum.ROW,
    delta_momentum.ROW,
    deep_momentum.ROW,
    feature_momentum.ROW,
    muon.ROW,
    m3.ROW,
    dgd.ROW,
    recursive_dgd.ROW,
)

OPTIMIZERS: dict[str, OptimizerRow] = {row.name: row for row in _ROWS}


def optimizer_named(name: str) -> OptimizerRow:
    """The row of this name.

    Raises:
        UnknownNameError: with the nearest known name.
    """
    if name not in OPTIMIZERS:
        raise UnknownNameError("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name]
