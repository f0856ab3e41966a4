"""A matrix shrunk along the rows of another: M (I + c X^T X)^-1."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["shrink_along"]


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
    gram = rate * (rows.mT @ rows if count >= width else rows @ rows.mT)
    gram.diagonal(dim1=-2, dim2=-1).add_(1)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if bool(failed.any()):  # the squares are so large that rounding hides the identity
        return _by_singular_values(matrix, rows, rate)
    if count >= width:
        return torch.cholesky_solve(matrix.mT, factor).mT
    return matrix - rate * (torch.cholesky_solve(rows @ matrix.mT, factor).mT @ rows)


def _by_singular_values(matrix: Tensor, rows: Tensor, rate: float) -> Tensor:
    """M - M V diag(c s^2 / (1 + c s^2)) V^T, which squares nothing that is then subtracted."""
    _, values, right = torch.linalg.svd(rows.double(), full_matrices=False)
    share = rate * values.square() / (1 + rate * values.square())
    wide = matrix.double()
    return (wide - ((wide @ right.mT) * share.unsqueeze(-2)) @ right).to(matrix.dtype)
