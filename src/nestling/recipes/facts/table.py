"""The result as tables: each run, and the mean over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from nestling.recipes.facts.result import FactsResult

__all__ = ["markdown"]

HEAD = (
    "arm",
    "facts",
    "seed",
    "at once",
    "in the end",
    "first ten",
    "last ten",
    "three unseen wordings",
    "reversed",
    "two hops",
    "neighbours same",
    "beside same",
    "drift, text / book [nats/token]",
    "s/lesson (processor; first, last ten)",
    "bytes/fact",
    "prompt tokens",
)
FORGET_HEAD = (
    "facts",
    "seed",
    "forgotten",
    "recalled of these",
    "others' answers changed",
    "weights apart from never taught",
    "outputs apart",
    "equal to the bit",
)


def markdown(results: Sequence[FactsResult]) -> str:
    """One row per arm and seed, a row of means where there are several seeds, and what forgetting left."""
    lines = [_row(HEAD), f"|{'---|' * len(HEAD)}"]
    for name, count in dict.fromkeys((each.arm, each.num_facts) for each in results):
        rows = [each for each in results if (each.arm, each.num_facts) == (name, count)]
        lines += [_row(_cells(each)) for each in rows]
        if len(rows) > 1:
            lines.append(_row(_means(rows)))
    forgot = [each for each in results if each.forgetting is not None]
    if forgot:
        lines += [
            "",
            _row(FORGET_HEAD),
            f"|{'---|' * len(FORGET_HEAD)}",
            *(_row(_forget_cells(each)) for each in forgot),
        ]
    return "\n".join(lines)


def _cells(row: FactsResult) -> list[str]:
    return [
        row.arm,
        str(row.num_facts),
        str(row.seed),
        f"{row.immediate:.2f}",
        f"{row.final:.2f}",
        f"{row.first:.2f}",
        f"{row.last:.2f}",
        " / ".join(f"{each:.2f}" for each in row.wordings),
        _number(row.reverse),
        _number(row.two_hop),
        f"{row.neighbours:.2f}",
        f"{row.beside:.2f}",
        f"{_number(row.drift, '+.4f')} / {_number(row.book_drift, '+.4f')}",
        f"{row.median_seconds:.2f} ({row.cpu_seconds:.2f}; {row.first_seconds:.2f}, {row.last_seconds:.2f})",
        f"{row.num_bytes:,.0f}",
        str(row.prompt_tokens),
    ]


def _means(rows: Sequence[FactsResult]) -> list[str]:
    def spread(pick: Callable[[FactsResult], float | None], form: str = ".2f") -> str:
        values = [value for value in map(pick, rows) if value is not None]
        if len(values) < 2:
            return "-"
        return f"{statistics.mean(values):{form}} ± {statistics.stdev(values):{form.lstrip('+')}}"

    wordings = [spread(lambda row, n=n: row.wordings[n]) for n in range(len(rows[0].wordings))]
    return [
        f"**{rows[0].arm}**",
        str(rows[0].num_facts),
        f"mean of {len(rows)}",
        spread(lambda row: row.immediate),
        spread(lambda row: row.final),
        spread(lambda row: row.first),
        spread(lambda row: row.last),
        " / ".join(wordings),
        spread(lambda row: row.reverse),
        spread(lambda row: row.two_hop),
        spread(lambda row: row.neighbours),
        spread(lambda row: row.beside),
        f"{spread(lambda row: row.drift, '+.4f')} / {spread(lambda row: row.book_drift, '+.4f')}",
        spread(lambda row: row.median_seconds),
        f"{statistics.mean(row.num_bytes for row in rows):,.0f}",
        f"{statistics.mean(row.prompt_tokens for row in rows):.0f}",
    ]


def _forget_cells(row: FactsResult) -> list[str]:
    found = row.forgetting
    assert found is not None
    return [
        str(row.num_facts),
        str(row.seed),
        str(found.lessons),
        f"{found.recalled:.2f}",
        f"{found.rest_changed:.2f}",
        f"{found.weights:.1e}",
        f"{found.outputs:.1e}",
        f"{'yes' if found.same_hash else 'no'} ({found.taught_anew} taught anew)",
    ]


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else f"{value:{form}}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
