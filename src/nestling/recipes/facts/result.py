"""What is run, and what one arm and seed gave."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from nestling.errors import DataError, InputError, UnknownNameError
from nestling.recipes.facts.arms import ARMS
from nestling.recipes.facts.forgetting import Forgetting

__all__ = ["FactsPlan", "FactsResult", "load_result"]


@dataclass(frozen=True)
class FactsPlan:
    """What is run. Args: model: name or folder.   arms: names in `ARMS`.   num_facts: >= 1.   seeds: >= 1, from 0.
    text, book: files of ordinary text for the drift, None leaves it out.
    """

    model: str
    arms: tuple[str, ...]
    num_facts: int = 200
    seeds: int = 1
    text: str | None = None
    book: str | None = None

    def __post_init__(self) -> None:
        for name in self.arms:
            if name not in ARMS:
                raise UnknownNameError("arm", name, ARMS)
        if self.num_facts < 1 or self.seeds < 1 or not self.arms:
            raise InputError("expected at least one arm, one fact and one seed")


@dataclass(frozen=True)
class FactsResult:
    """Shares in [0, 1] over facts, of one arm and seed.

    Args:
        immediate: known right after it was taught.   final: in the end, in the wording it was taught in.
        first, last: final recall of the first and the last ten taught.
        wordings: final recall in each of three wordings never taught (two questions, a sentence to be completed).
        reverse: the subject is said when asked with the answer, of facts whose answer no other one of that kind has.
        two_hop: answers over two facts; None where there were none.
        neighbours: answers to questions about real things that did not change (first four tokens).
        beside: the same for other questions about the taught subjects, those of the first 20.
        drift, book_drift: nats per token on ordinary text, after minus before; None without a text.
        seconds: per lesson, mean by the clock.   median_seconds, cpu_seconds: median by the clock; mean of
            processor time.   first_seconds, last_seconds: processor time of the second to eleventh and last ten.
        num_bytes: kept per fact.   prompt_tokens: of the last question asked.
        forgetting: of an arm that can forget.
    """

    arm: str
    seed: int
    num_facts: int
    immediate: float
    final: float
    first: float
    last: float
    wordings: tuple[float, ...]
    reverse: float | None
    two_hop: float | None
    neighbours: float
    beside: float
    drift: float | None
    book_drift: float | None
    seconds: float
    median_seconds: float
    cpu_seconds: float
    first_seconds: float
    last_seconds: float
    num_bytes: float
    prompt_tokens: int
    forgetting: Forgetting | None = None


def load_result(path: Path) -> FactsResult:
    """A result that was written. Raises DataError when it is none."""
    try:
        found = json.loads(path.read_text())
        forgetting = None if found["forgetting"] is None else Forgetting(**found["forgetting"])
        return FactsResult(**{**found, "wordings": tuple(found["wordings"]), "forgetting": forgetting})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is no result of this benchmark ({error}): remove it and run again") from error
