"""One strategy, one seed: learn every experience of a stream in turn and fill the matrix R."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from nestling.errors import CheckpointError, InputError
from nestling.learners import Strategy, parse_strategy
from nestling.metrics import peak_memory_bytes, reset_peak_memory
from nestling.recipes.checkpoint import CheckpointFolder
from nestling.recipes.fit import check_module, predict_untrained
from nestling.recipes.results import RunRecord, all_finite
from nestling.recipes.scores import matrix_scores
from nestling.streams import Experience, Stream
from nestling.streams.base import Predictor

SECONDS_BETWEEN_CHECKPOINTS = 3.0
_LARGEST_SHARE_OF_SAVING = 0.1

Stage = Literal["measuring untrained", "learning", "measuring", "learned", "finished"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """How far a run is: `done` of `total` within one stage of experience `index`.

    row: scores on all experiences, in stage "learned".
    """

    strategy: str
    seed: int
    stage: Stage
    experience: str
    index: int
    num_experiences: int
    done: int
    total: int
    row: tuple[float, ...] = ()

    @property
    def fraction(self) -> float:
        """How much of the whole run is behind, 0 to 1, taking measuring for a tenth of the work."""
        if self.stage == "finished":
            return 1.0
        parts = {
            "measuring untrained": (0.0, 0.0),
            "learning": (0.0, 0.9),
            "measuring": (0.9, 0.1),
            "learned": (1.0, 0.0),
        }
        before, share = parts[self.stage]
        return (self.index + before + share * self.done / max(1, self.total)) / self.num_experiences


class Listener:
    """Receives the progress of runs; this one is silent. Subclass it to show something."""

    def on_preparation(self, what: str, done: int, total: int) -> None:
        """The stream is being prepared (demonstrations recorded, features computed): `done` of `total`."""

    def on_event(self, event: Event) -> None:
        """A run went one step further."""

    def say(self, message: str) -> None:
        """Something a person should know, in one line."""


@dataclass
class Position:
    """Where a run stands, in plain numbers that can be saved; the strategy itself is saved beside it.

    learned: experience `index` has been learned, only measuring is left.
    row: scores of experience `index` measured so far.
    """

    index: int = 0
    learned: bool = False
    baseline: list[float] = field(default_factory=list)
    matrix: list[list[float]] = field(default_factory=list)
    row: list[float] = field(default_factory=list)
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    peak_memory_bytes: int = 0


class Run:
    """Learns `stream` with one strategy from one seed, saving itself on the way.

    Args:
        stream: already in the order of this seed.
        strategy_name: a key of `STRATEGIES`, or a spec with options (`learners.spec`).
        seed: of the module's initial weights and of the strategy.
        make_module: fresh module, torch being seeded before the call; None takes the stream's own.
        folder: where checkpoints go; None keeps none.
        every: least seconds between two checkpoints inside an experience, `SECONDS_BETWEEN_CHECKPOINTS` if None.
            Changes no figure.
        listener: is told how far the run is.
    """

    def __init__(
        self,
        stream: Stream,
        strategy_name: str,
        seed: int,
        *,
        make_module: Callable[[], nn.Module] | None = None,
        folder: Path | None = None,
        every: float | None = None,
        listener: Listener | None = None,
    ) -> None:
        self.stream = stream
        self.strategy_name = strategy_name
        self.seed = seed
        self.every = SECONDS_BETWEEN_CHECKPOINTS if every is None else every
        self.listener = listener or Listener()
        self.checkpoints = CheckpointFolder(folder) if folder else None
        self.position = Position()
        self.strategy = self._build(make_module or stream.make_model)
        reset_peak_memory()
        self._saved_at = time.monotonic()

    def __call__(self) -> RunRecord:
        """Go on from the newest checkpoint, or begin; returns the record of the finished run."""
        self.restore()
        position, count = self.position, len(self.stream.experiences)
        untrained = partial(predict_untrained, self.strategy.module)
        self._measure(position.baseline, untrained, "measuring untrained")
        while position.index < count:
            if not position.learned:
                self._learn(self.stream.experiences[position.index])
            self._measure(position.row, self.strategy.predict, "measuring")
            self._finish_row()
        self._tell("finished", self.stream.experiences[-1].name, 1, 1)
        return self._record()

    def restore(self) -> None:
        """Load the newest whole checkpoint, if there is one. Raises CheckpointError when it is of another run."""
        state = self.checkpoints.load(self.listener.say) if self.checkpoints else None
        if self.checkpoints is None or state is None:
            return
        try:
            self.position = Position(**state["position"])
            self.strategy.load_state_dict(state["strategy"])
            torch.set_rng_state(state["random"])
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError, CheckpointError) as error:
            raise CheckpointError(
                f"the checkpoint in {self.checkpoints.folder} is of another run or version "
                f"({type(error).__name__}: {error}); delete that folder to start this run again"
            ) from error

    def _build(self, make_module: Callable[[], nn.Module]) -> Strategy:
        torch.manual_seed(self.seed)
        module = make_module()
        check_module(module, self.stream)
        spec = parse_strategy(self.strategy_name)
        return spec.build(module, self.stream.problem, training=self.stream.training, seed=self.seed)

    def _learn(self, experience: Experience) -> None:
        position = self.position
        since = time.perf_counter()
        for progress in self.strategy.learn(experience.train):
            self._tell("learning", experience.name, progress.done, progress.total)
            # After the last safe point the strategy may still have to finish: that state is saved below.
            if progress.done < progress.total:
                now = time.perf_counter()
                position.seconds, since = position.seconds + now - since, now
                self._save_sometimes()
                since = time.perf_counter()
        position.seconds += time.perf_counter() - since
        position.learned = True
        self._save()

    def _measure(self, scores: list[float], predictor: Predictor, stage: Stage) -> None:
        """Append to `scores` what is missing: the score on every experience in order of arrival."""
        position, experiences = self.position, self.stream.experiences
        for done in range(len(scores), len(experiences)):
            self._tell(stage, experiences[done].name, done, len(experiences))
            start = time.perf_counter()
            score = float(self.stream.evaluate(predictor, experiences[done]))
            position.evaluation_seconds += time.perf_counter() - start
            if not all_finite([score]):
                raise InputError(self._diverged(score, experiences[done].name, stage))
            scores.append(score)
            self._save_sometimes()

    def _finish_row(self) -> None:
        position = self.position
        position.matrix.append(position.row)
        position.learned, position.row = False, []
        position.index += 1
        self._save()
        name = self.stream.experiences[position.index - 1].name
        self._tell("learned", name, 1, 1, index=position.index - 1, row=tuple(position.matrix[-1]))

    def _save_sometimes(self) -> None:
        if time.monotonic() - self._saved_at >= self.every:
            self._save()

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        start = time.monotonic()
        self.position.peak_memory_bytes = max(self.position.peak_memory_bytes, peak_memory_bytes())
        state = {
            "position": asdict(self.position),
            "strategy": self.strategy.state_dict(),
            "random": torch.get_rng_state(),
        }
        self.checkpoints.save(state)
        self._saved_at = time.monotonic()
        self.every = max(self.every, (self._saved_at - start) / _LARGEST_SHARE_OF_SAVING)

    def _tell(
        self,
        stage: Stage,
        experience: str,
        done: int,
        total: int,
        *,
        index: int | None = None,
        row: tuple[float, ...] = (),
    ) -> None:
        self.listener.on_event(
            Event(
                strategy=self.strategy_name,
                seed=self.seed,
                stage=stage,
                experience=experience,
                index=self.position.index if index is None else index,
                num_experiences=len(self.stream.experiences),
                done=done,
                total=total,
                row=row,
            )
        )

    def _diverged(self, score: float, experience: str, stage: Stage) -> str:
        learned = self.stream.experiences[self.position.index].name
        when = "before learning" if stage == "measuring untrained" else f"after learning {learned!r}"
        return (
            f"strategy {self.strategy_name!r} (seed {self.seed}) scores {score} on {experience!r} {when}: "
            "it diverged; lower the learning rate or check the data for extreme values"
        )

    def _record(self) -> RunRecord:
        position, strategy = self.position, self.strategy
        return RunRecord(
            strategy=self.strategy_name,
            seed=self.seed,
            matrix=position.matrix,
            baseline=position.baseline,
            **matrix_scores(position.matrix, position.baseline, higher_is_better=self.stream.higher_is_better),
            stored_bytes=strategy.stored_bytes(),
            state_bytes=strategy.state_bytes(),
            num_parameters=strategy.num_parameters(),
            seconds=position.seconds,
            evaluation_seconds=position.evaluation_seconds,
            peak_memory_bytes=max(position.peak_memory_bytes, peak_memory_bytes()),
            experiences=[experience.name for experience in self.stream.experiences],
        )
