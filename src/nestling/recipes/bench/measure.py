"""Timing: every subject of a case in turn, again and again, so that a noisy machine is noisy for all of them."""

from __future__ import annotations

import contextlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nestling.errors import ResourceError
from nestling.recipes.bench.subjects import SUBJECTS, CachedAttention, available_subjects, build


@dataclass(frozen=True, kw_only=True)
class Case:
    """One size: batch rows B, tokens T, width D. tokens 1 is decoding against a cache of `cache` tokens."""

    batch: int
    tokens: int
    width: int
    cache: int = 1024


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured.

    subjects:    names of SUBJECTS; empty is all that are installed.
    cases:       sizes.
    repeats:     rounds after one warm-up; medians over rounds.
    max_quadratic: longest T of attention.
    with_memory: also the peak memory, one process per subject and case.
    """

    subjects: tuple[str, ...] = ()
    cases: tuple[Case, ...] = (
        *(Case(batch=b, tokens=t, width=d) for d in (256, 512) for b in (1, 4) for t in (1024, 4096)),
        *(Case(batch=1, tokens=t, width=256) for t in (2048, 8192, 16384, 32768)),
        *(Case(batch=1, tokens=1, width=d, cache=c) for d in (256, 512) for c in (1024, 4096)),
    )
    repeats: int = 5
    max_quadratic: int = 4096
    with_memory: bool = True


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Medians of one subject in one case; seconds per call, ratios against its baseline (> 1 is faster)."""

    subject: str
    case: Case
    forward: float
    both: float | None
    forward_ratio: float | None
    both_ratio: float | None
    peak_mb: float | None
    num_parameters: int


def run_cases(plan: Plan, report: Callable[[str], None] = lambda _: None) -> Iterator[Measurement]:
    """Measure case by case; `report` is told what is being done."""
    names = list(plan.subjects) or available_subjects()
    for case in plan.cases:
        chosen = [name for name in names if _fits(name, case, plan)]
        report(f"B {case.batch}  T {case.tokens}  D {case.width}: {', '.join(chosen)}")
        yield from _run_case(chosen, case, plan)


def _fits(name: str, case: Case, plan: Plan) -> bool:
    row = SUBJECTS[name]
    if case.tokens == 1:
        return row.decodes
    if row.largest is not None and case.batch * case.tokens * case.width > row.largest:
        return False
    return name != "sdpa" or case.tokens <= plan.max_quadratic


def _run_case(names: list[str], case: Case, plan: Plan) -> Iterator[Measurement]:
    calls = {name: _prepare(name, case) for name in names}
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for index in range(plan.repeats + 1):
        for name in names:
            seconds = calls[name]()
            if index:
                rounds[name].append(seconds)
    for name in names:
        base = rounds.get(SUBJECTS[name].baseline)
        ratios = [[b[i] / own[i] for b, own in zip(base, rounds[name]) if own[i]] for i in (0, 1)] if base else [[], []]
        forward, both = (statistics.median(times[i] for times in rounds[name]) for i in (0, 1))
        yield Measurement(
            subject=name,
            case=case,
            forward=forward,
            both=both or None,
            forward_ratio=statistics.median(ratios[0]) if ratios[0] else None,
            both_ratio=statistics.median(ratios[1]) if ratios[1] else None,
            peak_mb=peak_memory(name, case) if plan.with_memory else None,
            num_parameters=sum(parameter.numel() for parameter in build(name, case.width).parameters()),
        )


def _prepare(name: str, case: Case) -> Callable[[], tuple[float, float]]:
    module = build(name, case.width)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(case.batch, case.tokens, case.width, generator=generator)
    if case.tokens == 1:
        return _decoding(module, x, case)
    return _training(module, x.requires_grad_(SUBJECTS[name].trains), trains=SUBJECTS[name].trains)


def _training(module: torch.nn.Module, x: Tensor, *, trains: bool) -> Callable[[], tuple[float, float]]:
    """Seconds of a forward pass, and of forward and backward; 0 for the latter where there is none."""

    def call() -> tuple[float, float]:
        module.zero_grad(set_to_none=True)
        x.grad = None
        start = time.perf_counter()
        y = module(x)[0]
        middle = time.perf_counter()
        if not trains:
            return middle - start, 0.0
        y.sum().backward()
        return middle - start, time.perf_counter() - start

    return call


def _decoding(module: torch.nn.Module, x: Tensor, case: Case, steps: int = 50) -> Callable[[], tuple[float, float]]:
    """Seconds of one token in the mixer alone, mean over `steps`, the cache being full; 0 for the backward pass."""
    mixer = getattr(module, "mixer", module)
    with torch.no_grad():
        state: Any = mixer.cache(len(x), case.cache) if isinstance(mixer, CachedAttention) else mixer(x)[1]

    @torch.no_grad()
    def call() -> tuple[float, float]:
        nonlocal state
        start = time.perf_counter()
        for _ in range(steps):
            _, state = mixer(x, state)
        return (time.perf_counter() - start) / steps, 0.0

    return call


def peak_memory(name: str, case: Case) -> float:
    """Megabytes that one call needs above the loaded program, measured in a process of its own.

    Raises:
        ResourceError: the process failed, with the last line it wrote.
    """
    command = [sys.executable, "-m", "nestling.recipes.bench.measure", name, json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ResourceError(f"measuring the memory of {name} failed: {last}")
    return float(done.stdout.strip().splitlines()[-1])


def _main() -> None:
    name, case = sys.argv[1], Case(**json.loads(sys.argv[2]))
    torch.set_num_threads(1)
    call = _prepare(name, case)
    before = _restart_peak()
    call()
    print(_peak() - before)


def _restart_peak() -> float:
    """Forget the highest memory so far where the system allows it (Linux); the peak from here on, in megabytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1e3
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    _main()
