"""Which optimizer trains a small transformer and a small ViT best, at equal steps and at equal wall-clock?

    NESTLING_DATA=... python benchmarks/optimizer_training.py --out runs/optimizer_training --page docs/results

text    transformers' Llama, 2.0 million parameters, bytes of books (or --text FILE; else Python's own documentation)
images  transformers' ViT, 0.14 million parameters, MNIST's 10,000 test images (or --images FOLDER; else 8x8 digits)

Every optimizer gets the same number of trials of its learning rate, short runs judged on validation data: three rates a
factor of 3 apart, then one after another the neighbour of the best so far (half a step inside when both neighbours are
known). Then three seeds at the rate found, measured on test data while they train. The rate rises over the first 20
steps and is constant afterwards, so that a curve may be cut anywhere: at equal wall-clock the curves are read at the
seconds that the fastest optimizer needed, seconds being steps times the step time of a probe in which all optimizers
take turns. No weight decay; gradients are clipped to length 1. Every finished cell is kept in --out and not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import optimizer_training_page
from nestling.errors import InputError
from nestling.optim import OPTIMIZERS
from nestling.recipes.files import make_folder, write_atomically
from training_tasks import NOT_HIDDEN, Task, held_out, image_task, loss_of, text_task

WARM_UP, CLIP, TUNING_SEED, RATIO = 20, 1.0, 1000, 3.0
# name: (row of the table, options, the middle of the first three rates)
LEARNERS: dict[str, tuple[str, dict[str, Any], float]] = {
    "adamw": ("adamw", {"weight_decay": 0.0}, 3e-3),
    "muon": ("muon", {"weight_decay": 0.0}, 3e-3),
    "m3": ("m3", {"weight_decay": 0.0}, 3e-3),
    "deep_momentum": ("deep_momentum", {}, 3e-3),
    "momentum": ("momentum", {}, 1e-1),
    "delta_momentum": ("delta_momentum", {}, 1e-1),
    "dgd": ("dgd", {}, 3e-2),
    "m3_printed": ("m3", {"weight_decay": 0.0, "form": "printed"}, 1e-5),
    "dgd_answer": ("dgd", {"target": "answer"}, 1.0),
    "delta_momentum_adam": ("delta_momentum", {"preconditioner": "diagonal"}, 3e-4),
    "momentum_adam": ("momentum", {"preconditioner": "diagonal"}, 3e-4),
}
# "adam": with the diagonal preconditioner of NL 46-49. Two rows only on images, which cost less.
OPTIMIZERS_OF = {
    "text": [name for name in LEARNERS if name not in ("m3_printed", "dgd_answer")],
    "images": list(LEARNERS),
}


def make_optimizer(name: str, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    row, options, _ = LEARNERS[name]
    named = list(model.named_parameters())
    if row in ("muon", "m3"):
        outside = [p for path, p in named if any(part in path for part in NOT_HIDDEN)]
        hidden = [p for path, p in named if not any(part in path for part in NOT_HIDDEN)]
        groups = [{"params": hidden}, {"params": outside, "elementwise": True}]
        return OPTIMIZERS[row].build(groups, lr=lr, precision="parameter", **options)
    return OPTIMIZERS[row].build([p for _, p in named], module=model, lr=lr, **options)


def train_step(task: Task, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> float:
    optimizer.zero_grad()
    loss = loss_of(model, task.draw(generator))
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    return loss.item()


def train(task: Task, name: str, lr: float, *, seed: int, steps: int, every: int) -> dict[str, Any]:
    """Curve of [step, training loss since the last point, test loss, test accuracy]; a diverged run ends early."""
    model = task.make(seed)
    optimizer = make_optimizer(name, model, lr)
    generator = torch.Generator().manual_seed(seed)
    loss, accuracy = held_out(model, task.test)
    curve, recent = [[0, loss, loss, accuracy]], []
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, step / WARM_UP)
        recent.append(train_step(task, model, optimizer, generator))
        if not math.isfinite(recent[-1]):
            return {"curve": curve, "diverged": step}
        if step % every == 0 or step == steps:
            loss, accuracy = held_out(model, task.test)
            if not math.isfinite(loss):
                return {"curve": curve, "diverged": step}
            curve.append([step, statistics.mean(recent), loss, accuracy])
            recent = []
    return {"curve": curve, "diverged": None}


def trial(task: Task, name: str, lr: float, *, steps: int) -> dict[str, Any]:
    """Validation loss after a short run; None when it diverged."""
    short = Task(data=task.data, make=task.make, draw=task.draw, validation=[], test=task.validation)
    run = train(short, name, lr, seed=TUNING_SEED, steps=steps, every=steps)
    return {"lr": lr, "loss": None if run["diverged"] else run["curve"][-1][2]}


def loss_or_inf(one: dict[str, Any]) -> float:
    return math.inf if one["loss"] is None else one["loss"]


def next_rate(tried: dict[float, float], middle: float) -> float:
    """Three rates, then the neighbour of the best; between it and its better neighbour when both are known."""
    for lr in (middle, middle / RATIO, middle * RATIO):
        if lr not in tried:
            return lr
    order = sorted(tried)
    best = order.index(min(tried, key=lambda lr: tried[lr]))
    if best == 0:
        return order[0] / RATIO
    if best == len(order) - 1:
        return order[-1] * RATIO
    other = min(order[best - 1], order[best + 1], key=lambda lr: tried[lr])
    return math.sqrt(order[best] * other)


def tune(cell: Callable[..., Any], task: Task, kind: str, name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    tried: list[dict[str, Any]] = []
    for number in range(args.trials):
        lr = next_rate({one["lr"]: loss_or_inf(one) for one in tried}, LEARNERS[name][2])
        make = partial(trial, task, name, lr, steps=args.tuning_steps[kind])
        tried.append(cell(f"{kind}-{name}-trial{number}", make))
    return tried


def step_seconds(task: Task, names: list[str], rounds: int = 3, per_round: int = 8) -> dict[str, float]:
    """Median over rounds of the mean of 8 training steps, one period of M3; all optimizers take turns."""
    runs = {}
    for name in names:
        model = task.make(0)
        runs[name] = (model, make_optimizer(name, model, 1e-6), torch.Generator().manual_seed(0))
        train_step(task, *runs[name])
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(per_round):
                train_step(task, *run)
            seconds[name].append((time.perf_counter() - start) / per_round)
    return {name: statistics.median(values) for name, values in seconds.items()}


def keeper(folder: Path) -> Callable[..., Any]:
    """cell(name, make): what the folder holds under this name, made and written first if it is not there."""
    make_folder(folder)

    def cell(name: str, make: Callable[[], Any]) -> Any:
        path = folder / f"{name}.json"
        if not path.exists():
            start = time.perf_counter()
            write_atomically(path, json.dumps(make()).encode())
            print(f"{name}: {time.perf_counter() - start:.1f} s, {path.read_text()[-110:]}", flush=True)
        return json.loads(path.read_text())

    return cell


def compare(kind: str, task: Task, cell: Callable[..., Any], args: argparse.Namespace) -> dict[str, Any]:
    """Tuning, step times and final runs of one task, cell by cell; seed after seed, so that all optimizers advance.

    Raises:
        InputError: the folder holds cells of other settings.
    """
    names = args.optimizers.split(",") if args.optimizers else OPTIMIZERS_OF[kind]
    settings = {"data": task.data, "steps": args.steps[kind]}
    settings |= {"tuning_steps": args.tuning_steps[kind], "trials": args.trials}
    kept = cell(f"{kind}-settings", lambda: settings)
    if kept != settings:
        raise InputError(f"{args.out} holds runs with {kept}, asked for {settings}: name another --out")
    trials = {name: tune(cell, task, kind, name, args) for name in names}
    rates = {name: min(trials[name], key=loss_or_inf)["lr"] for name in names}
    steps = args.steps[kind]
    runs: dict[str, list[Any]] = {name: [] for name in names}
    for seed in range(args.seeds):
        for name in names:
            make = partial(train, task, name, rates[name], seed=seed, steps=steps, every=max(1, steps // 8))
            runs[name].append(cell(f"{kind}-{name}-seed{seed}", make))
    probe = args.out / f"{kind}-seconds.json"
    known = json.loads(probe.read_text()) if probe.exists() else {}
    together = [name for name in LEARNERS if name in known or name in names]
    if args.retime or set(together) != set(known):
        probe.unlink(missing_ok=True)
    seconds = cell(f"{kind}-seconds", lambda: step_seconds(task, together))
    rows = {
        name: {"lr": rates[name], "trials": trials[name], "seconds": seconds[name], "runs": runs[name]}
        for name in names
    }
    return {"settings": settings, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--kinds", default="images,text")
    parser.add_argument("--optimizers", help=f"of {', '.join(LEARNERS)}; default: all on images, nine on text")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--steps", type=json.loads, default={"text": 400, "images": 800})
    parser.add_argument("--tuning-steps", type=json.loads, default={"text": 80, "images": 160})
    parser.add_argument("--retime", action="store_true", help="measure step times anew, for example when all is quiet")
    parser.add_argument("--out", type=Path, default=Path("runs/optimizer_training"))
    parser.add_argument("--page", type=Path, help="folder of the page, its table and its pictures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    make_task = {"text": lambda: text_task(args.text), "images": lambda: image_task(args.images)}
    tasks = {kind: make_task[kind]() for kind in args.kinds.split(",")}
    cell = keeper(args.out)
    results = {kind: compare(kind, task, cell, args) for kind, task in tasks.items()}
    if args.page:
        optimizer_training_page.write(args.page, results)


if __name__ == "__main__":
    main()
