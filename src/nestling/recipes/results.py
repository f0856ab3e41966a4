"""The result of comparing strategies on a stream, and its file `results.json`."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nestling.errors import DataError
from nestling.recipes.files import make_folder, plain_errors, write_atomically
from nestling.recipes.typed_json import read_record

RESULTS = "results.json"
REPORT = "report.html"


@dataclass(frozen=True, kw_only=True)
class StreamRecord:
    """What was learned: name, names of the experiences in the given order, hash of all their data."""

    name: str
    experiences: list[str]
    hash: str


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One strategy with one seed.

    matrix: R[i][j], score on experience j after learning experience i, in the order of arrival of this run.
    average_accuracy, forgetting, backward_transfer, forward_transfer, learning_accuracy: see `nestling.metrics`;
        in the unit of the stream's metric. Forgetting above 0 is a loss also where lower scores are better.
    baseline: score of the untrained module on every experience.
    experiences: names in the order of arrival of this run.
    stored_bytes, state_bytes: examples kept and everything else kept, after the last experience.
    seconds, evaluation_seconds: wall time spent on learning and on measuring.
    peak_memory_bytes: largest resident memory of the process during the run.
    """

    strategy: str
    seed: int
    matrix: list[list[float]]
    average_accuracy: float
    forgetting: float
    backward_transfer: float
    forward_transfer: float
    stored_bytes: int
    state_bytes: int
    num_parameters: int
    seconds: float
    peak_memory_bytes: int
    learning_accuracy: float
    baseline: list[float]
    experiences: list[str]
    evaluation_seconds: float


@dataclass(frozen=True, kw_only=True)
class SummaryRecord:
    """Mean and sample standard deviation of a strategy over its seeds (0 for a single seed)."""

    strategy: str
    num_seeds: int
    average_accuracy_mean: float
    average_accuracy_std: float
    forgetting_mean: float
    forgetting_std: float
    backward_transfer_mean: float
    backward_transfer_std: float
    forward_transfer_mean: float
    forward_transfer_std: float
    learning_accuracy_mean: float
    learning_accuracy_std: float
    stored_bytes_mean: float
    state_bytes_mean: float
    num_parameters: int
    seconds_mean: float
    peak_memory_bytes_mean: float


@dataclass(frozen=True, kw_only=True)
class LearnResult:
    """What `nestling.learn` returns. `complete` is False while runs are still missing."""

    stream: StreamRecord
    metric: str
    higher_is_better: bool
    runs: list[RunRecord]
    summary: list[SummaryRecord]
    config: dict[str, Any]
    command: str
    machine: dict[str, Any]
    versions: dict[str, str]
    complete: bool

    def table(self) -> str:
        """The summary as plain text, one line per strategy."""
        from nestling.recipes.report.table import plain_table

        return plain_table(self)

    def plot(self, path: str | Path) -> Path:
        """Draw retention matrices and curves into an image file (.png, .svg or .pdf)."""
        from nestling.recipes.report.figures import save_overview

        return save_overview(self, Path(path))

    def save(self, folder: str | Path) -> Path:
        """Write `results.json` and `report.html` into `folder`; returns the path of the report."""
        target = Path(folder)
        make_folder(target)
        save_results(self, target)
        return self.save_report(target)

    def save_report(self, folder: str | Path) -> Path:
        """Write `report.html` alone into `folder`; returns its path."""
        from nestling.recipes.report.page import report_page

        path = Path(folder) / REPORT
        write_atomically(path, report_page(self, Path(folder)).encode())
        return path


def summarise(runs: Sequence[RunRecord]) -> list[SummaryRecord]:
    """One record per strategy, strategies in order of first appearance."""
    names = dict.fromkeys(run.strategy for run in runs)
    return [_summarise_one(name, [run for run in runs if run.strategy == name]) for name in names]


def save_results(result: LearnResult, folder: Path) -> None:
    """Write `results.json` whole or not at all. Raises ResourceError when it cannot be written."""
    text = json.dumps(asdict(result), indent=1, allow_nan=False)
    write_atomically(folder / RESULTS, text.encode())


def load_results(folder: Path) -> LearnResult:
    """Read `results.json` from the folder of a run; the summary is made from the runs again.

    Raises: DataError when the file is missing, damaged or not ours.
    """
    path = folder / RESULTS
    if not path.is_file():
        if (folder / "config.json").is_file():
            raise DataError(
                f"{path} does not exist: no run in it is finished yet; go on with 'nestling learn --resume'"
            )
        raise DataError(f"{path} does not exist: expected the --out folder of 'nestling learn' with at least one run")
    try:
        with plain_errors("read", path):
            content = json.loads(path.read_text(encoding="utf-8"))
        given = read_record(LearnResult, content)
        runs = [RunRecord(**read_record(RunRecord, run)) for run in given["runs"]]
        given |= {"stream": StreamRecord(**read_record(StreamRecord, given["stream"])), "runs": runs}
        result = LearnResult(**{**given, "summary": summarise(runs)})
        _check_whole(result)
    except ValueError as error:
        raise DataError(
            f"{path} is damaged or of another version ({error}); the command of the run with --resume makes it again"
        ) from error
    return result


def _check_whole(result: LearnResult) -> None:
    """Raises ValueError when parts do not belong together."""
    count = len(result.stream.experiences)
    if not result.runs or count < 2:
        raise ValueError("it holds no runs")
    for run in result.runs:
        sizes = {len(run.matrix), len(run.baseline), len(run.experiences), *(len(row) for row in run.matrix)}
        if sizes != {count}:
            raise ValueError(f"the matrix of {run.strategy!r} (seed {run.seed}) is not {count} by {count}")
    if (
        not all(isinstance(result.config.get(key), list) for key in ("strategies", "seeds"))
        or not result.config["seeds"]
    ):
        raise ValueError("'config' names no strategies or seeds")
    if not isinstance(result.config.get("order"), str):
        raise ValueError("'config' names no order")


def _summarise_one(strategy: str, runs: list[RunRecord]) -> SummaryRecord:
    def mean(name: str) -> float:
        return statistics.fmean(getattr(run, name) for run in runs)

    def spread(name: str) -> float:
        return statistics.stdev(getattr(run, name) for run in runs) if len(runs) > 1 else 0.0

    scores = ("average_accuracy", "forgetting", "backward_transfer", "forward_transfer", "learning_accuracy")
    costs = ("stored_bytes", "state_bytes", "seconds", "peak_memory_bytes")
    return SummaryRecord(
        strategy=strategy,
        num_seeds=len(runs),
        num_parameters=max(run.num_parameters for run in runs),
        **{f"{name}_mean": mean(name) for name in (*scores, *costs)},
        **{f"{name}_std": spread(name) for name in scores},
    )


def all_finite(values: Sequence[float]) -> bool:
    """Whether no value is NaN or infinite."""
    return all(math.isfinite(value) for value in values)
