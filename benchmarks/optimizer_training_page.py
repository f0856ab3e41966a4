"""The page, tables and pictures of `optimizer_training.py`."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

READING = "## Reading"
UNIT = {"text": "nats per byte", "images": "nats per image"}
MODEL = {
    "text": "transformers' Llama, 4 layers of width 192, 2.0 million parameters, 4 windows of 128 bytes a step, on",
    "images": "transformers' ViT, 4 layers of width 64, 0.14 million parameters, 32 images a step, on",
}
HEAD = """\
# Training a small transformer and a small ViT with each optimizer

`NESTLING_DATA=... python benchmarks/optimizer_training.py --page docs/results`; the tables and pictures are written by
it, what stands under "Reading" is not. One thread, float32. Every optimizer had as many trials of its rate, judged on
validation data; three seeds at the rate found, measured on test data. The rate rises over 20 steps and is then
constant; no weight decay; gradients clipped to length 1. Muon and M3 leave embeddings and heads to Adam and iterate in
float32. Equal seconds: each curve is read at the seconds that the fastest optimizer needed for its steps, by step times
from a probe in which all take turns.
"""

Row = dict[str, Any]


def curve(row: Row) -> np.ndarray[Any, Any]:
    """[seeds, points, 4]: step, training loss, test loss, accuracy; a diverged run stays at infinity."""
    longest = max(len(run["curve"]) for run in row["runs"])
    steps = max((run["curve"] for run in row["runs"]), key=len)
    filled = [
        run["curve"] + [[point[0], math.inf, math.inf, 0.0] for point in steps[len(run["curve"]) :]]
        for run in row["runs"]
    ]
    assert all(len(points) == longest for points in filled)
    return np.array(filled, dtype=float)


def at_seconds(row: Row, seconds: float, column: int) -> list[float]:
    """One column of each seed's curve after so many seconds, between points by a straight line."""
    return [float(np.interp(seconds / row["seconds"], run[:, 0], run[:, column])) for run in curve(row)]


def shown(values: list[float], digits: int = 3) -> str:
    """Mean and sample standard deviation."""
    if not all(map(math.isfinite, values)):
        return "diverged"
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"


def place(row: Row) -> str:
    """Where among its trials the best rate lay."""
    rates = sorted(trial["lr"] for trial in row["trials"])
    return "at the edge" if row["lr"] in (rates[0], rates[-1]) else "inside"


def table(kind: str, rows: dict[str, Row]) -> list[str]:
    """One line per optimizer, the best at equal steps first."""
    budget = min(row["seconds"] * curve(row)[0, -1, 0] for row in rows.values())
    reference = rows["adamw"]["seconds"] if "adamw" in rows else next(iter(rows.values()))["seconds"]
    head = ["optimizer", "rate", "among its trials", "train loss", "test loss, equal steps", "test loss, equal seconds"]
    head += ["step time / AdamW's"] + (["accuracy, equal steps", "accuracy, equal seconds"] if kind == "images" else [])
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, row in sorted(rows.items(), key=lambda item: float(np.mean(curve(item[1])[:, -1, 2]))):
        points = curve(row)
        cells = [name, f"{row['lr']:.2g}", place(row), shown(list(points[:, -1, 1])), shown(list(points[:, -1, 2]))]
        cells += [shown(at_seconds(row, budget, 2)), f"{row['seconds'] / reference:.2f}"]
        if kind == "images":
            cells += [shown(list(points[:, -1, 3])), shown(at_seconds(row, budget, 3))]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw(kind: str, rows: dict[str, Row], path: Path) -> None:
    """Test loss against steps and against seconds, mean and range over seeds."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4), constrained_layout=True, sharey=True)
    colors = plt.get_cmap("tab20").colors  # pyright: ignore[reportAttributeAccessIssue]
    for color, (name, row) in zip(colors[::2] + colors[1::2], rows.items()):
        points = curve(row)
        steps, losses = points[0, :, 0], points[:, :, 2]
        for axis, across in zip(axes, (steps, steps * row["seconds"])):
            axis.plot(across, losses.mean(0), color=color, label=name.replace("_", " "), linewidth=1.3)
            axis.fill_between(across, losses.min(0), losses.max(0), color=color, alpha=0.15)
    lowest = min(float(curve(row)[:, -1, 2].min()) for row in rows.values())
    start = float(np.mean([curve(row)[0, 0, 2] for row in rows.values()]))
    for axis, label in zip(axes, ("steps", "seconds, one thread")):
        axis.set(xlabel=label, title=f"{kind}: test loss")
        axis.grid(alpha=0.3)
    axes[0].set(ylabel=UNIT[kind])
    if kind == "images":
        axes[0].set(yscale="log", ylim=(0.8 * lowest, 1.3 * start))
    else:
        axes[0].set(ylim=(lowest - 0.1, start + 0.1))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(folder: Path, results: dict[str, dict[str, Any]]) -> None:
    """optimizer_training.md, its .json, and one picture per kind; "Reading" of an existing page is kept."""
    page = folder / "optimizer_training.md"
    old = page.read_text() if page.exists() else ""
    lines = [HEAD]
    for kind, result in results.items():
        rows, settings = result["rows"], result["settings"]
        draw(kind, rows, folder / f"training_{kind}.png")
        tuned = f"{settings['trials']} trials of {settings['tuning_steps']} steps"
        lines += [f"## {kind.capitalize()}", ""]
        lines += [f"{MODEL[kind]}", f"{settings['data']}. {settings['steps']} steps after {tuned}; {UNIT[kind]}.", ""]
        lines += [*table(kind, rows), "", f"![Test loss, {kind}](training_{kind}.png)", ""]
    lines.append(READING + (old.split(READING, 1)[1].rstrip("\n") if READING in old else ""))
    page.write_text("\n".join(lines) + "\n")
    content = json.dumps(rounded(results))
    (folder / "optimizer_training.json").write_text(content + "\n")


def rounded(value: Any) -> Any:
    """Five digits are enough to draw from."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
