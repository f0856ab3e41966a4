"""Two processes with one row each are one process with two: losses and updated weights, for DDP and FSDP2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import losses, tiny_recipe, weights, write_text
from train_cases import CASES

from nestling.recipes.language import train

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder in which two processes have done all cases, each stopped and resumed in the middle."""
    folder = tmp_path_factory.mktemp("parallel")
    write_text(folder)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(HERE / "two_processes.py"), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one(name, two, tmp_path):
    _, changes = CASES[name]
    recipe = tiny_recipe(str(two / "song.txt"), steps=4, **changes)
    one = train(recipe, tmp_path / "one", device="cpu")
    assert losses(two / "two" / name) == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    ours, theirs = weights(two / "two" / name / "model"), weights(one.folder)
    assert ours.keys() == theirs.keys()
    for weight, expected in theirs.items():
        torch.testing.assert_close(ours[weight], expected, rtol=1e-4, atol=2e-5, msg=weight)
    start = train(tiny_recipe(recipe.data, steps=1, **{**changes, "lr": 1e-12}), tmp_path / "start", device="cpu")
    moved = max((theirs[weight] - value).abs().max() for weight, value in weights(start.folder).items())
    assert moved > 50 * 2e-5
