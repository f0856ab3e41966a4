"""How likely an input is under what one task has shown: Gaussians with one shrunk covariance."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

MAX_FULL_WIDTH = 2048
_RELATIVE_FLOOR = 1e-6


@dataclass(frozen=True, kw_only=True)
class TaskDensity:
    """Mixture of Gaussians with equal weights and one covariance.

    log p(x) = logsumexp_g( -|W (x - m_g)|^2 / 2 ) - log G + log |det W| - (D / 2) log 2 pi,   W^T W = covariance^-1

    Symbols:
        means: m [G, D], one for each class of the task, or one for all inputs.
        whitening: W [D, D] lower triangular; [D] (only variances) for inputs wider than `MAX_FULL_WIDTH`.
        log_det: log |det W|, a scalar.
    """

    means: Tensor
    whitening: Tensor
    log_det: Tensor

    def log_density(self, inputs: Tensor) -> Tensor:
        """log p(x) [N] float32 for inputs [N, ...], flattened to [N, D]."""
        flat = inputs.flatten(1).float()
        offset = self._whiten(flat).unsqueeze(1) - self._whiten(self.means).unsqueeze(0)
        exponent = (-0.5 * offset.square().sum(dim=-1)).logsumexp(dim=1) - math.log(len(self.means))
        return exponent + self.log_det - flat.shape[1] / 2 * math.log(2 * math.pi)

    def state(self) -> dict[str, Tensor]:
        """The tensors, from which `TaskDensity(**state)` makes the same density."""
        return asdict(self)

    def _whiten(self, rows: Tensor) -> Tensor:
        return rows * self.whitening if self.whitening.dim() == 1 else rows @ self.whitening.T


def fit_density(inputs: Tensor, labels: Tensor | None = None) -> TaskDensity:
    """The density of one task's inputs.

    Args:
        inputs: [N, ...], flattened to [N, D].
        labels: [N] int64 classes, one Gaussian each; None puts one Gaussian on everything.
    """
    flat = inputs.flatten(1).double()
    labels = torch.zeros(len(flat), dtype=torch.int64) if labels is None else labels
    classes, member = labels.unique(return_inverse=True)
    means = torch.stack([flat[member == g].mean(dim=0) for g in range(len(classes))])
    centred = flat - means[member]
    if flat.shape[1] > MAX_FULL_WIDTH:
        variance = centred.square().mean(dim=0)
        whitening = (variance + _floor(variance.mean())).rsqrt()
        log_det = whitening.log().sum()
    else:
        covariance = shrunk_covariance(centred)
        covariance.diagonal().add_(_floor(covariance.diagonal().mean()))
        lower = torch.linalg.cholesky(covariance)
        whitening = torch.linalg.solve_triangular(lower, torch.eye(len(lower), dtype=lower.dtype), upper=False)
        log_det = whitening.diagonal().log().sum()
    return TaskDensity(means=means.float(), whitening=whitening.float(), log_det=log_det.float())


def shrunk_covariance(centred: Tensor) -> Tensor:
    """Covariance pulled towards a multiple of the identity, by the amount that is optimal in mean square.

    (1 - s) S + s mu I,   S = X^T X / N,   mu = tr(S) / D,   s = min(b^2, d^2) / d^2,
    d^2 = |S - mu I|^2,   b^2 = (sum_i |x_i|^4 / N - |S|^2) / N

    Source: Ledoit & Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices", section 3.

    Args:
        centred: X [N, D] float64 with mean 0.

    Returns: [D, D] float64.
    """
    count, width = centred.shape
    sample = centred.T @ centred / count
    identity = torch.eye(width, dtype=centred.dtype)
    mu = sample.diagonal().mean()
    distance = (sample - mu * identity).square().sum()
    noise = (centred.square().sum(dim=1).square().mean() - sample.square().sum()) / count
    shrinkage = (noise / distance).clamp(0, 1) if distance > 0 else torch.zeros_like(distance)
    return (1 - shrinkage) * sample + shrinkage * mu * identity


def _floor(mean_variance: Tensor) -> Tensor:
    """What is added to every variance so that constant inputs do not make the density infinite."""
    return _RELATIVE_FLOOR * (mean_variance + _RELATIVE_FLOOR)
