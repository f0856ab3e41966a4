"""Keys of a model's states: where they are centred, how they are scaled, and which thresholds follow from that."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nestling.memory.association import ASK, RAW, Thresholds
from nestling.models.nested_lm.calibration_texts import PROSE, asked
from nestling.models.nested_lm.passes import Passes
from nestling.models.nested_lm.taps import Taps
from nestling.models.nested_lm.wording import Wording

__all__ = ["LIMITS", "PARTS", "SINK", "Frames", "calibrate"]

LIMITS = Thresholds(who=0.55, same=0.47, cross=0.16, piece=0.25)
_SHRINKAGE = 1.0
PARTS = ("mean", "scale", "centres", "metric")
SINK = 2  # the first tokens of a text have states of their own kind


@dataclass(frozen=True)
class Frames:
    """Maps from states to unit keys.

    early key  e = (x - mean) S / |...|,   S = (C + tr(C)/D I)^-1/2,   C the covariance of early states
    late key   u = (h - c_f) S_w / |...|,  c_f the mean of frame f, f the frame whose mean is nearest to h,
                                           S_w = (W + tr(W)/D I)^-1/2, W the covariance within relations

    Two frames, because the place after a question and a place inside a sentence differ far more from each other than
    two questions do; once each is centred, a question and a sentence that ask for the same thing point the same way.

    Args: mean: [W].   scale: [W, W].   centres: [2, D] of ASK and RAW.   metric: [D, D], S_w.
        thresholds: of the cosines.
    """

    mean: Tensor
    scale: Tensor
    centres: Tensor
    metric: Tensor
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
        return normalize(chosen @ self.metric, dim=-1), frame

    def to(self, device: torch.device) -> Frames:
        """The same on another device."""
        return Frames(*(part.to(device) for part in self.parts().values()), thresholds=self.thresholds)

    def parts(self) -> dict[str, Tensor]:
        """Its tensors by name, in the order of `PARTS`."""
        return {name: getattr(self, name) for name in PARTS}


def calibrate(taps: Taps, wording: Wording, device: torch.device) -> Frames:
    """Measure a model on a few dozen short texts of our own (`calibration_texts`).

    S_w takes down what differs between wordings and invented names of one question: W is the covariance of late states
    around the mean of their relation. The limits of words, places and pieces are fixed: they were chosen on a
    development set of other questions and one model (docs/results/facts.md).
    """
    kinds: list[tuple[int, int]] = []
    questions: list[list[int]] = []
    sentences: list[list[int]] = []
    for relation, sentence, text in asked():
        kinds.append((relation, RAW if sentence else ASK))
        if sentence:
            sentences.append(wording.raw(text))
        else:
            questions.append(wording.ask([{"role": "user", "content": text}]))
    kinds.sort(key=lambda kind: kind[1] == RAW)
    passes = Passes(taps, device, wording.start())
    observed = [*passes.together(questions), *passes.together(sentences)]
    places = [states.late[0, -1] for states in observed]
    observed += [passes.alone(wording.raw(text)) for text in PROSE]
    early = [states.early[0, SINK:] for states in observed]
    relation, frame = torch.tensor(kinds, device=device).T
    late = torch.stack(places).double()
    centres = torch.stack([late[frame == each].mean(0) for each in (ASK, RAW)])
    away = late - centres[frame]
    within = away - torch.stack([away[relation == each].mean(0) for each in relation])
    metric = _shrunk_root(within, _SHRINKAGE)
    together = torch.cat(early).double()
    mean = together.mean(0)
    scale = _shrunk_root(together - mean, 1.0)
    return Frames(mean.float(), scale.float(), centres.float(), metric.float(), LIMITS)


def _shrunk_root(away: Tensor, shrinkage: float) -> Tensor:
    """(C + shrinkage tr(C)/D I)^-1/2 of the covariance C of rows [N, D]."""
    values, vectors = torch.linalg.eigh(away.T @ away / len(away))
    values = values.clamp_min(0)
    return (vectors / (values + shrinkage * values.mean().clamp_min(1e-12)).sqrt()) @ vectors.T
