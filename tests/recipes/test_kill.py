"""kill -9 at any moment, then resume: the same figures, bit for bit, as a run that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KILLS = 6
# One process loads the libraries; every line it reads is a folder, for which it forks a process that learns. That one
# prints every event, so that it can be killed in the middle of learning, measuring and saving.
PARENT = """
import os, sys
import nestling
from nestling.recipes import Listener, run
from toy_runs import toy_stream

class Speaker(Listener):
    def on_event(self, event):
        print(event.stage, flush=True)

run.SECONDS_BETWEEN_CHECKPOINTS = 0.0
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        nestling.learn(stream=toy_stream(epochs=4), strategies=["naive", "replay", "ewc"], seeds=1,
                       out=line.strip(), resume=True, listener=Speaker(), command="test")
        os._exit(0)
    print("pid", child, flush=True)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Learner:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin
        assert process.stdout
        self.orders, self.answers = process.stdin, process.stdout
        self.child = 0

    def start(self, out: Path) -> None:
        print(out, file=self.orders, flush=True)
        lines = []
        while not (lines and lines[-1].startswith("pid")):  # the child may be quicker to speak
            lines.append(self.answers.readline())
        self.child = int(lines[-1].split()[1])

    def events(self) -> Iterator[str]:
        """Until the process ends; the last line is its exit code."""
        while line := self.answers.readline().strip():
            yield line
            if line.startswith("ended"):
                return
        raise AssertionError("the process that starts the others is gone")


@pytest.fixture
def learner() -> Iterator[Learner]:
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield Learner(process)
        process.kill()


def figures(out: Path) -> dict[str, object]:
    content = json.loads((out / "results.json").read_text())
    for record in (*content["runs"], *content["summary"]):
        for key in [key for key in record if "seconds" in key or "peak_memory" in key]:
            record.pop(key)
    return content


def test_killed_at_random_moments_and_resumed(learner: Learner, tmp_path: Path) -> None:
    learner.start(tmp_path / "alone")
    alone = list(learner.events())
    assert alone[-1] == "ended 0"
    draw = random.Random(0)
    for _ in range(KILLS):
        learner.start(tmp_path / "killed")
        events = learner.events()
        for _ in range(draw.randrange(1, len(alone) // KILLS)):
            assert not next(events).startswith("ended"), "the run ended before it could be killed"
        time.sleep(draw.random() * 0.02)  # into the middle of a step or of a write
        os.kill(learner.child, signal.SIGKILL)
        assert list(events)[-1] == f"ended {-signal.SIGKILL}"
    learner.start(tmp_path / "killed")
    last = list(learner.events())
    assert last[-1] == "ended 0"
    assert len(last) < len(alone), "nothing was kept: the last run did everything again"
    assert figures(tmp_path / "killed") == figures(tmp_path / "alone")
