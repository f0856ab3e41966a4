"""The main job: strategies learn a stream, one experience after another, and are measured after each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nestling.errors import DataError, InputError, ResourceError
from nestling.recipes.film import film_in_process
from nestling.recipes.folder import open_folder, run_folder
from nestling.recipes.machine import describe_machine, describe_versions, steady_arithmetic
from nestling.recipes.plan import ModelFactory, Plan, make_plan
from nestling.recipes.results import (
    RESULTS,
    LearnResult,
    RunRecord,
    StreamRecord,
    load_results,
    save_results,
    summarise,
)
from nestling.recipes.run import Listener, Run
from nestling.recipes.workers import run_in_processes
from nestling.streams import Stream


def learn(
    *,
    stream: str | Path | Stream,
    strategies: Sequence[str] | str,
    seeds: int | Sequence[int] = 1,
    order: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    jobs: int = 1,
    threads: int = 1,
    model: ModelFactory | None = None,
    stream_options: dict[str, Any] | None = None,
    listener: Listener | None = None,
    command: str | None = None,
) -> LearnResult:
    """Learn `stream` with every strategy and seed, and measure forgetting.

        R[i, j] = score on experience j after learning experience i

    Example:
        result = nestling.learn(stream="digits", strategies=["naive", "continuum"], seeds=3, out="runs/digits")
        print(result.table())

    Args:
        stream: a name (`nestling streams` lists them), a folder of files, or a Stream.
        strategies: names (`nestling strategies` lists them), with options where wanted: "replay:buffer_size=200".
            One strategy may be there several times with different options.
        seeds: how many (3 means 0, 1, 2), or which.
        order: "given" or "shuffled" (per seed); None takes the stream's custom.
        out: folder for results, report and checkpoints; None keeps nothing on disk.
        resume: go on with the run in `out`; an empty or missing folder begins. Strategies and seeds may be added.
        jobs: runs at the same time, each in its own process. Changes no figure.
        threads: per run. Held fixed, because sums in another order differ in the last bits.
        model: factory of an `nn.Module` to use in place of the stream's own.
        stream_options: keyword options of the stream's builder.
        listener: is told how far it is.
        command: what to write into the report as the command; None writes this call.

    Returns: the result; with `out`, also saved there as results.json and report.html.
    Raises: InputError for anything that cannot be run, CheckpointError when no saved state is whole,
        ResourceError when the disk is full or closed.
    """
    if jobs < 1:
        raise InputError(f"expected at least 1 job, got {jobs}")
    if threads < 1:
        raise InputError(f"expected at least 1 thread, got {threads}")
    if resume and out is None:
        raise InputError("resume needs the folder of the run: give out=...")
    names = strategies.split(",") if isinstance(strategies, str) else list(strategies)
    heard = listener or Listener()
    with steady_arithmetic(threads):
        plan = make_plan(
            stream=stream,
            options=stream_options or {},
            strategies=names,
            seeds=seeds,
            order=order,
            model=model,
            threads=threads,
            report=heard.on_preparation,
        )
        folder = None if out is None else Path(out)
        origin = command or _as_call(plan)
        _check_builds(plan)
        if folder is not None:
            plan, origin = open_folder(folder, plan, origin, resume=resume)
        return _run_all(plan, folder, origin, jobs=jobs, listener=heard)


def _check_builds(plan: Plan) -> None:
    """Build every strategy once, so that what cannot be built is refused before anything is written."""
    for strategy in plan.strategies:
        Run(plan.stream, strategy, plan.seeds[0], make_module=plan.model)


def _run_all(plan: Plan, folder: Path | None, command: str, *, jobs: int, listener: Listener) -> LearnResult:
    done: dict[tuple[str, int], RunRecord] = {}
    pairs = plan.pairs()
    earlier = _earlier(folder, listener) if folder else {}
    if jobs > 1 and len(pairs) > 1:
        records = run_in_processes(plan, folder, jobs=min(jobs, len(pairs)), listener=listener)
    else:
        records = (run_pair(plan, strategy, seed, folder, listener) for strategy, seed in pairs)
    for record in records:
        done[record.strategy, record.seed] = record
        if folder is not None and len(done) < len(pairs):
            known = {**earlier, **done}
            save_results(_result(plan, [known[pair] for pair in pairs if pair in known], command), folder)
    result = _result(plan, [done[pair] for pair in pairs], command)
    if folder is not None:
        if plan.stream.name == "robot" and isinstance(plan.source, str) and plan.model is None:
            _film(folder, listener)
        result.save(folder)
    return result


def _earlier(folder: Path, listener: Listener) -> dict[tuple[str, int], RunRecord]:
    """Runs that `results.json` holds already, shown until they are read from their checkpoints again."""
    if not (folder / RESULTS).exists():
        return {}
    try:
        return {(record.strategy, record.seed): record for record in load_results(folder).runs}
    except DataError as error:
        listener.say(f"{error}; it is made again from the checkpoints")
        return {}


def _film(folder: Path, listener: Listener) -> None:
    try:
        film_in_process(folder)
    except ResourceError as error:
        listener.say(str(error))


def run_pair(plan: Plan, strategy: str, seed: int, folder: Path | None, listener: Listener) -> RunRecord:
    """One strategy with one seed, in this process."""
    return Run(
        plan.stream.arranged(seed, plan.order),
        strategy,
        seed,
        make_module=plan.model,
        folder=run_folder(folder, strategy, seed) if folder else None,
        listener=listener,
    )()


def _result(plan: Plan, runs: list[RunRecord], command: str) -> LearnResult:
    stream = plan.stream
    return LearnResult(
        stream=StreamRecord(
            name=stream.name, experiences=[each.name for each in stream.experiences], hash=stream.source_hash
        ),
        metric=stream.metric,
        higher_is_better=stream.higher_is_better,
        runs=runs,
        summary=summarise(runs),
        config=json.loads(json.dumps(plan.config())),
        command=command,
        machine=describe_machine(),
        versions=describe_versions(),
        complete=len(runs) == len(plan.pairs()),
    )


def _as_call(plan: Plan) -> str:
    """The call of `learn` that does the same."""
    arguments: dict[str, Any] = {
        "stream": plan.source if isinstance(plan.source, str) else plan.stream.name,
        "strategies": list(plan.strategies),
        "seeds": list(plan.seeds),
        "order": plan.order,
    }
    optional: dict[str, Any] = {"stream_options": dict(plan.options), "model": plan.model and plan.config()["model"]}
    arguments.update({key: value for key, value in optional.items() if value})
    return f"nestling.learn({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
