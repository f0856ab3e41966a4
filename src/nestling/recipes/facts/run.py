"""The benchmark: teach N invented facts one at a time, ask for all of them in the end; arm by arm, resumable."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nestling.errors import DataError, InputError, UnknownNameError
from nestling.models.pretrained import load_language_model
from nestling.recipes.facts.arms import ARMS, Arm
from nestling.recipes.facts.invented import NUM_WORDINGS, Fact, invent
from nestling.recipes.facts.measure import greedy, nats, recalls, windows
from nestling.recipes.files import make_folder, write_atomically

__all__ = ["FactsPlan", "FactsResult", "run_facts"]

_ANSWER_TOKENS = 4
_TEXT_WINDOWS = 8
_NUM_BESIDE = 20

Report = Callable[[str], None]


@dataclass(frozen=True)
class FactsPlan:
    """What is run. Args: model: name or folder.   arms: names in `ARMS`.   num_facts, seeds: >= 1.
    text: file of ordinary text for the drift, None leaves it out.
    """

    model: str
    arms: tuple[str, ...]
    num_facts: int = 200
    seeds: int = 1
    text: str | None = None

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
        neighbours: answers to questions about real things that did not change (first four tokens).
        beside: the same for other questions about the taught subjects, those of the first 20.
        drift: nats per token on ordinary text, after minus before; None without a text.
        seconds: per lesson, mean.   first_seconds, last_seconds: of the first and last ten.
        num_bytes: kept per fact.   prompt_tokens: of the last question asked.
    """

    arm: str
    seed: int
    num_facts: int
    immediate: float
    final: float
    first: float
    last: float
    wordings: tuple[float, ...]
    neighbours: float
    beside: float
    drift: float | None
    seconds: float
    first_seconds: float
    last_seconds: float
    num_bytes: float
    prompt_tokens: int


def run_facts(plan: FactsPlan, out: Path, report: Report) -> list[FactsResult]:
    """Run every arm and seed that has no result in `out` yet; return all.

    Raises: what `load_language_model` raises; DataError for an unreadable text or result.
    """
    make_folder(out)
    text = None if plan.text is None else _read(Path(plan.text))
    results: list[FactsResult] = []
    for seed in range(plan.seeds):
        for name in plan.arms:
            path = out / f"{name}-{plan.num_facts}-{seed}.json"
            if not path.exists():
                model, tokenizer = load_language_model(plan.model)
                arm = ARMS[name](model, tokenizer)
                facts = invent(plan.num_facts, seed=seed)
                result = _run_arm(name, arm, facts, seed, text, report)
                write_atomically(path, json.dumps(asdict(result), indent=1).encode())
            results.append(_load(path))
    return results


def _run_arm(name: str, arm: Arm, facts: Sequence[Fact], seed: int, text: str | None, report: Report) -> FactsResult:
    real = list(dict.fromkeys(fact.neighbour for fact in facts))
    beside = [wording for fact in facts[:_NUM_BESIDE] for wording in fact.beside]
    before = [greedy(arm, wording, _ANSWER_TOKENS) for wording in [*real, *beside]]
    pieces = windows(arm, text, _TEXT_WINDOWS) if text is not None else []
    cost = nats(arm, pieces) if pieces else 0.0
    seconds: list[float] = []
    immediate: list[bool] = []
    for number, fact in enumerate(facts):
        began = time.perf_counter()
        arm.teach(fact.question, fact.answer)
        seconds.append(time.perf_counter() - began)
        immediate.append(recalls(arm, fact.question, fact.answer))
        report(f"{name}, seed {seed}: taught {number + 1} of {len(facts)}, recalled at once {_share(immediate):.2f}")
    final = [recalls(arm, fact.question, fact.answer) for fact in facts]
    others = [[recalls(arm, fact.wordings[n], fact.answer) for fact in facts] for n in range(NUM_WORDINGS)]
    after = [greedy(arm, wording, _ANSWER_TOKENS) for wording in [*real, *beside]]
    same = [old == new for old, new in zip(before, after, strict=True)]
    return FactsResult(
        arm=name,
        seed=seed,
        num_facts=len(facts),
        immediate=_share(immediate),
        final=_share(final),
        first=_share(final[:10]),
        last=_share(final[-10:]),
        wordings=tuple(_share(each) for each in others),
        neighbours=_share(same[: len(real)]),
        beside=_share(same[len(real) :]),
        drift=nats(arm, pieces) - cost if pieces else None,
        seconds=sum(seconds) / len(seconds),
        first_seconds=_mean(seconds[1:11] or seconds),
        last_seconds=_mean(seconds[-10:]),
        num_bytes=arm.num_bytes() / len(facts),
        prompt_tokens=len(arm.prompt(facts[-1].question, raw=False)),
    )


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a text file in UTF-8: {error}") from error


def _load(path: Path) -> FactsResult:
    try:
        found = json.loads(path.read_text())
        return FactsResult(**{**found, "wordings": tuple(found["wordings"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is no result of this benchmark ({error}): remove it and run again") from error
