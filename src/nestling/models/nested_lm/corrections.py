"""The smallest correction of a last state that makes a wanted token the most probable one, in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nestling.errors import InputError

__all__ = ["Corrections"]

MARGIN = 15.0
_ROWS = 8192


class Corrections:
    """Values of lessons, from the output head alone.

    direction  g_y = C^-1 (w_y - mean(w)),   C the covariance of the head's rows: minimises sum_v (w_v . g)^2 at a given
               w_y . g, so that it moves the other tokens least
    length     delta = a g_y,   a the least with  z_y + a w_y.g  >=  z_v + a w_v.g + margin  for every token v

    Source: the surprise at the last state is W^T (p - y), NL eq. 8 and 29-31; here with the inverse covariance in
        place of the identity, as in least squares, and the length that ends the surprise in one step.

    Args: head: the linear output head of a model.
    """

    def __init__(self, head: Any) -> None:
        self._head = head
        self._inverse: Tensor | None = None
        self._mean: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Of the head's weights."""
        return self._head.weight.device

    @torch.no_grad()
    def logits(self, last: Tensor) -> Tensor:
        """[P, V] float32 of last states [P, D]."""
        weight = self._head.weight
        found = torch.nn.functional.linear(last.to(weight.dtype), weight, getattr(self._head, "bias", None))
        return found.float()

    @torch.no_grad()
    def surprise(self, last: Tensor, targets: Tensor) -> Tensor:
        """-log p(target), [P] nats."""
        return -self.logits(last).log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1)

    @torch.no_grad()
    def solve(self, last: Tensor, targets: Tensor, *, margin: float = MARGIN) -> Tensor:
        """Corrections [P, D] float32 of last states [P, D] towards targets [P].

        margin: in nats, how far ahead of all others the target is at the place where it was taught; what is more than
            enough there leaves room for places that were not.
        Raises: InputError when no correction in that direction can do it.
        """
        self._prepare()
        assert self._inverse is not None
        assert self._mean is not None
        weight = self._head.weight[targets].float()
        direction = (weight - self._mean) @ self._inverse
        logits, gains = self.logits(last), self.logits(direction) - self._bias()
        ahead = gains.gather(1, targets.unsqueeze(1)) - gains
        needed = margin + logits - logits.gather(1, targets.unsqueeze(1))
        needed.scatter_(1, targets.unsqueeze(1), 0.0)
        lengths = torch.where(needed > 0, needed / ahead.clamp_min(1e-6), torch.zeros_like(needed)).amax(1)
        lost = (needed > 0) & (ahead <= 1e-6)
        lost.scatter_(1, targets.unsqueeze(1), torch.zeros_like(targets, dtype=torch.bool).unsqueeze(1))
        if bool(lost.any()) or not bool(torch.isfinite(lengths).all()):
            raise InputError("an answer holds a token that this model's head cannot single out: word it differently")
        return lengths.unsqueeze(1) * direction

    def _bias(self) -> Tensor | float:
        bias = getattr(self._head, "bias", None)
        return 0.0 if bias is None else bias.float()

    def _prepare(self) -> None:
        if self._inverse is not None:
            return
        weight = self._head.weight
        self._mean = weight.float().mean(0)
        gram = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64, device=weight.device)
        for start in range(0, len(weight), _ROWS):
            away = weight[start : start + _ROWS].float() - self._mean
            gram += (away.T @ away).double()
        gram /= len(weight)
        gram.diagonal().add_(1e-3 * gram.diagonal().mean())
        self._inverse = torch.linalg.inv(gram).float()
