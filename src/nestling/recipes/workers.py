"""Runs in several processes at once. Each is a fresh process, so none sees the memory or random state of another."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from nestling.errors import InputError, NestlingError, ResourceError
from nestling.recipes.folder import run_folder
from nestling.recipes.machine import steady_arithmetic
from nestling.recipes.plan import Plan, make_plan
from nestling.recipes.results import RunRecord
from nestling.recipes.run import Event, Listener, Run


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Any
    pair: tuple[str, int] | None = None


def run_in_processes(plan: Plan, folder: Path | None, *, jobs: int, listener: Listener) -> Iterator[RunRecord]:
    """Run all pairs of `plan` in `jobs` processes; records come as they are finished.

    Raises: what a run raised; InputError when stream or model cannot be sent to another process; ResourceError
        when a process dies (most often for want of memory).
    """
    orders = _orders(plan)
    waiting = plan.pairs()
    workers = [_start(orders) for _ in range(jobs)]
    try:
        for worker in workers:
            _give(worker, waiting, folder)
        while any(worker.pair for worker in workers):
            busy = [worker for worker in workers if worker.pair]
            for ready in wait([worker.pipe for worker in busy]):
                worker = next(each for each in busy if each.pipe is ready)
                answer = _receive(worker)
                if isinstance(answer, RunRecord):
                    yield answer
                    _give(worker, waiting, folder)
                elif isinstance(answer, Event):
                    listener.on_event(answer)
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    listener.say(answer)
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()


def _orders(plan: Plan) -> bytes:
    """What a process needs to build the plan again: the name of the stream where there is one."""
    given = {
        "stream": plan.source,
        "options": plan.options,
        "strategies": plan.strategies,
        "seeds": plan.seeds,
        "order": plan.order,
        "model": plan.model,
        "threads": plan.threads,
    }
    try:
        return pickle.dumps(given)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"the stream or model cannot be sent to another process ({error}); use jobs=1, or give the stream by "
            "name and the model as a function defined at the top of a module"
        ) from error


def _start(orders: bytes) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(orders, theirs), daemon=True)
    with _deaf_to_interrupts():
        process.start()
    theirs.close()
    return _Worker(process=process, pipe=ours)


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Ctrl-C is ignored inside, and by a process started inside from its first moment on; the parent ends it."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


def _give(worker: _Worker, waiting: list[tuple[str, int]], folder: Path | None) -> None:
    worker.pair = waiting.pop(0) if waiting else None
    if worker.pair:
        worker.pipe.send((*worker.pair, run_folder(folder, *worker.pair) if folder else None))


def _receive(worker: _Worker) -> Any:
    try:
        return worker.pipe.recv()
    except EOFError as error:
        worker.process.join()
        name, seed = worker.pair or ("?", 0)
        raise ResourceError(
            f"the process of strategy {name!r} (seed {seed}) ended with code {worker.process.exitcode}, most often for "
            "want of memory; lower --jobs and resume"
        ) from error


class _Sender(Listener):
    """Passes on what a run says to the process that started this one."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def on_event(self, event: Event) -> None:
        self.pipe.send(event)

    def say(self, message: str) -> None:
        self.pipe.send(message)


def _work(orders: bytes, pipe: Any) -> None:
    """The life of one process: build the stream once, then run what it is given until it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    try:
        given = pickle.loads(orders)
        with steady_arithmetic(given["threads"]):
            plan = make_plan(**given)
            while True:
                strategy, seed, folder = pipe.recv()
                stream = plan.stream.arranged(seed, plan.order)
                sender = _Sender(pipe)
                pipe.send(Run(stream, strategy, seed, make_module=plan.model, folder=folder, listener=sender)())
    except EOFError:
        return
    except NestlingError as error:
        pipe.send(_portable(error))


def _portable(error: NestlingError) -> NestlingError:
    """The same error, sure to survive pickling (some have constructors of their own)."""
    try:
        return pickle.loads(pickle.dumps(error))
    except TypeError:
        return InputError(str(error))
