"""NL Fig. 4: momentum and Delta Momentum on a valley that winds, over a grid of rates.

    psi(r, t) = r^2 + k (r - t + a sin(w r))^2,   start (-3.5, 2)        NL eq. 53

    python benchmarks/landscape.py --out docs/results/landscape

The paper does not print k, a and w; three valleys are tried. A run has arrived when psi < 0.01 after the last step.
Starts are jittered (standard deviation 0.1), one start per seed. Writes PATH.json and PATH.png.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from nestling.optim import DeltaMomentum, Momentum

START, STEPS, ARRIVED = (-3.5, 2.0), 300, 1e-2
VALLEYS = {"k=10 a=0.5 w=4": (10.0, 0.5, 4.0), "k=10 a=1 w=2": (10.0, 1.0, 2.0), "k=100 a=0.5 w=4": (100.0, 0.5, 4.0)}
RATES = [10 ** (exponent / 4) for exponent in range(-20, 1)]
Make = Callable[[Tensor, float], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "momentum": lambda p, lr: Momentum([p], lr=lr),
    "Adam": lambda p, lr: torch.optim.Adam([p], lr=lr),
    "Delta Momentum, as printed (NL 48)": lambda p, lr: DeltaMomentum([p], lr=lr, form="scalar", normalize=False),
    "Delta Momentum, scalar, bounded": lambda p, lr: DeltaMomentum([p], lr=lr, form="scalar"),
    "Delta Momentum, matrix (default)": lambda p, lr: DeltaMomentum([p], lr=lr),
    "Delta Momentum, matrix, erase 0.1": lambda p, lr: DeltaMomentum([p], lr=lr, erase=0.1),
}


def psi(point: Tensor, valley: tuple[float, float, float]) -> Tensor:
    k, a, w = valley
    r, t = point
    return r.square() + k * (r - t + a * torch.sin(w * r)).square()


def descend(make: Make, rate: float, valley: tuple[float, float, float], seed: int) -> list[float]:
    """psi after every step; infinity once it is beyond 1e6 or not a number."""
    jitter = 0.1 * torch.randn(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    point = (torch.tensor(START, dtype=torch.float64) + jitter).requires_grad_()
    optimizer = make(point, rate)
    values: list[float] = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = psi(point, valley)
        value.backward()
        optimizer.step()
        with torch.no_grad():
            values.append(float(psi(point, valley)))
        if not math.isfinite(values[-1]) or values[-1] > 1e6:
            return values[:-1] + [math.inf] * (STEPS - len(values) + 1)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/landscape"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    figure, axes = plt.subplots(1, len(VALLEYS), figsize=(13, 3.8), constrained_layout=True, sharey=True)
    for axis, (title, valley) in zip(axes, VALLEYS.items()):
        for name, make in OPTIMIZERS.items():
            last = np.array([[descend(make, lr, valley, seed)[-1] for lr in RATES] for seed in range(args.seeds)])
            share = (last < ARRIVED).mean(axis=1)
            best = last.min(axis=1)
            results.append(
                {"valley": title, "optimizer": name, "rates": RATES, "last": last.tolist(), "arrived": share.tolist()}
            )
            print(f"{title:18s} {name:36s} arrived {share.mean():.2f} +- {share.std():.2f}   best {best.mean():.1e}")
            shown = np.where(np.isfinite(last), np.maximum(last, 1e-12), 1e6)
            axis.loglog(RATES, np.exp(np.log(shown).mean(axis=0)), label=name)
        axis.axhline(ARRIVED, color="grey", linestyle=":")
        axis.set(title=title, xlabel="rate", ylim=(1e-12, 2e6))
    axes[0].set_ylabel(f"psi after {STEPS} steps")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out.with_suffix(".png"), dpi=100)
    text = json.dumps(results, indent=1).replace("Infinity", '"inf"')
    args.out.with_suffix(".json").write_text(text)


if __name__ == "__main__":
    main()
