"""The results as a table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from nestling.recipes.intents.run import IntentsResult

__all__ = ["markdown"]

HEAD = (
    "data",
    "arm",
    "seeds",
    "accuracy in the end [%]",
    "forgetting [points]",
    "asked",
    "text kept",
    "state",
    "prompt tokens",
    "seconds",
)


def markdown(results: Sequence[IntentsResult]) -> str:
    """Mean and sample standard deviation over seeds, one row per data set and arm, the best first."""
    groups = [
        [each for each in results if (each.data, each.arm) == key]
        for key in dict.fromkeys((each.data, each.arm) for each in results)
    ]
    groups.sort(key=lambda rows: (rows[0].data, -statistics.mean(each.accuracy for each in rows)))
    return "\n".join([f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}", *(_row(rows) for rows in groups)])


def _row(rows: Sequence[IntentsResult]) -> str:
    forgetting = [each.forgetting for each in rows if each.forgetting is not None]
    cells = [
        rows[0].data,
        rows[0].arm,
        str(len(rows)),
        _mean([100 * each.accuracy for each in rows]),
        _mean([100 * each for each in forgetting]) if forgetting else "",
        str(rows[0].queries),
        _size(statistics.mean(each.stored for each in rows)),
        _size(statistics.mean(each.state for each in rows)),
        f"{statistics.mean(each.prompt_tokens for each in rows):.0f}",
        f"{statistics.mean(each.seconds for each in rows):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def _size(count: float) -> str:
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f}"
