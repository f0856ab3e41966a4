"""Ten tasks, one network, nothing stored: does the optimizer's memory keep the earlier ones?

    python benchmarks/optimizer_tasks.py --seeds 3 --out runs/optimizer_tasks

orthogonal  regression; the inputs of each task lie in a subspace of their own (NL 4.3, eq. 45); squared error, relative
permuted    digits with the pixels in another order for each task; accuracy
rotated     digits turned by 18 degrees more for each task; accuracy

Learners: momentum and AdamW one task after another (naive), recursive DGD one task after another (it consolidates at
the end of a task and stores no example), AdamW on all tasks at once (joint). Learning rate (and ridge) are chosen per
learner on the validation part of the first tasks with a seed of its own, an equal number of trials each. Each finished
run is kept in --out and not repeated. Writes results.json and one picture per kind of task.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from nestling.optim import RecursiveDGD

NUM_TASKS, TUNING_TASKS, TUNING_SEED = 10, 4, 1000
KINDS = ("orthogonal", "permuted", "rotated")
LEARNERS = ("momentum", "adamw", "recursive_dgd", "joint")
GRIDS: dict[str, list[dict[str, float]]] = {
    "momentum": [{"lr": lr} for lr in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)],
    "adamw": [{"lr": lr} for lr in (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)],
    "recursive_dgd": [{"lr": lr, "ridge": ridge} for lr in (0.1, 0.3, 1.0) for ridge in (3e-3, 1e-2)],
    "joint": [{"lr": lr} for lr in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)],
}
Part = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """train, validation and test parts, each inputs [N, D] and targets [N] or [N, 1]."""

    train: Part
    validation: Part
    test: Part


def split(inputs: Tensor, targets: Tensor, seed: int) -> Task:
    """60, 20 and 20 %."""
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    first, second = int(0.6 * len(inputs)), int(0.8 * len(inputs))
    parts = [(inputs[index], targets[index]) for index in (order[:first], order[first:second], order[second:])]
    return Task(*parts)


def make_tasks(kind: str, seed: int) -> list[Task]:
    """Ten tasks; the split of the digits is the same in all of them."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "orthogonal":
        return list(orthogonal_tasks(generator, seed))
    images, labels = load_digits(return_X_y=True)
    digits, targets = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    tasks = []
    for number in range(NUM_TASKS):
        if kind == "permuted":
            order = torch.arange(64) if number == 0 else torch.randperm(64, generator=generator)
            tasks.append(split(digits[:, order], targets, seed))
        else:
            turned = rotate(digits.view(-1, 8, 8).numpy(), 18.0 * number, axes=(2, 1), reshape=False, order=1)
            tasks.append(split(torch.tensor(np.ascontiguousarray(turned)).flatten(1), targets, seed))
    return tasks


def orthogonal_tasks(generator: torch.Generator, seed: int) -> Iterator[Task]:
    """y = a . x of inputs in 6 of 64 dimensions, other ones for each task."""
    basis, _ = torch.linalg.qr(torch.randn(64, 64, generator=generator))
    for number in range(NUM_TASKS):
        inside = torch.randn(500, 6, generator=generator)
        slope = torch.randn(6, 1, generator=generator) / 6**0.5
        inputs = inside @ basis[6 * number : 6 * number + 6]
        yield split(inputs, inside @ slope, seed)


def make_network(kind: str, hidden: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 1 if kind == "orthogonal" else 10))


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs, targets) if targets.is_floating_point() else F.cross_entropy(outputs, targets)


@torch.no_grad()
def score(network: nn.Module, part: Part) -> float:
    """Accuracy, or 1 - squared error / variance."""
    inputs, targets = part
    outputs = network(inputs)
    if targets.is_floating_point():
        return float(1 - (outputs - targets).square().mean() / targets.var(unbiased=False))
    return float((outputs.argmax(1) == targets).float().mean())


def make_optimizer(learner: str, network: nn.Module, options: dict[str, float]) -> torch.optim.Optimizer:
    if learner == "momentum":
        return torch.optim.SGD(network.parameters(), momentum=0.9, **options)
    if learner == "recursive_dgd":
        return RecursiveDGD(network.parameters(), module=network, **options)
    return torch.optim.AdamW(network.parameters(), weight_decay=0.0, **options)


def epochs_of(network: nn.Module, optimizer: Any, part: Part, epochs: int, generator: torch.Generator) -> None:
    inputs, targets = part
    for _ in range(epochs):
        for index in torch.randperm(len(inputs), generator=generator).split(32):
            optimizer.zero_grad()
            loss_of(network(inputs[index]), targets[index]).backward()
            optimizer.step()


def learn(learner: str, tasks: list[Task], kind: str, seed: int, options: dict[str, float], args: Any) -> nn.Module:
    """The network after all of `tasks`; `args.after` is called with it after each task."""
    network = make_network(kind, args.hidden, seed)
    generator = torch.Generator().manual_seed(seed)
    optimizer = make_optimizer(learner, network, options)
    if learner == "joint":
        together = tuple(torch.cat([task.train[side] for task in tasks]) for side in (0, 1))
        epochs_of(network, optimizer, (together[0], together[1]), args.epochs, generator)
        return network
    for number, task in enumerate(tasks):
        epochs_of(network, optimizer, task.train, args.epochs, generator)
        if isinstance(optimizer, RecursiveDGD):
            optimizer.consolidate([task.train[0]])
        args.after(number, network)
    return network


def choose(kind: str, learner: str, args: Any) -> dict[str, float]:
    """The trial with the best mean validation score over the first tasks, learned in sequence."""
    tasks = make_tasks(kind, TUNING_SEED)[:TUNING_TASKS]
    args.after = lambda *_: None
    scored = []
    for options in GRIDS[learner]:
        network = learn(learner, tasks, kind, TUNING_SEED, options, args)
        scored.append((statistics.mean(finite(score(network, task.validation)) for task in tasks), options))
        print(f"  {kind} {learner} {options}: {scored[-1][0]:.3f}", flush=True)
    return max(scored, key=lambda pair: pair[0])[1]


def finite(value: float) -> float:
    """Of a diverged network the score is the worst there is."""
    return value if math.isfinite(value) else -1e9


def spread(values: list[float]) -> float:
    """Sample standard deviation; 0 for one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def run(kind: str, learner: str, seed: int, options: dict[str, float], args: Any) -> dict[str, Any]:
    """Test scores of all tasks after each of them: matrix[i][j]; joint has the last row only."""
    tasks = make_tasks(kind, seed)
    matrix: list[list[float]] = []
    args.after = lambda _, network: matrix.append([score(network, task.test) for task in tasks])
    network = learn(learner, tasks, kind, seed, options, args)
    last = [finite(score(network, task.test)) for task in tasks]
    return {"kind": kind, "learner": learner, "seed": seed, "options": options, "matrix": matrix, "last": last}


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `path` holds, made and written first if it is not there."""
    if not path.exists():
        content = json.dumps(make())
        path.with_suffix(".part").write_text(content)
        path.with_suffix(".part").rename(path)
    return json.loads(path.read_text())


def draw(kind: str, runs: list[dict[str, Any]], path: Path) -> None:
    """Mean score of the tasks learned so far, and of task 0, as tasks arrive."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True, sharey=True)
    steps = range(1, NUM_TASKS + 1)
    for learner in LEARNERS:
        mine = [one for one in runs if one["learner"] == learner]
        if learner == "joint":
            level = statistics.mean(statistics.mean(one["last"]) for one in mine)
            for axis in axes:
                axis.axhline(level, color="black", linestyle="--", label="all tasks at once")
            continue
        seen = np.array([[np.mean(row[: n + 1]) for n, row in enumerate(one["matrix"])] for one in mine])
        first = np.array([[row[0] for row in one["matrix"]] for one in mine])
        for axis, values in zip(axes, (seen, first)):
            line = axis.plot(steps, values.mean(0), label=learner.replace("_", " "))[0]
            axis.fill_between(steps, values.min(0), values.max(0), color=line.get_color(), alpha=0.2)
    for axis, title in zip(axes, ("mean of the tasks so far", "the first task")):
        axis.set(title=f"{kind}: {title}", xlabel="tasks learned", ylim=(-0.05, 1.03))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("1 - relative squared error" if kind == "orthogonal" else "accuracy")
    axes[1].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=1000)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--out", type=Path, default=Path("runs/optimizer_tasks"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    for kind in args.kinds.split(","):
        runs = []
        for learner in LEARNERS:
            options = kept(args.out / f"{kind}-{learner}.json", lambda k=kind, name=learner: choose(k, name, args))
            for seed in range(args.seeds):
                path = args.out / f"{kind}-{learner}-{seed}.json"
                runs.append(kept(path, lambda k=kind, n=learner, s=seed, o=options: run(k, n, s, o, args)))
            final = [float(statistics.mean(one["last"])) for one in runs[-args.seeds :]]
            first = [one["last"][0] for one in runs[-args.seeds :]]
            print(
                f"{kind:10s} {learner:14s} all {statistics.mean(final):.3f} +- {spread(final):.3f}   "
                f"task 0 {statistics.mean(first):.3f}   {options}",
                flush=True,
            )
        draw(kind, runs, args.out / f"{kind}.png")
        results += runs
    (args.out / "results.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
