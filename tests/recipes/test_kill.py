"""kill -9 at any moment, then --resume: the same figures, bit for bit, as a run that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Prints every event, so that the test can kill in the middle of learning, measuring and saving.
CHILD = """
import sys
import nestling
from nestling.recipes import Listener
from nestling.recipes import run
from toy_runs import toy_stream

class Speaker(Listener):
    def on_event(self, event):
        print(event.stage, flush=True)

run.SECONDS_BETWEEN_CHECKPOINTS = 0.0
nestling.learn(stream=toy_stream(epochs=8), strategies=["naive", "replay", "ewc"], seeds=2, out=sys.argv[1],
               resume=True, listener=Speaker(), command="test")
"""
KILLS = 4


def start(out: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", CHILD, str(out)], stdout=subprocess.PIPE, text=True, env=environment)


def figures(out: Path) -> dict[str, object]:
    content = json.loads((out / "results.json").read_text())
    for record in (*content["runs"], *content["summary"]):
        for key in [key for key in record if "seconds" in key or "peak_memory" in key]:
            record.pop(key)
    return content


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(tmp_path: Path) -> None:
    alone = start(tmp_path / "alone")
    assert alone.stdout is not None
    events = len(alone.stdout.read().split("\n"))
    assert alone.wait() == 0
    draw = random.Random(0)
    for _ in range(KILLS):
        child = start(tmp_path / "killed")
        assert child.stdout is not None
        for _ in range(draw.randrange(1, events // KILLS)):
            assert child.stdout.readline(), "the run ended before it could be killed"
        time.sleep(draw.random() * 0.01)  # into the middle of a step or of a write
        child.send_signal(signal.SIGKILL)
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
    last = start(tmp_path / "killed")
    assert last.stdout is not None
    remaining = len(last.stdout.read().split("\n"))
    assert last.wait() == 0
    assert remaining < events, "nothing was kept: the last run did everything again"
    assert figures(tmp_path / "killed") == figures(tmp_path / "alone")
