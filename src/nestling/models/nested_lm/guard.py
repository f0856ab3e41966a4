"""Guard rails of a lesson: what it costs ordinary prose, and which lessons it replaces or contradicts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from nestling.errors import InputError
from nestling.memory.association import Association
from nestling.models.nested_lm.calibration_texts import PROSE
from nestling.models.nested_lm.corrections import Corrections
from nestling.models.nested_lm.frames import Frames
from nestling.models.nested_lm.passes import Passes
from nestling.models.nested_lm.reader import Reader
from nestling.models.nested_lm.taps import States, Taps
from nestling.models.nested_lm.wording import Wording
from nestling.models.nested_lm.writing import Draft

__all__ = ["Guard", "compare"]

_SAME = 0.97
_NEAR_SUBJECT, _NEAR_PLACE, _OTHER_ANSWER = 0.9, 0.8, 0.9


class Guard:
    """Knows what the frozen model makes of three paragraphs of prose, measured once.

    Args: taps, wording, corrections: of the model.   max_drift: nats per token that a lesson may cost them.
    """

    def __init__(self, taps: Taps, wording: Wording, corrections: Corrections, max_drift: float) -> None:
        self._taps, self._wording, self._corrections, self.max_drift = taps, wording, corrections, max_drift
        self._prose: list[tuple[States, Tensor]] = []

    def prepare(self) -> None:
        """Measure the prose, once."""
        if not self._prose:
            rows = [self._wording.raw(text) for text in PROSE]
            device = self._corrections.device
            passed = Passes(self._taps, device).together(rows)
            self._prose = [(s, torch.tensor(ids[1:], device=device)) for s, ids in zip(passed, rows, strict=True)]

    def check(self, draft: Draft, frames: Frames) -> None:
        """Refuse what is not finite or costs ordinary prose too much. Raises InputError."""
        if not all(bool(torch.isfinite(part).all()) for each in draft.associations for part in each.tensors()):
            raise InputError("this lesson gives NaN or infinity: the model's states are not finite here")
        self.prepare()
        reader = Reader(frames, list(draft.associations))
        change, count = 0.0, 0
        for states, targets in self._prose:
            count += len(targets)
            added = reader.correct(states.early, states.late, fresh=True)
            if added is not None:
                last = states.last[0, :-1]
                after = self._corrections.surprise(last + added[0, :-1], targets).sum()
                change += float(after - self._corrections.surprise(last, targets).sum())
        if change / count > self.max_drift:
            raise InputError(
                f"this lesson would cost ordinary prose {change / count:.3f} nats per token, more than max_drift = "
                f"{self.max_drift}: name its subject more distinctly"
            )


def compare(draft: Draft, owners: Sequence[str], stored: Sequence[Association]) -> tuple[list[str], list[str]]:
    """Lessons on the same question, and words on lessons that answer nearly the same one otherwise.

    Args: owners: the lesson of each stored association.
    """
    if draft.asked is None:
        return [], []
    new = draft.associations[0]
    same: list[str] = []
    warnings: list[str] = []
    for id_, old in zip(owners, stored, strict=True):
        place = float((new.what[0] @ old.what.T).max())
        if place < _NEAR_PLACE:
            continue
        subject = min(float((new.who @ old.who.T).amax(dim).mean()) for dim in (0, 1))
        answer = float(cosine_similarity(new.forms[1].values[0], old.forms[1].values[0], dim=0))
        if subject >= _SAME and place >= _SAME:
            same.append(id_)
        elif subject >= _NEAR_SUBJECT and answer < _OTHER_ANSWER:
            warnings.append(f"lesson {id_} answers nearly the same question otherwise (likeness {place:.2f})")
    return list(dict.fromkeys(same)), warnings
