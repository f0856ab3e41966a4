"""What each of two processes does for test_train_parallel.py: `torchrun two_processes.py FOLDER`."""

import sys
from datetime import timedelta
from pathlib import Path

import torch
from tiny_training import tiny_recipe
from train_cases import CASES

from nestling.recipes.language import train

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=120))
    for name, (parallel, changes) in CASES.items():
        recipe = tiny_recipe(str(folder / "song.txt"), steps=4, **changes)
        train(recipe, folder / "two" / name, device="cpu", parallel=parallel, pause_after=2)
        train(recipe, folder / "two" / name, device="cpu", parallel=parallel, resume=True)
    torch.distributed.destroy_process_group()
