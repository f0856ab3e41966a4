"""Progress of a training: a bar with tokens per second and the remaining time, or plain lines."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from nestling.recipes.language import Recipe, StepListener

_SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def make_step_listener(recipe: Recipe) -> Iterator[StepListener]:
    """A bar when stderr is a terminal, else lines; both on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield StepLines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} left"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        yield StepBar(progress, recipe)


def _describe(row: dict[str, Any]) -> str:
    return f"{row['loss'] / math.log(2):.3f} bits per token, {row['tokens_per_second']:,.0f} tokens/s"


class StepBar(StepListener):
    """One bar."""

    def __init__(self, progress: Progress, recipe: Recipe) -> None:
        self.progress = progress
        self.task = progress.add_task(recipe.model, total=recipe.steps)

    def on_step(self, row: dict[str, Any], recipe: Recipe) -> None:
        """Move the bar."""
        self.progress.update(self.task, completed=row["step"], description=f"{recipe.model}: {_describe(row)}")

    def say(self, message: str) -> None:
        """A line above the bar."""
        self.progress.console.print(message, markup=False, highlight=False)


class StepLines(StepListener):
    """A line every ten seconds, and one for the last step."""

    def __init__(self) -> None:
        self.spoken = -math.inf

    def on_step(self, row: dict[str, Any], recipe: Recipe) -> None:
        """Say how it goes, now and then."""
        now = time.monotonic()
        if now - self.spoken >= _SECONDS_BETWEEN_LINES or row["step"] == recipe.steps:
            self.spoken = now
            left = time.strftime("%H:%M:%S", time.gmtime(row["seconds_left"]))
            self.say(f"step {row['step']}/{recipe.steps}: {_describe(row)}, {left} left")

    def say(self, message: str) -> None:
        """A line on stderr."""
        print(message, file=sys.stderr, flush=True)
