"""What a task for trained models is, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nestling.errors import InputError
from nestling.recipes.suite.reading import Reader

__all__ = ["ReadingTask", "Settings", "SuiteRow"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user chose for all tasks.

    data:    folder or file of texts; None is $NESTLING_DATA, then ../shared/data.
    lengths: of the contexts, in tokens of the model.
    samples: examples per task and length, for the tasks that have a length.
    limit:   passages of LAMBADA, and thousands of tokens of WikiText, from the beginning; None is all.
    stride:  tokens by which the window over WikiText moves; None is half of its length, the largest of `lengths`.
    seed:    of everything that is drawn.

    Raises:
        InputError: a number out of its range.
    """

    data: Path | None = None
    lengths: Sequence[int] = (1024, 2048, 4096)
    samples: int = 20
    limit: int | None = None
    stride: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = {"samples": self.samples, "limit": self.limit, "stride": self.stride}
        for name, number in [*numbers.items(), *(("lengths", length) for length in self.lengths)]:
            if number is not None and number < 1:
                raise InputError(f"{name}: expected a number >= 1, got {number}")
        if not self.lengths:
            raise InputError("lengths: expected at least one number of tokens")
        if self.stride is not None and self.stride > max(self.lengths):
            raise InputError(f"stride: expected at most the largest length {max(self.lengths)}, got {self.stride}")


@dataclass(frozen=True, kw_only=True)
class SuiteRow:
    """One score.

    task, metric, value.
    length:  tokens of the context, or None.
    samples: examples that were scored.
    chance:  value of a guess, where there is one.
    note:    how it was counted, where that must be said.
    """

    task: str
    metric: str
    value: float
    length: int | None = None
    samples: int = 0
    chance: float | None = None
    note: str = ""


Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ReadingTask:
    """One task for a trained model.

    name, summary: for people.
    source: where the task is defined.
    needs:  files it reads, in words.
    find:   looks for these files; DataError where one is missing.
    run:    (reader, settings, report) -> rows.
    """

    name: str
    summary: str
    source: str
    run: Callable[[Reader, Settings, Report], list[SuiteRow]]
    needs: str = "nothing"
    find: Callable[[Settings], object] = lambda _: None
