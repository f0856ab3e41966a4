"""A matrix shrunk along the rows of another: M (I + c X^T X)^-1."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["shrink_along", "shrink_by_gram"]


def shrink_along(matrix: Tensor, rows: Tensor, *, rate: float) -> Tensor:
    """M (I + c X^T X)^-1, solved in the smaller of n and K.

    The minimiser over W of c/2 |W X^T|^2 + 1/2 |W - M|^2. For one row it is M - c' (M x) x^T, c' = c / (1 + c |x|^2).

    Source: NL eq. 56-57, 113-121 for n rows; Woodbury identity.

    Args:
        matrix: M [..., V, K].
        rows: X [..., n, K].
        rate: c >= 0.

    Returns:
        [..., V, K]; the inputs are unchanged.
    """
    count, width = rows.shape[-2:]
    if count >= width:
        return shrink_by_gram(matrix, rows.mT @ rows, rate=rate)
    inner = rate * (rows @ rows.mT)
    inner.diagonal(dim1=-2, dim2=-1).add_(1)
    factor = torch.linalg.cholesky(inner)
    return matrix - rate * (torch.cholesky_solve(rows @ matrix.mT, factor).mT @ rows)


def shrink_by_gram(matrix: Tensor, gram: Tensor, *, rate: float) -> Tensor:
    """M (I + c A)^-1 for A = X^T X given as [..., K, K]."""
    regularized = rate * gram
    regularized.diagonal(dim1=-2, dim2=-1).add_(1)
    return torch.cholesky_solve(matrix.mT, torch.linalg.cholesky(regularized)).mT
