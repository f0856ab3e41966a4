"""Newton-Schulz iteration: the nearest matrix with orthonormal rows or columns, by matrix products alone."""

from __future__ import annotations

import torch
from torch import Tensor

from nestling.errors import ShapeError

__all__ = ["CUBIC", "QUINTIC", "newton_schulz"]

Coefficients = tuple[float, float, float]

# One gradient step of size 1/2 on 1/4 |O^T O - I|^2: converges to singular values of 1.
CUBIC: Coefficients = (1.5, -0.5, 0.0)
# Muon's: steeper at 0, ends with singular values of about 0.7 to 1.2 after five steps (Jordan et al. 2024).
QUINTIC: Coefficients = (3.4445, -4.7750, 2.0315)


def newton_schulz(
    matrix: Tensor,
    *,
    steps: int = 5,
    coefficients: Coefficients = QUINTIC,
    eps: float = 1e-7,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Orthogonalise matrices: all singular values are drawn towards 1, singular vectors stay.

    objective  1/4 |O^T O - I|^2, started at O = m / |m|
    update     O <- a O + b (O O^T) O + c (O O^T)^2 O

    Source: NL eq. 43-44. The cubic (3/2, -1/2, 0) is one gradient step of size 1/2 on the objective; with c it is one
    on a potential of the singular values s, sum (1 - a)/2 s^2 - b/4 s^4 - c/6 s^6.

    Args:
        matrix: [..., V, K]; a matrix of zeros stays zero.
        steps: >= 0.
        coefficients: a, b, c.
        eps: smallest norm divided by.
        dtype: of the arithmetic, for example torch.bfloat16; that of `matrix` when None.

    Returns:
        [..., V, K] in the type of the arithmetic.

    Raises:
        ShapeError: fewer than two axes.
    """
    if matrix.ndim < 2:
        raise ShapeError(f"matrix: expected at least 2 axes [..., V, K], got shape {list(matrix.shape)}")
    a, b, c = coefficients
    tall = matrix.shape[-2] > matrix.shape[-1]
    wide = (matrix.mT if tall else matrix).to(dtype or matrix.dtype)
    wide = wide / wide.flatten(-2).norm(dim=-1).clamp(min=eps)[..., None, None]
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = _add_product(wide, _add_product(gram, gram, gram, b, c) if c else b * gram, wide, a, 1.0)
    return wide.mT if tall else wide


def _add_product(base: Tensor, left: Tensor, right: Tensor, beta: float, alpha: float) -> Tensor:
    """beta base + alpha left right."""
    if base.ndim == 2:
        return torch.addmm(base, left, right, beta=beta, alpha=alpha)
    if base.ndim == 3:
        return torch.baddbmm(base, left, right, beta=beta, alpha=alpha)
    return beta * base + alpha * (left @ right)
