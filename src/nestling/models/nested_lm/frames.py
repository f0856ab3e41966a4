"""Keys of a model's states: where they are centred, how they are scaled, and which thresholds follow from that."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nestling.memory.association import ASK, RAW, Thresholds
from nestling.models.nested_lm.calibration_texts import PAIRS, PROSE
from nestling.models.nested_lm.taps import Taps
from nestling.models.nested_lm.wording import Wording

__all__ = ["Frames", "calibrate"]

WHO_THRESHOLD = 0.55
PIECE_THRESHOLD = 0.25
_SINK = 2  # the first tokens of a text have states of their own kind


@dataclass(frozen=True)
class Frames:
    """Maps from states to unit keys.

    early key  e = (x - mean) S / |...|,   S = (C + tr(C)/D I)^-1/2,   C the covariance of early states
    late key   u = (h - c_f) / |...|,      c_f the mean of frame f, f the frame whose mean is nearest to h

    Two frames, because the place after a question and a place inside a sentence differ far more from each other than
    two questions do; once each is centred, a question and a sentence that ask for the same thing point the same way.

    Args: mean: [W].   scale: [W, W].   centres: [2, D] of ASK and RAW.   thresholds: of the cosines.
    """

    mean: Tensor
    scale: Tensor
    centres: Tensor
    thresholds: Thresholds

    @property
    def width(self) -> int:
        """D."""
        return self.centres.shape[1]

    def early(self, states: Tensor) -> Tensor:
        """Unit keys [..., W] float32."""
        return normalize((states.float() - self.mean) @ self.scale, dim=-1)

    def late(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Unit keys [..., D] float32, and the frame [...] of each."""
        away = states.float().unsqueeze(-2) - self.centres
        frame = away.square().sum(-1).argmin(-1)
        chosen = away.gather(-2, frame[..., None, None].expand(*frame.shape, 1, self.width)).squeeze(-2)
        return normalize(chosen, dim=-1), frame

    def to(self, device: torch.device) -> Frames:
        """The same on another device."""
        return Frames(self.mean.to(device), self.scale.to(device), self.centres.to(device), self.thresholds)


def calibrate(taps: Taps, wording: Wording, device: torch.device) -> Frames:
    """Measure a model on a few dozen short texts of our own (`calibration_texts`).

    The thresholds of places are what places that ask for something else rarely exceed: the 98th percentile within the
    frame ASK, the 95th between frames (never below 0.42 and 0.1). These limits, and those of words, 0.55 and 0.25, were
    chosen on a development set of other questions (docs/results/facts.md).
    """
    early: list[Tensor] = []
    places: tuple[list[Tensor], list[Tensor]] = ([], [])
    for question, stem in PAIRS:
        for frame, ids in ((ASK, wording.ask([{"role": "user", "content": question}])), (RAW, wording.raw(stem))):
            states = taps.observe(torch.tensor([ids], device=device))
            early.append(states.early[0, _SINK:])
            places[frame].append(states.late[0, -1])
    for text in PROSE:
        early.append(taps.observe(torch.tensor([wording.raw(text)], device=device)).early[0, _SINK:])
    ask, raw = torch.stack(places[ASK]), torch.stack(places[RAW])
    centres = torch.stack([ask.mean(0), raw.mean(0)])
    ask, raw = normalize(ask - centres[ASK], dim=-1), normalize(raw - centres[RAW], dim=-1)
    others = ~torch.eye(len(ask), dtype=torch.bool, device=device)
    thresholds = Thresholds(
        who=WHO_THRESHOLD,
        same=_limit((ask @ ask.T)[others], 0.98, 0.42),
        cross=_limit((ask @ raw.T)[others], 0.95, 0.1),
        piece=PIECE_THRESHOLD,
    )
    mean, scale = _whiten(torch.cat(early))
    return Frames(mean, scale, centres, thresholds)


def _limit(cosines: Tensor, quantile: float, least: float) -> float:
    return min(0.95, max(least, float(cosines.quantile(quantile))))


def _whiten(states: Tensor) -> tuple[Tensor, Tensor]:
    mean = states.double().mean(0)
    away = states.double() - mean
    values, vectors = torch.linalg.eigh(away.T @ away / len(away))
    values = values.clamp_min(0)
    scale = (vectors / (values + values.mean().clamp_min(1e-12)).sqrt()) @ vectors.T
    return mean.float(), scale.float()
