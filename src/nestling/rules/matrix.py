"""What all matrix memories share: reading, outer products, and rates spread over a matrix."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from nestling.shapes import check_shape


class Gradient(Protocol):
    """Gradient of a rule's objective with respect to the state: (state, key, value) -> [B, H, V, K]."""

    def __call__(self, state: Tensor, key: Tensor, value: Tensor, /) -> Tensor:
        """Gradient [B, H, V, K]."""
        ...


def read(state: Tensor, query: Tensor) -> Tensor:
    """Ask a matrix memory: y = M q.

    Source: NL section 3; Titans eq. 15.

    Args:
        state: [B, H, V, K].
        query: [B, H, K].

    Returns:
        the answer [B, H, V].

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    sizes = check_shape("state", state, "BHVK")
    check_shape("query", query, "BHK", sizes)
    return apply(state, query)


def apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix [..., V, K] times vector [..., K], without shape checks."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def outer(left: Tensor, right: Tensor) -> Tensor:
    """left right^T: [..., V] and [..., K] to [..., V, K]."""
    return left.unsqueeze(-1) * right.unsqueeze(-2)


def spread(rate: Tensor) -> Tensor:
    """One number per row and head [B, H] as [B, H, 1, 1], to scale a matrix."""
    return rate[..., None, None]


def initial(
    batch: int,
    heads: int,
    value_width: int,
    key_width: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """An empty matrix memory: zeros [B, H, V, K]."""
    return torch.zeros(batch, heads, value_width, key_width, dtype=dtype, device=device)
