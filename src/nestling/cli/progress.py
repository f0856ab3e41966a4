"""Progress of runs: bars with the remaining time on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nestling.recipes.run import Event, Listener


@contextlib.contextmanager
def make_listener(num_runs: int) -> Iterator[Listener]:
    """Bars when stderr is a terminal, else lines; both on stderr, so that stdout holds the result alone."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(
        *columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console
    ) as progress:
        yield Bars(progress, num_runs)


class Bars(Listener):
    """One bar for everything and one for each run under way."""

    def __init__(self, progress: Progress, num_runs: int) -> None:
        self.progress = progress
        self.overall = progress.add_task("all runs", total=num_runs)
        self.bars: dict[tuple[str, int], TaskID] = {}
        self.fractions: dict[tuple[str, int], float] = {}
        self.preparation: TaskID | None = None

    def on_preparation(self, what: str, done: int, total: int) -> None:
        """A bar while the stream is prepared."""
        if self.preparation is None:
            self.preparation = self.progress.add_task("")
        self.progress.update(self.preparation, description=what[:48].ljust(48), completed=done, total=total)
        if done >= total:
            self.progress.remove_task(self.preparation)
            self.preparation = None

    def on_event(self, event: Event) -> None:
        """Move the bars."""
        run = (event.strategy, event.seed)
        self.fractions[run] = event.fraction
        self.progress.update(self.overall, completed=sum(self.fractions.values()))
        if run not in self.bars:
            self.bars[run] = self.progress.add_task("", total=1.0)
        text = f"{event.strategy} seed {event.seed}: {event.stage} {event.experience}"
        self.progress.update(self.bars[run], completed=event.fraction, description=text[:48].ljust(48))
        if event.stage == "finished":
            self.progress.remove_task(self.bars.pop(run))

    def say(self, message: str) -> None:
        """A line above the bars."""
        self.progress.console.print(message, markup=False, highlight=False)


class Lines(Listener):
    """One line for every experience learned."""

    def on_preparation(self, what: str, done: int, total: int) -> None:
        """Say what was prepared."""
        if done >= total:
            self.say(f"{what}: done")

    def on_event(self, event: Event) -> None:
        """Print what was reached."""
        if event.stage == "learned":
            so_far = event.row[: event.index + 1]
            self.say(
                f"{event.strategy} seed {event.seed}: learned {event.experience} "
                f"({event.index + 1}/{event.num_experiences}), on it {event.row[event.index]:.3f}, "
                f"mean so far {sum(so_far) / len(so_far):.3f}"
            )

    def say(self, message: str) -> None:
        """A line on stderr."""
        print(message, file=sys.stderr, flush=True)
