"""What a learner does with running text: read it, keep it in a file, forget a reading."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nestling.errors import InputError
from nestling.models.nested_lm.background import background
from nestling.models.nested_lm.calibration_texts import PROSE
from nestling.models.nested_lm.contexts import Context, ReadState
from nestling.models.nested_lm.corrections import Corrections
from nestling.models.nested_lm.frames import Frames
from nestling.models.nested_lm.lesson import Capacity
from nestling.models.nested_lm.level_saving import levels_path, read_levels, write_levels
from nestling.models.nested_lm.levels import Levels
from nestling.models.nested_lm.reading import Reading, Student, tokens_of
from nestling.models.nested_lm.sleeping import Sleep, lessons_stay, prose_nats, sleep
from nestling.models.nested_lm.taps import Taps
from nestling.models.nested_lm.wording import Wording

__all__ = ["Reads", "Study"]

DRIFT = 0.001


class Study:
    """The levels of a learner and the file beside its memory file. A failed change leaves everything as it was.

    Args: model, taps: of the learner.   early: the block that tells contexts apart.   wording: of the learner.
        frames: keys of the model.
        model_hash: of the model.   memory: the learner's memory file; levels are kept beside it.
    """

    def __init__(
        self,
        model: nn.Module,
        taps: Taps,
        early: int,
        *,
        wording: Wording,
        frames: Callable[[], Frames],
        model_hash: Callable[[], str],
        memory: Path | None,
    ) -> None:
        self.levels = Levels(model, taps, early)
        self._model, self._frames, self._model_hash = model, frames, model_hash
        self._taps, self._wording = taps, wording
        self._path = None if memory is None else levels_path(memory)

    @property
    def state(self) -> ReadState:
        """Everything read."""
        return self.levels.state

    def read(
        self,
        text: str | Iterable[str],
        device: torch.device,
        progress: Callable[[int], None] | None,
    ) -> Reading:
        """Read a text to its end; it is learned and written when this returns, or not at all."""
        frames = self._frames()
        state = self.state
        if not state.background:
            state = replace(state, background=background(self._taps, self._wording, frames, device))
        student = Student(self.levels, state, frames, self._model, device)
        reading = student.read(tokens_of(text, self._wording.raw), progress)
        self.change(student.state)
        return reading

    def forget(self, id_: str) -> None:
        """Delete what a reading left. Raises: InputError when there is none, or others fed the same context."""
        fed = [each for each in self.state.contexts if id_ in each.readings]
        if not fed:
            raise InputError(f"there is no lesson or reading {id_!r}: see lessons() and contexts()")
        others = sorted({each for context in fed for each in context.readings} - {id_})
        if others:
            raise InputError(
                f"reading {id_} went into the same levels as {', '.join(others)} and cannot be taken out alone: "
                "forget_context deletes all of them together"
            )
        self.change(self.state.without(id_))

    def forget_context(self, id_: str) -> None:
        """Delete a context with all that was read into it. Raises: InputError when there is none."""
        left = tuple(each for each in self.state.contexts if each.id != id_)
        if len(left) == len(self.state.contexts):
            raise InputError(f"there is no context {id_!r}: see contexts()")
        self.change(replace(self.state, contexts=left))

    def sleep(self, seconds: float, prose: Callable[[], float]) -> tuple[Sleep, ...]:
        """Let every context sleep, within a time altogether; a context whose sleep costs prose anything stays awake.

        prose: nats per token of ordinary prose with what is known now.
        """
        reports: list[Sleep] = []
        before, state = self.state, self.state
        cost = prose() if state.contexts else 0.0
        for context in before.contexts:
            slept, report = sleep(context, seconds / len(before.contexts))
            self.levels.replace(state.with_context(slept), self._frames)
            now = prose() if report.moved else cost
            report = replace(report, drift_before=cost, drift_after=now)
            if now > cost + DRIFT:
                report = replace(report, moved=0, left=len(context.memory), why="ordinary prose would suffer")
            elif report.moved:
                state, cost = state.with_context(slept), now
            reports.append(report)
        self.levels.replace(before, self._frames)
        self.change(state)
        return tuple(reports)

    def change(self, state: ReadState) -> None:
        """Know this from now on, on disk too."""
        if self._path is not None and state.hash() != self.state.hash():
            self._write(self._path, state)
        self.levels.replace(state, self._frames)

    def save(self, memory: Path) -> None:
        """Write what was read beside a memory file, when anything was or an old file is there."""
        path = levels_path(memory)
        if self.state.contexts or path.exists():
            self._write(path, self.state)

    def load(self, memory: Path) -> None:
        """Know what stands beside a memory file; nothing where nothing does."""
        path = levels_path(memory)
        state = read_levels(path, model=self._model_hash()) if path.exists() else ReadState()
        self._check(state)
        self.levels.replace(state, self._frames)

    def contexts(self) -> list[Context]:
        """In the order in which they began."""
        return list(self.state.contexts)

    def _write(self, path: Path, state: ReadState) -> None:
        write_levels(path, state, model=self._model_hash())

    def _check(self, state: ReadState) -> None:
        names: set[Any] = {each.name for each in self.levels.maps}
        for context in state.contexts:
            if set(context.deltas) != names:
                raise InputError(f"context {context.id} has levels on other maps than this model: read the texts again")


class Reads(ABC):
    """The part of a learner that reads and sleeps."""

    model: nn.Module
    _study: Study
    _corrections: Corrections
    _wording: Wording

    def read(self, text: str | Iterable[str], *, progress: Callable[[int], None] | None = None) -> Reading:
        """Go on learning from running text, chunk by chunk: each is predicted, then learned. Whole or not at all.

        Args: text: a text, or pieces of one; the tokens are the same however it is cut.   progress: told the number
            of tokens so far.
        Raises: InputError for nothing and binary content.
        """
        return self._study.read(text, self._corrections.device, progress)

    def contexts(self) -> list[Context]:
        """Kinds of text that were read, each with levels of its own."""
        return self._study.contexts()

    def forget_context(self, context: Context | str) -> None:
        """Delete a kind of text with all readings that went into it; lessons and other contexts stay as they are."""
        self._study.forget_context(context if isinstance(context, str) else context.id)

    def sleep(self, budget: float = 60.0) -> tuple[Sleep, ...]:
        """Hold what was read in fewer pairs where that costs nothing. Args: budget: seconds.

        Returns: a report for every context and one for the lessons: what was released, what it cost, or why not.
        """
        if not budget > 0:
            raise InputError(f"expected a budget above 0 seconds, got {budget}")
        return (*self._study.sleep(budget, self._prose), lessons_stay(self.capacity().used))

    @abstractmethod
    def capacity(self) -> Capacity:
        """How full the memory of lessons is."""

    @torch.no_grad()
    def _prose(self) -> float:
        """Nats per token of ordinary prose with what is known now."""
        return prose_nats(self.model, [self._wording.raw(text) for text in PROSE], self._corrections.device)
