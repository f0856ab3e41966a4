"""The result as a table."""

from __future__ import annotations

from collections.abc import Sequence

from nestling.recipes.facts.run import FactsResult

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
    "neighbours same",
    "beside same",
    "drift [nats/token]",
    "s/lesson (first, last ten)",
    "bytes/fact",
    "prompt tokens",
)


def markdown(results: Sequence[FactsResult]) -> str:
    """One row per arm and seed."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    lines += [f"| {' | '.join(_cells(each))} |" for each in results]
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
        f"{row.neighbours:.2f}",
        f"{row.beside:.2f}",
        "-" if row.drift is None else f"{row.drift:+.4f}",
        f"{row.seconds:.2f} ({row.first_seconds:.2f}, {row.last_seconds:.2f})",
        f"{row.num_bytes:,.0f}",
        str(row.prompt_tokens),
    ]
