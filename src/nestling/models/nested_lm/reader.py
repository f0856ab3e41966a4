"""Reading the memory while a text goes by: which pair opens where, and how an opened answer is written to its end."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nestling.memory.association import ASK, RAW, Association, AssociationTable
from nestling.models.nested_lm.frames import Frames

__all__ = ["Firing", "Reader"]


@dataclass(frozen=True)
class Firing:
    """One opening: row of the batch, position in this pass, index of the association, and its score in (0, 1]."""

    row: int
    position: int
    association: int
    score: float


@dataclass
class _Pending:
    """An answer that is being written: the token `place` of it comes next."""

    association: int
    frame: int
    place: int


@dataclass
class Reader:
    """Turns states into corrections of the last state; keeps what it has heard of a text that goes on.

    Args: frames: keys of the model.   associations: all that is stored.
    """

    frames: Frames
    associations: list[Association] = field(default_factory=list)
    fired: list[Firing] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.replace(self.associations)

    def replace(self, associations: list[Association]) -> None:
        """Read these from now on."""
        self.associations = list(associations)
        self.table = AssociationTable(self.associations, self.frames.thresholds) if associations else None
        self._heard: Tensor | None = None
        self._pending: list[_Pending | None] = []

    @torch.no_grad()
    def correct(self, early: Tensor, late: Tensor, fresh: bool) -> Tensor | None:
        """What to add to the last states [B, T, D] float32, None where nothing opens."""
        if self.table is None:
            return None
        rows = len(early)
        if fresh or self._heard is None or len(self._heard) != rows:
            self._heard, self._pending, self.fired = None, [None] * rows, []
        key, (place, frame) = self.frames.early(early), self.frames.late(late)
        heard = self.table.heard(key, self._heard)
        self._heard = heard[:, -1].clone()
        best = self.table.scores(self.table.subjects(heard), place, frame).max(dim=-1)
        if not bool((best.values > 0).any()) and not any(self._pending):
            return None
        added = torch.zeros(*early.shape[:2], self.frames.width, device=early.device)
        changed = [self._walk(row, key[row], frame[row], best, added[row]) for row in range(rows)]
        return added if any(changed) else None

    def _walk(self, row: int, key: Tensor, frame: Tensor, best: torch.return_types.max, added: Tensor) -> bool:
        """Write into `added` [T, D] along one text."""
        assert self.table is not None
        score = best.values[row].tolist()
        index = self.table.owner[best.indices[row]].tolist()
        where = frame.tolist()
        pending, changed = self._pending[row], False
        for t in range(len(score)):
            if pending is not None and (value := self._next(pending, key[t])) is not None:
                added[t], changed = value, True
                pending = self._after(pending)
                continue
            pending = None
            if score[t] > 0:
                pending = _Pending(index[t], where[t], 0)
                added[t], changed = self.associations[index[t]].forms[where[t]].values[0], True
                self.fired.append(Firing(row, t, index[t], score[t]))
                pending = self._after(pending)
        self._pending[row] = pending
        return changed

    def _next(self, pending: _Pending, key: Tensor) -> Tensor | None:
        """The correction for the next token of the answer, if the token just read is the one before it."""
        form = self.associations[pending.association].forms[pending.frame]
        if float(form.pieces[pending.place - 1] @ key) < self.frames.thresholds.piece:
            return None
        return form.values[pending.place]

    def _after(self, pending: _Pending) -> _Pending | None:
        form = self.associations[pending.association].forms[pending.frame]
        following = pending.place + 1
        return _Pending(pending.association, pending.frame, following) if following < len(form.values) else None


assert (ASK, RAW) == (0, 1)  # forms are stored in this order
