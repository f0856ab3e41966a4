"""The result as a picture: recall by arm."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from pathlib import Path

from nestling.recipes.facts.result import FactsResult
from nestling.recipes.files import write_atomically

__all__ = ["draw_recall"]

_BARS = ("at once", "in the end", "unseen wordings")


def draw_recall(results: Sequence[FactsResult], path: Path) -> None:
    """Bars of recall at once, in the end and in unseen wordings, mean over seeds with the range, written as PNG."""
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys((each.arm, each.num_facts) for each in results))
    figure = Figure(figsize=(1.6 + 1.1 * len(groups), 3.4), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(_BARS)
    for number, label in enumerate(_BARS):
        values = [[_recalls(row)[number] for row in results if (row.arm, row.num_facts) == group] for group in groups]
        means = [statistics.mean(each) for each in values]
        ranges = [
            [mean - min(each) for mean, each in zip(means, values, strict=True)],
            [max(each) - mean for mean, each in zip(means, values, strict=True)],
        ]
        places = [place + (number - 1) * width for place in range(len(groups))]
        axes.bar(places, means, width, yerr=ranges, label=label, capsize=2)
    axes.set_xticks(range(len(groups)), [f"{arm}\n{count} facts" for arm, count in groups])
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("share of facts recalled")
    axes.legend(fontsize="small")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_atomically(path, content.getvalue())


def _recalls(row: FactsResult) -> tuple[float, float, float]:
    return row.immediate, row.final, statistics.mean(row.wordings)
