"""What a step of each optimizer costs: python benchmarks/step_cost.py [folder] [--quick].

Three tables. The step alone: fixed random gradients on the weights of a small transformer, every optimizer in turn,
many rounds, median of each; only rows of one run are compared. The whole training step: forward, backward and step of a
transformer of 6 layers and width 512, for the optimizers that watch layer inputs, since their hooks cost too. And the
ratios that were wanted beforehand. `products` is what no implementation of the matrix form of Delta Momentum can go
below: its two matrix products per weight, in the cheaper order, and nothing else.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nestling.optim import OPTIMIZERS, DeltaMomentum

Step = Callable[[], object]


def transformer(layers: int, width: int) -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(width, 8, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def fixed_gradients(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], layers: int, width: int) -> Step:
    model = transformer(layers, width)
    draw = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.grad = 1e-2 * torch.randn(p.shape, generator=draw)
    return make(list(model.parameters())).step


def torchs_muon(params: list[nn.Parameter]) -> Any:
    """torch's Muon for matrices beside AdamW for the rest, as ours does both."""
    muon = torch.optim.Muon([p for p in params if p.ndim == 2], lr=1e-3)
    adamw = torch.optim.AdamW([p for p in params if p.ndim != 2], lr=1e-3)

    class Both:
        def step(self) -> None:
            muon.step()
            adamw.step()

    return Both()


def products(params: list[nn.Parameter]) -> Any:
    """Per matrix g [V, K] the products V x K x V and V x V x K (V the smaller side): 4 V V K operations."""
    pairs = []
    for p in params:
        if p.grad is not None and p.ndim == 2:
            wide = p.grad if p.shape[0] <= p.shape[1] else p.grad.mT
            pairs.append((wide, torch.empty(len(wide), len(wide)), torch.empty_like(wide)))

    class Products:
        def step(self) -> None:
            for wide, small, large in pairs:
                torch.mm(torch.mm(wide, wide.mT, out=small), wide, out=large)

    return Products()


def training(optimizer: str, layers: int, width: int, tokens: tuple[int, int], **options: Any) -> Step:
    model = transformer(layers, width)
    chosen = OPTIMIZERS[optimizer].build(model.parameters(), module=model, lr=1e-4, **options)
    x = torch.randn(*tokens, width, generator=torch.Generator().manual_seed(2))

    def step() -> None:
        chosen.zero_grad()
        model(x).square().mean().backward()
        chosen.step()

    return step


def medians(steps: dict[str, Step], rounds: int, per_round: int) -> dict[str, float]:
    """Median seconds of one step; the optimizers take turns, so that a busy machine slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(per_round):
                step()
            seconds[name].append((time.perf_counter() - start) / per_round)
    return {name: statistics.median(times) for name, times in seconds.items()}


def step_alone(quick: bool) -> dict[str, float]:
    layers, width = (1, 64) if quick else (2, 256)
    named: dict[str, Callable[[list[nn.Parameter]], Any]] = {
        name: row.build for name, row in OPTIMIZERS.items() if row.needs == "parameters"
    }
    named["delta_momentum, scalar"] = lambda params: DeltaMomentum(params, form="scalar")
    named["muon of torch"] = torchs_muon
    named["adamw, fused"] = lambda params: torch.optim.AdamW(params, fused=True)
    named["products"] = products
    steps = {name: fixed_gradients(make, layers, width) for name, make in named.items()}
    return medians(steps, 3 if quick else 7, 8)  # 8 steps are one period of M3


def whole_step(quick: bool) -> dict[str, float]:
    size = (1, 64, (2, 16)) if quick else (6, 512, (4, 128))
    steps = {
        "adamw": training("adamw", *size),
        "dgd": training("dgd", *size),
        "recursive_dgd, task": training("recursive_dgd", *size, mode="task"),
        "recursive_dgd, step": training("recursive_dgd", *size, mode="step"),
        "recursive_dgd, task, all rows": training("recursive_dgd", *size, mode="task", max_rows=None),
        "recursive_dgd, step, all rows": training("recursive_dgd", *size, mode="step", max_rows=None),
        "recursive_dgd, low rank, step": training("recursive_dgd", *size, mode="step", form="low_rank"),
    }
    return medians(steps, 2 if quick else 5, 1)


def table(title: str, seconds: dict[str, float]) -> list[str]:
    rows = [f"| {name} | {1e3 * value:.2f} | {value / seconds['adamw']:.2f} |" for name, value in seconds.items()]
    return [f"| {title} | ms | times AdamW |", "|---|---|---|", *rows, ""]


def wanted(alone: dict[str, float], whole: dict[str, float]) -> list[str]:
    """The ratios that were to be met, and by how much."""
    ratios = [
        ("Delta Momentum, scalar form, over AdamW", alone["delta_momentum, scalar"] / alone["adamw"], 1.3),
        ("Delta Momentum, matrix form, over AdamW", alone["delta_momentum"] / alone["adamw"], 1.3),
        ("its two matrix products alone, over AdamW", alone["products"] / alone["adamw"], None),
        ("Muon over torch's Muon", alone["muon"] / alone["muon of torch"], 1.1),
        ("M3 over two Muons", alone["m3"] / (2 * alone["muon"]), 1.15),
        ("training step with recursive DGD over AdamW's", whole["recursive_dgd, task"] / whole["adamw"], 1.5),
        ("the same, all rows", whole["recursive_dgd, task, all rows"] / whole["adamw"], None),
        ("the same, P written every step", whole["recursive_dgd, step"] / whole["adamw"], None),
    ]
    lines = ["| | ratio | at most wanted | |", "|---|---|---|---|"]
    for name, ratio, most in ratios:
        verdict = "" if most is None else "met" if ratio <= most else "missed"
        lines.append(f"| {name} | {ratio:.2f} | {'-' if most is None else most} | {verdict} |")
    return [*lines, ""]


def main() -> None:
    torch.set_num_threads(1)
    arguments = [argument for argument in sys.argv[1:] if argument != "--quick"]
    quick = "--quick" in sys.argv
    folder = Path(arguments[0] if arguments else "docs/results")
    alone, whole = step_alone(quick), whole_step(quick)
    lines = [
        "# Cost of a step",
        "",
        "Written by `python benchmarks/step_cost.py`; one thread, float32, medians of interleaved rounds of one run.",
        "",
        *wanted(alone, whole),
        *table("step alone, 2 layers of width 256", alone),
        *table("whole training step, 6 layers of width 512, 4 x 128 tokens", whole),
    ]
    text = "\n".join(lines)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "step_cost.md").write_text(text)
    (folder / "step_cost.json").write_text(json.dumps({"step": alone, "whole": whole}, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
