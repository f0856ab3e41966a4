"""Reading the memory while a text goes by: which pair opens where, and how an opened answer is written to its end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nestling.memory.association import ASK, RAW, Association, AssociationTable
from nestling.models.nested_lm.frames import SINK, Frames

__all__ = ["Firing", "Reader"]

_NOTHING = -1
_CERTAIN = 0.9


@dataclass(frozen=True)
class Firing:
    """One opening: row of the batch, position in this pass, index of the association, and its score in (0, 1].

    followed: False once another token was read than the one it wrote, so that nothing of it was said.
    """

    row: int
    position: int
    association: int
    score: float
    followed: bool = True


@dataclass
class _Pending:
    """An answer that is being written: the token `place` of it comes next."""

    association: int
    form: int
    place: int
    score: float
    opening: int  # its place in `Reader.fired`


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
        self._said: list[dict[int, float]] = []
        self._asked: list[int | None] = []

    @torch.no_grad()
    def correct(self, early: Tensor, late: Tensor, fresh: bool) -> Tensor | None:
        """What to add to the last states [B, T, D] float32, None where nothing opens."""
        if self.table is None:
            return None
        rows = len(early)
        begins = fresh or self._heard is None or len(self._heard) != rows
        if begins:
            self._heard, self._pending, self.fired = None, [None] * rows, []
            self._said, self._asked = [{} for _ in range(rows)], [None] * rows
        key, (place, frame) = self.frames.early(early), self.frames.late(late)
        heard = self.table.heard(key, self._heard)
        self._heard = heard[:, -1].clone()
        best = self.table.scores(self.table.subjects(heard), place, frame).max(dim=-1)
        if not bool((best.values > 0).any()) and not any(self._pending):
            return None
        added = torch.zeros(*early.shape[:2], self.frames.width, device=early.device)
        if begins:  # the first states of a text are of their own kind and say nothing of what is asked
            frame[:, :SINK] = RAW
        changed = [self._walk(row, key[row], frame[row], best, added[row]) for row in range(rows)]
        return added if any(changed) else None

    def widen(self, rows: int) -> None:
        """Go on with `rows` copies of the one text read so far."""
        if self._heard is None:
            return
        self._heard = self._heard[:1].repeat(rows, 1)
        pending, said, asked = self._pending[0], self._said[0], self._asked[0]
        self._pending = [pending, *(self._copied(pending, row) for row in range(1, rows))]
        self._said, self._asked = [dict(said) for _ in range(rows)], [asked] * rows

    def _copied(self, pending: _Pending | None, row: int) -> _Pending | None:
        """The same answer, going on in another row."""
        if pending is None:
            return None
        self.fired.append(replace(self.fired[pending.opening], row=row))
        return replace(pending, opening=len(self.fired) - 1)

    def _walk(self, row: int, key: Tensor, frame: Tensor, best: torch.return_types.max, added: Tensor) -> bool:
        """Write into `added` [T, D] along one text; an answer is interrupted only by a higher score.

        What was said is not said again inside running text unless the place fits better; a new question asks anew.
        After a question, only what that question opened may open inside the answer.
        """
        assert self.table is not None
        score = best.values[row].tolist()
        opened, where = best.indices[row].tolist(), frame.tolist()
        pending, said, changed = self._pending[row], self._said[row], False
        for t in range(len(score)):
            if pending is not None and not self._goes_on(pending, key[t]):
                if pending.place == 1:
                    self.fired[pending.opening] = replace(self.fired[pending.opening], followed=False)
                pending = None
            owner = int(self.table.owner[opened[t]])
            if where[t] == ASK:
                self._asked[row] = owner if score[t] > 0 else _NOTHING
                may = True
            else:
                meant = self._asked[row] in (None, owner) or score[t] > _CERTAIN
                may = meant and score[t] > said.get(owner, 0.0)
            if may and score[t] > (0 if pending is None else pending.score):
                pending = _Pending(owner, self.table.form(opened[t], where[t]), 0, score[t], len(self.fired))
                self.fired.append(Firing(row, t, owner, score[t]))
            if pending is not None:
                values = self.associations[pending.association].forms[pending.form].values
                added[t], changed = values[pending.place], True
                pending.place += 1
                if pending.place == len(values):
                    if len(values) > 1:  # its first tokens were recognised, so it was said
                        said[pending.association] = max(pending.score, said.get(pending.association, 0.0))
                    pending = None
        self._pending[row] = pending
        return changed

    def _goes_on(self, pending: _Pending, key: Tensor) -> bool:
        """Whether the token just read is the one that was written last."""
        piece = self.associations[pending.association].forms[pending.form].pieces[pending.place - 1]
        return float(piece @ key) >= self.frames.thresholds.piece
