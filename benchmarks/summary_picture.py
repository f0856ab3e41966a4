"""One small picture from finished runs: the mean score over the experiences learned so far, a line per strategy.

python benchmarks/summary_picture.py runs/robot runs/digits --strategies continuum,joint,replay,naive --out summary.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from nestling.recipes.results import load_results

COLOURS = {"continuum": "#0072B2", "joint": "black", "modular": "#CC79A7", "replay": "#E69F00", "naive": "#D55E00"}


def draw(axes: Axes, folder: Path, strategies: list[str]) -> None:
    result = load_results(folder)
    for strategy in strategies:
        matrices = [np.array(run.matrix) for run in result.runs if run.strategy == strategy]
        if not matrices:
            continue
        seen = 100 * np.array([[row[: place + 1].mean() for place, row in enumerate(each)] for each in matrices])
        steps = np.arange(1, seen.shape[1] + 1)
        style = "--" if strategy == "joint" else "-"
        axes.plot(steps, seen.mean(0), style, marker="o", color=COLOURS.get(strategy), label=strategy)
        axes.fill_between(steps, seen.min(0), seen.max(0), color=COLOURS.get(strategy), alpha=0.15, linewidth=0)
    num_seeds = len({run.seed for run in result.runs})
    axes.set(title=f"{result.stream.name}, {num_seeds} seeds", xlabel="tasks learned", ylim=(-3, 103))
    axes.set_xticks(range(1, len(result.stream.experiences) + 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--strategies", default="continuum,joint,modular,replay,naive")
    parser.add_argument("--out", type=Path, default=Path("runs/summary.png"))
    args = parser.parse_args()
    figure, axes = plt.subplots(1, len(args.folders), figsize=(4.4 * len(args.folders), 3.1), constrained_layout=True)
    for one, folder in zip(np.atleast_1d(axes), args.folders):
        draw(one, folder, args.strategies.split(","))
    np.atleast_1d(axes)[0].set_ylabel("mean over tasks so far [%]")
    np.atleast_1d(axes)[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
