"""Rotary encoding of positions."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["rotate"]


def rotate(x: Tensor, places: Tensor, *, theta: float) -> Tensor:
    """x with each pair of channels (i, i + K/2) turned by the angle place * theta^(-2 i / K).

    A product of two turned vectors depends on how far apart they stand, not on where.

    Source: RoFormer (arXiv 2104.09864) eq. 34, with the pairs of Llama in transformers.

    Args:
        x: [..., T, K], K even.
        places: [T].
        theta: base of the angles, > 0.

    Returns:
        [..., T, K] in the type of x.
    """
    half = x.shape[-1] // 2
    rates = theta ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    angles = places.to(torch.float64).unsqueeze(-1) * rates
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
