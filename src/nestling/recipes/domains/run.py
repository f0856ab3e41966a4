"""The benchmark: read one domain after another, ask for all of them after each; cell by cell, resumable."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from nestling.errors import DataError, InputError, UnknownNameError
from nestling.files import make_folder, write_atomically
from nestling.models.nested_lm.wording import Wording
from nestling.models.pretrained import load_language_model
from nestling.recipes.domains.arms import ARMS
from nestling.recipes.domains.texts import Domain, find_domains, num_bytes, parts

__all__ = ["DomainsPlan", "DomainsResult", "run_domains"]

Report = Callable[[str], None]


@dataclass(frozen=True)
class DomainsPlan:
    """What is run. Args: model: name or folder.   arms: names in `ARMS`.   read, held_out: tokens of each domain.
    seeds: >= 1, each another order of the domains and other passages to read.   validate: ask for the validation
    parts, not the held-out ones.   data: folder, NESTLING_DATA when None.   num_domains: how many of them.
    """

    model: str
    arms: tuple[str, ...]
    read: int = 2049
    held_out: int = 512
    seeds: int = 1
    validate: bool = False
    data: str | None = None
    num_domains: int = 5

    def __post_init__(self) -> None:
        for name in self.arms:
            if name not in ARMS:
                raise UnknownNameError("arm", name, ARMS)
        if min(self.seeds, self.num_domains) < 1 or self.read < 32 or self.held_out < 32 or not self.arms:
            raise InputError("expected at least one arm, seed and domain, and 32 tokens to read and to ask for")


@dataclass(frozen=True)
class DomainsResult:
    """One arm and seed, bits per byte.

    Args:
        order: domains as they were read; `matrix` has its rows and columns in this order.
        before: held-out part of each domain before anything was read.
        matrix: held-out part of domain j after reading domain i, for j <= i.
        reading: bits per token while reading domain i, each chunk before it was learned.
        unread: a text that is never read, before and after everything.
        seconds: of reading each domain.   num_bytes: kept in the end.
    """

    arm: str
    seed: int
    order: list[str]
    before: list[float]
    matrix: list[list[float]] = field(default_factory=list)
    reading: list[float] = field(default_factory=list)
    unread: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    num_bytes: int = 0

    @property
    def forgetting(self) -> float:
        """Mean over all domains but the last: bits per byte in the end minus right after reading it."""
        last = len(self.order) - 1
        return sum(self.matrix[last][j] - self.matrix[j][j] for j in range(last)) / max(1, last)

    @property
    def gain(self) -> float:
        """Mean over domains: bits per byte before anything was read minus right after reading it."""
        return sum(self.before[j] - self.matrix[j][j] for j in range(len(self.order))) / len(self.order)

    @property
    def kept(self) -> float:
        """Mean over domains: bits per byte before anything was read minus in the end."""
        return sum(b - after for b, after in zip(self.before, self.matrix[-1], strict=True)) / len(self.order)


def run_domains(plan: DomainsPlan, out: Path, report: Report) -> list[DomainsResult]:
    """Run every arm and seed that has no result in `out` yet; return all.

    Raises: what `load_language_model` and `find_domains` raise; DataError for an unreadable result.
    """
    make_folder(out)
    domains, unread = find_domains(plan.data)
    results: list[DomainsResult] = []
    for seed in range(plan.seeds):
        for name in plan.arms:
            path = out / f"{name}-{plan.num_domains}-{plan.read}-{_size(plan)}-seed{seed}.json"
            if not path.exists():
                result = _run_arm(name, seed, plan, domains, unread, out, report)
                write_atomically(path, json.dumps(asdict(result), indent=1).encode())
            results.append(_load(path))
    return results


def _run_arm(
    name: str, seed: int, plan: DomainsPlan, domains: Sequence[Domain], unread: Domain, out: Path, report: Report
) -> DomainsResult:
    model, tokenizer = load_language_model(plan.model)
    wording = Wording(tokenizer)
    order = torch.randperm(len(domains), generator=torch.Generator().manual_seed(seed)).tolist()[: plan.num_domains]
    cut = {
        each.name: parts(each, wording.raw, read=plan.read, held_out=plan.held_out, seed=seed)
        for each in [*domains, unread]
    }
    names = [domains[n].name for n in order]
    asked = {key: (validation if plan.validate else test) for key, (_, validation, test) in cut.items()}
    arm = ARMS[name](model, tokenizer, seed)

    def bits(domain: str) -> float:
        return arm.nats(asked[domain]) / math.log(2) / num_bytes(asked[domain], tokenizer.decode)

    untouched = _untouched([*names, unread.name], out / f"untouched-{_size(plan)}.json", bits)
    result = DomainsResult(name, seed, names, untouched[:-1], unread=untouched[-1:])
    for each in names:
        began = time.perf_counter()
        nats = arm.read(cut[each][0], tokenizer.decode)
        result.seconds.append(time.perf_counter() - began)
        result.reading.append(nats / math.log(2))
        row = [bits(other) for other in names[: len(result.matrix) + 1]]
        result.matrix.append(row)
        report(f"{name}, seed {seed}: read {each}: {' '.join(f'{value:.3f}' for value in row)}")
    result.unread.append(bits(unread.name))
    return DomainsResult(**{**asdict(result), "num_bytes": arm.num_bytes()})


def _untouched(names: Sequence[str], path: Path, bits: Callable[[str], float]) -> list[float]:
    """Bits per byte of a model that has read nothing: the same for all arms and seeds, so each is measured once."""
    known: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    for each in names:
        if each not in known:
            known[each] = bits(each)
            write_atomically(path, json.dumps(known).encode())
    return [known[each] for each in names]


def _size(plan: DomainsPlan) -> str:
    return f"{plan.held_out}{'-validation' if plan.validate else ''}"


def _load(path: Path) -> DomainsResult:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return DomainsResult(**found)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is no result of this benchmark ({error}): remove it and run again") from error
