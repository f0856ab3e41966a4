"""The benchmark: teach N invented facts one at a time, ask for all of them in the end; arm by arm, resumable."""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nestling.errors import DataError
from nestling.models.nested_lm import Lesson
from nestling.models.pretrained import load_language_model
from nestling.recipes.facts.arms import ARMS, Arm, Memory
from nestling.recipes.facts.forgetting import measure_forgetting
from nestling.recipes.facts.invented import NUM_WORDINGS, Fact, invent
from nestling.recipes.facts.measure import greedy, nats, recalls, share, windows
from nestling.recipes.facts.relations import HOP
from nestling.recipes.facts.result import FactsPlan, FactsResult, load_result
from nestling.recipes.files import make_folder, write_atomically

__all__ = ["measure_arm", "run_facts"]

_ANSWER_TOKENS = 4
_TEXT_WINDOWS = 8
_NUM_BESIDE = 20

Report = Callable[[str], None]


def run_facts(plan: FactsPlan, out: Path, report: Report) -> list[FactsResult]:
    """Run every arm and seed that has no result in `out` yet; return all.

    Raises: what `load_language_model` raises; DataError for an unreadable text or result.
    """
    make_folder(out)
    texts = [None if name is None else _read(Path(name)) for name in (plan.text, plan.book)]
    results: list[FactsResult] = []
    for seed in range(plan.seeds):
        for name in plan.arms:
            path = out / f"{name}-{plan.num_facts}-{seed}.json"
            if not path.exists():
                model, tokenizer = load_language_model(plan.model)
                facts = invent(plan.num_facts, seed=seed, hop=HOP)
                result = measure_arm(name, ARMS[name](model, tokenizer), facts, seed, texts, report)
                write_atomically(path, json.dumps(asdict(result), indent=1).encode())
            results.append(load_result(path))
    return results


@dataclass(frozen=True)
class _Taught:
    """What came of teaching: what each `teach` returned, whether it was known at once, and its time."""

    lessons: list[Any]
    immediate: list[bool]
    seconds: list[float]
    cpu_seconds: list[float]


def measure_arm(
    name: str, arm: Arm, facts: Sequence[Fact], seed: int, texts: Sequence[str | None], report: Report
) -> FactsResult:
    """Teach an arm and measure it. Args: texts: for the drift, at most two."""
    real = list(dict.fromkeys(fact.neighbour for fact in facts))
    beside = [wording for fact in facts[:_NUM_BESIDE] for wording in fact.beside]
    before = [greedy(arm, wordings, _ANSWER_TOKENS) for wordings in (real, beside)]
    pieces = [None if text is None else windows(arm, text, _TEXT_WINDOWS) for text in texts]
    costs = [None if each is None else nats(arm, each) for each in pieces]
    taught = _teach(name, arm, facts, seed, report)
    final = recalls(arm, [(fact.question, fact.answer) for fact in facts])
    others = [recalls(arm, [(fact.wordings[n], fact.answer) for fact in facts]) for n in range(NUM_WORDINGS)]
    report(f"{name}, seed {seed}: recalled in the end {share(final):.2f}")
    same = [
        [old == new for old, new in zip(had, greedy(arm, wordings, _ANSWER_TOKENS), strict=True)]
        for had, wordings in zip(before, (real, beside), strict=True)
    ]
    drifts = [
        nats(arm, each) - cost if each is not None and cost is not None else None
        for each, cost in zip(pieces, costs, strict=True)
    ]
    return FactsResult(
        arm=name,
        seed=seed,
        num_facts=len(facts),
        immediate=_mean(taught.immediate),
        final=_mean(final),
        first=_mean(final[:10]),
        last=_mean(final[-10:]),
        wordings=tuple(_mean(each) for each in others),
        reverse=share(recalls(arm, _reversed(facts))),
        two_hop=share(recalls(arm, [(fact.two_hop, fact.answer) for fact in facts if fact.two_hop is not None])),
        neighbours=_mean(same[0]),
        beside=_mean(same[1]),
        drift=drifts[0],
        book_drift=drifts[1] if len(drifts) > 1 else None,
        seconds=_mean(taught.seconds),
        median_seconds=statistics.median(taught.seconds),
        cpu_seconds=_mean(taught.cpu_seconds),
        first_seconds=_mean(taught.cpu_seconds[1:11] or taught.cpu_seconds),
        last_seconds=_mean(taught.cpu_seconds[-10:]),
        num_bytes=arm.num_bytes() / len(facts),
        prompt_tokens=len(arm.prompt(facts[-1].question, raw=False)),
        forgetting=measure_forgetting(arm, facts, taught.lessons, final) if isinstance(arm, Memory) else None,
    )


def _teach(name: str, arm: Arm, facts: Sequence[Fact], seed: int, report: Report) -> _Taught:
    taught = _Taught([], [], [], [])
    for number, fact in enumerate(facts):
        began, cpu = time.perf_counter(), time.process_time()
        lesson: Lesson | None = arm.teach(fact.question, fact.answer)
        taught.seconds.append(time.perf_counter() - began)
        taught.cpu_seconds.append(time.process_time() - cpu)
        taught.lessons.append(lesson)
        taught.immediate.extend(recalls(arm, [(fact.question, fact.answer)]))
        at_once = _mean(taught.immediate)
        report(f"{name}, seed {seed}: taught {number + 1} of {len(facts)}, recalled at once {at_once:.2f}")
    return taught


def _reversed(facts: Sequence[Fact]) -> list[tuple[str, str]]:
    """Reversed questions that one fact alone answers."""
    count = Counter(fact.reverse for fact in facts)
    return [(fact.reverse, fact.subject) for fact in facts if count[fact.reverse] == 1]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a text file in UTF-8: {error}") from error
