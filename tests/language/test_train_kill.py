"""kill -9 at any moment of a training, then resume: the same weights as a training that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_training import losses, tiny_recipe, weights, write_text

from nestling.recipes.language import train

HERE = Path(__file__).parent
KILLS = 3
# One process loads the libraries; for every line it reads it forks a process that trains and speaks of every step.
PARENT = """
import os, sys
from pathlib import Path
import torch
from tiny_training import tiny_recipe
from nestling.recipes.language import StepListener, train

class Speaker(StepListener):
    def on_step(self, row, recipe):
        print("step", row["step"], flush=True)

torch.set_num_threads(1)
for line in sys.stdin:
    folder = Path(line.strip())
    child = os.fork()
    if child == 0:
        recipe = tiny_recipe(str(folder / "song.txt"), steps=8, save_every=1)
        train(recipe, folder / "killed", device="cpu", resume=True, listener=Speaker())
        os._exit(0)
    print("pid", child, flush=True)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork and no SIGKILL")
def test_killed_trainings_end_as_those_left_alone(tmp_path):
    write_text(tmp_path)
    recipe = tiny_recipe(str(tmp_path / "song.txt"), steps=8, save_every=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = train(recipe, tmp_path / "whole", device="cpu")
    finally:
        torch.set_num_threads(threads)
    chance, endings = random.Random(5), []
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        while not endings or endings[-1] != 0:
            print(tmp_path, file=parent.stdin, flush=True)
            steps_left = chance.randint(1, 3)
            child = 0
            for line in parent.stdout:
                word, number = line.split()
                if word == "pid":
                    child = int(number)
                elif word == "ended":
                    endings.append(int(number))
                    break
                steps_left -= word == "step"
                if len(endings) < KILLS and child and steps_left <= 0:
                    time.sleep(chance.random() * 0.05)  # a step and its checkpoint take about as long
                    os.kill(child, signal.SIGKILL)
                    child = 0
            assert len(endings) < 20
        parent.kill()
    assert endings.count(-signal.SIGKILL) >= KILLS - 1
    ours, theirs = weights(tmp_path / "killed/model"), weights(whole.folder)
    assert [name for name, weight in theirs.items() if not torch.equal(ours[name], weight)] == []
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
