"""The summary of a result as rows of text, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nestling.recipes.results import LearnResult, SummaryRecord

MINUS = "\u2212"
_OURS = "continuum"
_SHORT_COSTS = ("examples stored", "state", "parameters", "learning time")
PERCENT_METRICS = ("accuracy", "success rate")


@dataclass(frozen=True)
class Column:
    """One column: a head with its unit, what it means in one line, and one cell per strategy."""

    head: str
    meaning: str
    cells: tuple[str, ...]


def score_columns(result: LearnResult) -> list[Column]:
    """What was reached: mean, and sample standard deviation over seeds."""
    metric = result.metric

    def unit_of(name: str) -> str:
        return score_unit(result) if name.endswith("accuracy") else " [points]" if is_share(result) else ""

    better = "higher" if result.higher_is_better else "lower"
    kinds = {
        "average_accuracy": (f"final {metric}", f"mean over all experiences at the end; {better} is better"),
        "forgetting": ("forgetting", "lost on earlier experiences since their best; lower is better"),
        "learning_accuracy": ("just learned", f"{metric} on each experience right after learning it"),
        "backward_transfer": ("backward transfer", "change on an experience through later ones; higher is better"),
        "forward_transfer": ("forward transfer", "gain over the untrained model before an experience is learned"),
    }
    return [
        Column(head + unit_of(name), meaning, tuple(_mean_and_spread(result, row, name) for row in result.summary))
        for name, (head, meaning) in kinds.items()
    ]


def cost_columns(result: LearnResult) -> list[Column]:
    """What it took: means over seeds."""
    kinds = {
        "stored_bytes_mean": ("examples stored", "bytes of training examples kept for later", bytes_text),
        "state_bytes_mean": ("state", "bytes of everything else kept between experiences", bytes_text),
        "num_parameters": ("parameters", "numbers read when predicting", count_text),
        "seconds_mean": ("learning time", "wall time of a run, without measuring", seconds_text),
        "peak_memory_bytes_mean": ("peak memory", "of the whole process, libraries included", bytes_text),
    }
    columns = [
        Column(head, meaning, tuple(show(getattr(row, name)) for row in result.summary))
        for name, (head, meaning, show) in kinds.items()
    ]
    ours = next((row.num_parameters for row in result.summary if row.strategy == _OURS), 0)
    if ours:
        ratios = tuple(ratio_text(row.num_parameters / ours) for row in result.summary)
        columns.insert(3, Column(f"parameters / {_OURS}", f"parameters in units of those of {_OURS}", ratios))
    return columns


def short_columns(result: LearnResult) -> list[Column]:
    """Those that fit on a terminal."""
    costs = [column for column in cost_columns(result) if column.head in _SHORT_COSTS]
    return score_columns(result)[:3] + costs


def plain_table(result: LearnResult) -> str:
    """The summary as aligned text, one line per strategy."""
    shown = short_columns(result)
    grid = [["strategy", *(column.head for column in shown)]]
    for index, row in enumerate(result.summary):
        grid.append([row.strategy, *(column.cells[index] for column in shown)])
    widths = [max(len(line[i]) for line in grid) for i in range(len(grid[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if not i else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))
        )
        for line in grid
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def score_unit(result: LearnResult) -> str:
    """What stands behind a heading: per cent for shares, bits for bits."""
    return " [%]" if is_share(result) else ""


def is_share(result: LearnResult) -> bool:
    """Whether scores are shares of 1, shown in per cent."""
    return result.metric in PERCENT_METRICS


def score_text(result: LearnResult, value: float, *, digits: int = 1) -> str:
    """One score as people read it."""
    text = f"{100 * value:.{digits}f}" if is_share(result) else f"{value:.{digits + 1}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", MINUS)


def bytes_text(value: float) -> str:
    """Bytes with a unit; 0 stays 0."""
    if value == 0:
        return "0"
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB" if value < 999.5 else f"{value:.0f} GB"


def count_text(value: float) -> str:
    """A number with thousands apart."""
    return f"{value:,.0f}"


def ratio_text(value: float) -> str:
    """A factor to three digits."""
    return f"{value:.3g}" if value < 999.5 else count_text(value)


def seconds_text(value: float) -> str:
    """Seconds, minutes or hours."""
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 10:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _mean_and_spread(result: LearnResult, row: SummaryRecord, name: str) -> str:
    mean = score_text(result, getattr(row, f"{name}_mean"))
    if row.num_seeds == 1:
        return mean
    return f"{mean} ± {score_text(result, getattr(row, f'{name}_std'))}"


def join_words(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
