"""Vectors scaled to length 1, with a backward pass of three sweeps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SMALLEST = 1e-12


def unit_vectors(vector: Tensor) -> Tensor:
    """Scale every vector of the last axis to length 1.

    y = x / max(|x|, 1e-12);   grad x = (grad y - y (y . grad y)) / |x|

    Args:
        vector: [..., K] float32 or float64. 0 stays 0; a length beyond the type's range gives 0.

    Returns:
        [..., K].
    """
    if torch.is_grad_enabled() and vector.requires_grad:
        return _UnitVectors.apply(vector)
    return vector / _length(vector)


def _length(vector: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vector, dim=-1, keepdim=True).clamp_(min=SMALLEST)


class _UnitVectors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vector: Tensor) -> Tensor:
        length = _length(vector)
        unit = vector / length
        ctx.save_for_backward(unit, length)
        return unit

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        unit, length = ctx.saved_tensors
        along = (unit * grad).sum(-1, keepdim=True)
        return torch.addcmul(grad, unit, along, value=-1) / length
