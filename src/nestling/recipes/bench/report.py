"""A table for people, numbers for programs, and a picture of time against length."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from nestling.errors import ResourceError
from nestling.recipes.bench.measure import Measurement

HEADER = (
    "| B | T | D | subject | forward tok/s | fwd+bwd tok/s | forward ratio | fwd+bwd ratio | peak MB | parameters |"
)


def cost_exponent(measurements: Sequence[Measurement], subject: str) -> float | None:
    """Slope of log time against log T for batch 1 and width 256, T >= 1024; None with fewer than three lengths."""
    points = [
        (math.log(m.case.tokens), math.log(m.both))
        for m in measurements
        if m.subject == subject and m.both and m.case.batch == 1 and m.case.width == 256 and m.case.tokens >= 1024
    ]
    if len(points) < 3:
        return None
    mean_x, mean_y = (sum(point[i] for point in points) / len(points) for i in (0, 1))
    covariance = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return covariance / sum((x - mean_x) ** 2 for x, _ in points)


def write_report(measurements: Sequence[Measurement], folder: Path) -> list[Path]:
    """Write speed.md, speed.json and speed.png into `folder`.

    Raises:
        ResourceError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table, numbers, picture = (folder / f"speed.{kind}" for kind in ("md", "json", "png"))
        table.write_text(markdown(measurements))
        numbers.write_text(
            json.dumps({"machine": machine(), "rows": [asdict(m) for m in measurements]}, indent=1) + "\n"
        )
    except OSError as error:
        raise ResourceError(f"cannot write the report into {folder}: {error}; give another folder") from error
    _draw(measurements, picture)
    return [table, numbers, picture]


def machine() -> dict[str, str | int]:
    """Where the numbers come from."""
    return {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}


def markdown(measurements: Sequence[Measurement]) -> str:
    """The table; ratios above 1 mean faster than the baseline of the same round (attention, or titans-pytorch)."""
    lines = [
        "# Speed",
        "",
        f"Written by `nestling bench speed` (float32, {torch.get_num_threads()} thread(s), torch {torch.__version__}).",
        "Every round runs all subjects of a size in turn; figures are medians, ratios medians of the rounds' ratios,",
        "above 1 when faster than the baseline: the SDPA+MLP block of equal parameters, or titans-pytorch for deep",
        "memories (same state size). T 1 is one token in the mixer alone, attention with the cache length in brackets.",
        "",
        HEADER,
        "|" + "---|" * 10,
    ]
    lines += [_row(m) for m in measurements]
    names = dict.fromkeys(m.subject for m in measurements)
    fitted = {name: cost_exponent(measurements, name) for name in names}
    lines += ["", "Fitted exponent of cost in T (fwd+bwd, batch 1, width 256):", ""]
    lines += [f"- {name}: {slope:.3f}" for name, slope in fitted.items() if slope is not None]
    return "\n".join(lines) + "\n"


def _row(m: Measurement) -> str:
    case, count = m.case, m.case.batch * m.case.tokens
    length = f"1 ({case.cache})" if case.tokens == 1 else str(case.tokens)
    both = f"{count / m.both:,.0f}" if m.both else "-"
    ratios = [f"{ratio:.2f}" if ratio else "-" for ratio in (m.forward_ratio, m.both_ratio)]
    memory = "-" if m.peak_mb is None else f"{m.peak_mb:.0f}"
    cells = [case.batch, length, case.width, m.subject, f"{count / m.forward:,.0f}", both, *ratios, memory]
    return "| " + " | ".join(str(cell) for cell in cells) + f" | {m.num_parameters:,} |"


def _draw(measurements: Sequence[Measurement], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(m.subject for m in measurements):
        rows = [m for m in measurements if m.subject == name and m.both and m.case.batch == 1 and m.case.width == 256]
        points = sorted((m.case.tokens, 1e6 * (m.both or 0) / m.case.tokens) for m in rows)
        if points:
            axes.plot(*zip(*points), marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="tokens in context", ylabel="microseconds per token, fwd+bwd")
    axes.set_title("Batch 1, width 256: flat is linear cost")
    if axes.lines:
        axes.legend()
    figure.savefig(path, dpi=120)
