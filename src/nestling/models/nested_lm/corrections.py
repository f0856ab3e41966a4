"""The smallest correction of a last state that makes a wanted token the most probable one, in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from nestling.errors import InputError

__all__ = ["Corrections", "surprise"]

MARGIN = 15.0
_ROWS = 8192
_AHEAD = 0.2  # of the target's own gain: nearer rivals would make the closed form long
_RIVALS, _CLOSE = 64, 0.05
_LIKELY = 1024


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
        self._root: Tensor | None = None
        self._mean: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Of the head's weights."""
        return self._head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the head's weights."""
        return self._head.weight.dtype

    @torch.no_grad()
    def logits(self, last: Tensor) -> Tensor:
        """[P, V] float32 of last states [P, D]."""
        weight = self._head.weight
        found = torch.nn.functional.linear(last.to(weight.dtype), weight, getattr(self._head, "bias", None))
        return found.float()

    @torch.no_grad()
    def surprise(self, last: Tensor, targets: Tensor) -> Tensor:
        """-log p(target), [P] nats."""
        return surprise(self.logits(last), targets)

    @torch.no_grad()
    def solve(self, last: Tensor, targets: Tensor, *, margin: float = MARGIN, logits: Tensor | None = None) -> Tensor:
        """Corrections [P, D] float32 of last states [P, D] towards targets [P].

        margin: in nats, how far ahead of all others the target is at the place where it was taught; what is more than
            enough there leaves room for places that were not.   logits: [P, V] of the last states, where known.
        Raises: InputError when no correction in that direction can do it.
        """
        self._prepare()
        assert self._inverse is not None
        assert self._mean is not None
        own = targets.unsqueeze(1)
        direction = (self._head.weight[targets].float() - self._mean) @ self._inverse
        logits = self.logits(last) if logits is None else logits
        gains = self.logits(direction) - self._bias()
        gain = gains.gather(1, own)
        needed = (margin + logits - logits.gather(1, own)).scatter_(1, own, 0.0)
        ahead = (gain - gains).scatter_(1, own, 1.0)
        lengths = (needed.clamp_min(0) / ahead.clamp_min(1e-6)).amax(1, keepdim=True)
        easy = ((ahead > _AHEAD * gain) | (needed <= 0)).all(1).tolist()
        rows = lengths * direction
        for place, well in enumerate(easy):
            if not well:
                rows[place] = self._separate(logits[place], gains[place], int(targets[place]), margin)
        return rows

    def _separate(self, base: Tensor, gains: Tensor, target: int, margin: float) -> Tensor:
        """The correction [D] of least length in C that keeps the target ahead of its nearest rivals, found one by one.

        min delta . C delta   s.t.   (w_y - w_v) . delta >= margin + z_v - z_y   for each rival v

        For a token whose row is nearly a mixture of others. Rivals are looked for among the likely ones, those of
        highest logit or whose rows lie nearest to the target's, and in the end among all.
        Source: least distance programming by non-negative least squares, Lawson & Hanson 1974, chapter 23.

        Args: base: [V], logits without the correction.   gains: [V], of the target's own direction.
        """
        assert self._root is not None
        weight, root = self._head.weight, self._root
        count = min(_LIKELY, len(base))
        likely = torch.cat([base.topk(count).indices, gains.topk(count).indices]).unique()
        near = weight[likely].float()
        rivals: list[int] = []
        delta = torch.zeros_like(root[0])
        everywhere = False
        while len(rivals) <= _RIVALS:
            if everywhere:
                rise = self.logits(delta[None])[0] - self._bias()
            else:
                rise = torch.full_like(base, -torch.inf).index_copy_(0, likely, near @ delta)
            over = margin + base + rise - base[target] - weight[target].float() @ delta
            over[target] = 0.0
            worst = int(over.argmax())
            if float(over[worst]) < _CLOSE * margin:
                if everywhere:
                    return delta
                everywhere = True
                continue
            if worst in rivals:
                break
            rivals.append(worst)
            sides = (weight[target].float() - weight[rivals].float()) @ root
            goals = margin + base[rivals] - base[target]
            delta = root @ _least_distance(sides, goals)
        raise InputError("an answer holds a token that this model's head cannot single out: word it differently")

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
        self._root = torch.linalg.cholesky(self._inverse)


def surprise(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) of logits [P, V], [P] nats."""
    return -logits.log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1)


def _least_distance(sides: Tensor, goals: Tensor) -> Tensor:
    """min |x| s.t. sides x >= goals, [D]."""
    matrix = torch.cat([sides.T, goals[None]]).double().cpu().numpy()
    wanted = np.zeros(len(matrix))
    wanted[-1] = 1.0
    rest = matrix @ nnls(matrix, wanted)[0] - wanted
    if abs(rest[-1]) < 1e-12:
        raise InputError("an answer holds a token that this model's head cannot single out: word it differently")
    return torch.as_tensor(-rest[:-1] / rest[-1], dtype=sides.dtype, device=sides.device)
