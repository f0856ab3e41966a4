"""Which of several contexts a text belongs to, told from its states token by token, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["KeyGate", "KeySums"]

SHRINKAGE = 0.1
RETENTION = 0.95
PRIOR = 4.0  # with no evidence every weight is below LEAST, so a text begins as the model would begin it
LEAST = 0.02


@dataclass(frozen=True)
class KeySums:
    """Exact sums of the keys of one context. Args: count.   total: [W].   second: [W, W], sum of outer products."""

    count: int
    total: Tensor
    second: Tensor

    @classmethod
    def empty(cls, width: int) -> KeySums:
        """Nothing counted."""
        return cls(0, torch.zeros(width), torch.zeros(width, width))

    def plus(self, keys: Tensor) -> KeySums:
        """With further keys [M, W]."""
        keys = keys.float().cpu()
        return KeySums(self.count + len(keys), self.total + keys.sum(0), self.second + keys.T @ keys)

    @property
    def mean(self) -> Tensor:
        """[W]."""
        return self.total / max(1, self.count)


class KeyGate:
    """Linear discriminants between contexts and "none of them", accumulated over the recent text.

    mu_k = total_k / n_k,   C = sum_k (second_k - n_k mu_k mu_k^T) / sum_k n_k + shrinkage tr/W I
    s_k(t) = retention s_k(t-1) + (e_t - mu_k / 2)^T C^-1 mu_k,      s = 0 at the start of a text
    w(t) = softmax([prior + max(0, max_b s_b(t)), s_1(t), ..., s_K(t)]);  below 0.02 a weight is exactly 0

    "None of them" is what lies nearer to one of the backgrounds b, which enter C too, or to zero, where keys are
    centred. Sums add up, so contexts are added and deleted exactly.

    Source: linear discriminant analysis from sums, as least squares onto contexts (NL eq. 59-60); evidence that fades:
        `memory.evidence_gate`.

    Args: contexts: sums of each, at least one key in all.   background: sums of what is no context.
    """

    def __init__(self, contexts: Sequence[KeySums], background: Sequence[KeySums] = ()) -> None:
        self._num = len(contexts)
        contexts = [*contexts, *background]
        means = torch.stack([each.mean for each in contexts])
        counts = torch.tensor([float(each.count) for each in contexts])
        second = torch.stack([each.second for each in contexts]).sum(0)
        within = (second - (means.T * counts) @ means) / counts.sum().clamp_min(1)
        size = within.shape[0]
        scale = (within.trace() / size).clamp_min(1e-8)
        within = within + SHRINKAGE * scale * torch.eye(size)
        self.means, self._root = means, torch.linalg.cholesky(within)
        self._weight = torch.cholesky_solve(means.T, self._root)
        self._bias = -0.5 * (means * self._weight.T).sum(-1)

    def weights(self, keys: Tensor, before: Tensor | None, skip: int) -> tuple[Tensor, Tensor]:
        """Weights w without that of "none" [B, T, K], and what to go on with, [B, K + backgrounds].

        Args: keys: unit [B, T, W].   before: as returned for the text so far; None where it begins.   skip: how many
            states at the beginning of this pass say nothing.
        """
        evidence = keys.float() @ self._weight.to(keys.device) + self._bias.to(keys.device)
        evidence[:, :skip] = 0
        score = torch.zeros_like(evidence[:, 0]) if before is None else before
        scores: list[Tensor] = []
        for each in evidence.unbind(1):
            score = RETENTION * score + each
            scores.append(score)
        stacked = torch.stack(scores, dim=1)
        none = torch.cat([torch.zeros_like(stacked[..., :1]), stacked[..., self._num :]], dim=-1)
        none = PRIOR + none.amax(-1, keepdim=True)
        weights = torch.cat([none, stacked[..., : self._num]], dim=-1).softmax(-1)[..., 1:]
        return torch.where(weights < LEAST, torch.zeros_like(weights), weights), score

    def distances(self, mean: Tensor) -> Tensor:
        """Mahalanobis distance [K] of a passage's mean key [W] from every context."""
        away = (mean.float().cpu() - self.means[: self._num]).T
        return torch.linalg.solve_triangular(self._root, away, upper=False).norm(dim=0)
