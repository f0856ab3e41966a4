"""Retention matrices and curves, drawn with matplotlib without touching its global state."""

from __future__ import annotations

import html
import io
import math
import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nestling.errors import InputError
from nestling.learners import file_name
from nestling.recipes.files import write_atomically
from nestling.recipes.report.table import is_share, score_text
from nestling.recipes.results import LearnResult

# Okabe and Ito's colours, told apart by colour-blind people; without black, and yellow darkened for white paper.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A500", "#7F7F7F")
MARKERS = "os^DvP*X"
FORMATS = (".png", ".svg", ".pdf")
_INK = "#123456"  # stands for the text colour of the page until the drawing is placed there
_MOST_NUMBERED = 15
_FONT: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "nestling",
}
_INKED: dict[Any, Any] = dict.fromkeys(
    ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK
)


def save_overview(result: LearnResult, path: Path) -> Path:
    """One image with a row per strategy: retention matrix and curves. Raises InputError for another ending."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"expected an image ending in {', '.join(FORMATS)}, got {path.name!r}")
    strategies = [row.strategy for row in result.summary]
    side = _matrix_side(result)
    with matplotlib.rc_context({**_FONT, "figure.facecolor": "white"}):
        figure = Figure(figsize=(side + 5.5, side * len(strategies)), layout="constrained")
        axes = figure.subplots(len(strategies), 2, squeeze=False, width_ratios=(side, 5.5))
        for row, strategy in zip(axes, strategies, strict=True):
            draw_matrix(row[0], result, strategy)
            draw_curves(row[1], result, strategy)
            row[0].set_title(strategy, loc="left", fontweight="bold")
        buffer = io.BytesIO()
        figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=150)
    write_atomically(path, buffer.getvalue())
    return path


def matrix_svg(result: LearnResult, strategy: str) -> str:
    """The retention matrix of one strategy as an <svg> element in the text colour of its surroundings."""
    side = _matrix_side(result)
    with matplotlib.rc_context({**_FONT, **_INKED}):
        figure = Figure(figsize=(side, side), layout="constrained")
        draw_matrix(figure.subplots(), result, strategy)
        return _inline(figure, f"matrix-{file_name(strategy)}", f"Retention matrix of {strategy}")


def curves_svg(result: LearnResult, strategy: str) -> str:
    """The score on every experience over time as an <svg> element in the text colour of its surroundings."""
    with matplotlib.rc_context({**_FONT, **_INKED}):
        figure = Figure(figsize=(5.5, max(3.6, min(_matrix_side(result), 4.8))), layout="constrained")
        draw_curves(figure.subplots(), result, strategy)
        return _inline(figure, f"curves-{file_name(strategy)}", f"Score of {strategy} on every experience over time")


def draw_matrix(axes: Axes, result: LearnResult, strategy: str) -> None:
    """Row i: after learning experience i. Column j: score on experience j, mean over seeds. Bright is good."""
    mean = matrices(result, strategy).mean(axis=0)
    count = len(mean)
    low, high = score_range(result)
    colours = matplotlib.colormaps["cividis" if result.higher_is_better else "cividis_r"]
    shades = colours(np.clip((mean - low) / (high - low), 0, 1))
    later = np.triu(np.ones_like(mean, dtype=bool), 1)
    shades[later, 3] = 0.0
    axes.imshow(shades, aspect="equal")
    if count <= _MOST_NUMBERED:
        _number_cells(axes, result, mean, shades, later)
    labels = experience_labels(result)
    ticks = range(0, count, _stride(count))
    shown = [labels[i] for i in ticks]
    flat = _are_short(shown)
    axes.set_xticks(ticks, shown, rotation=0 if flat else 40, ha="center" if flat else "right")
    axes.set_yticks(ticks, shown)
    axes.set_xlabel(f"{result.metric}{' [%]' if is_share(result) else ''} on")
    axes.set_ylabel("after learning")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def draw_curves(axes: Axes, result: LearnResult, strategy: str) -> None:
    """One line per experience, from when it was learned on: mean over seeds, band of one standard deviation."""
    every = matrices(result, strategy) * (100 if is_share(result) else 1)
    mean, count = every.mean(axis=0), every.shape[1]
    spread = every.std(axis=0, ddof=1) if len(every) > 1 else np.zeros_like(mean)
    labels = experience_labels(result)
    for j in range(count):
        colour = curve_colour(j, count)
        steps = np.arange(j, count)
        name = labels[j] if j % _stride(count) == 0 else None
        line, band = mean[j:, j], spread[j:, j]
        axes.plot(steps, line, color=colour, marker=MARKERS[j % len(MARKERS)], markersize=5, linewidth=1.8, label=name)
        axes.fill_between(steps, line - band, line + band, color=colour, alpha=0.15, linewidth=0)
    so_far = [mean[i, : i + 1].mean() for i in range(count)]
    axes.plot(range(count), so_far, color=_ink(), linestyle=(0, (4, 2)), linewidth=1.4, label="mean so far")
    _limit_scores(axes, result)
    named = _are_short(labels) and count <= _MOST_NUMBERED
    ticks = range(0, count, _stride(count))
    axes.set_xticks(ticks, [labels[i] if named else str(i + 1) for i in ticks])
    axes.set_xlim(-0.3, count - 0.7)
    axes.set_xlabel("after learning" if named else "experiences learned")
    axes.set_ylabel(f"{result.metric}{' [%]' if is_share(result) else ''}")
    axes.grid(axis="y", alpha=0.25)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), title="score on")


def matrices(result: LearnResult, strategy: str) -> NDArray[np.float64]:
    """[seeds, T, T]."""
    return np.array([run.matrix for run in result.runs if run.strategy == strategy])


def score_range(result: LearnResult) -> tuple[float, float]:
    """Lowest and highest score on anything learned, the same for all strategies; 0 and 1 for shares."""
    if is_share(result):
        return 0.0, 1.0
    learned = [np.array(run.matrix)[np.tril_indices(len(run.matrix))] for run in result.runs]
    low, high = float(np.min(learned)), float(np.max(learned))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def experience_labels(result: LearnResult) -> list[str]:
    """Names of the experiences, shortened; their place in time where runs have different orders."""
    if any(run.experiences != result.runs[0].experiences for run in result.runs):
        return [f"#{i + 1}" for i in range(len(result.stream.experiences))]
    return [name if len(name) <= 16 else name[:15] + "\u2026" for name in result.runs[0].experiences]


def curve_colour(index: int, count: int) -> Any:
    """Okabe and Ito's colours while they last, else a gradient from early to late."""
    return COLOURS[index] if count <= len(COLOURS) else matplotlib.colormaps["viridis"](index / max(1, count - 1) * 0.9)


def _number_cells(
    axes: Axes, result: LearnResult, mean: NDArray[Any], shades: NDArray[Any], later: NDArray[Any]
) -> None:
    size = 9 if len(mean) <= 8 else 7
    digits = 0 if is_share(result) and len(mean) > 8 else 1
    for i, j in np.ndindex(*mean.shape):
        dark = shades[i, j, :3] @ (0.299, 0.587, 0.114) < 0.5
        colour = _ink() if later[i, j] else "white" if dark else "black"
        weight = "bold" if i == j else "normal"
        opacity = 0.55 if later[i, j] else 1.0
        text = score_text(result, float(mean[i, j]), digits=digits)
        axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=size, fontweight=weight, alpha=opacity)


def _limit_scores(axes: Axes, result: LearnResult) -> None:
    low, high = (100 * bound if is_share(result) else bound for bound in score_range(result))
    margin = 0.04 * (high - low)
    axes.set_ylim(low - margin, high + margin)


def _stride(count: int) -> int:
    """Every how many experiences one is written out."""
    return math.ceil(count / _MOST_NUMBERED)


def _are_short(labels: list[str]) -> bool:
    return max(len(label) for label in labels) <= 5


def _matrix_side(result: LearnResult) -> float:
    """Inches."""
    count = len(result.stream.experiences)
    return max(3.2, 1.4 + count * (0.52 if count <= 8 else 0.42 if count <= _MOST_NUMBERED else 0.2))


def _ink() -> str:
    colour = matplotlib.rcParams["text.color"]
    return colour if isinstance(colour, str) else "black"


def _inline(figure: Figure, prefix: str, title: str) -> str:
    """The figure as an element of a page: ids of its own, no fixed size, ink in the colour of the text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :].replace(_INK, "currentColor")
    own = re.sub(r"[^A-Za-z0-9]", "-", prefix)
    drawing = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{own}-", drawing)
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    width = math.ceil(figure.get_figwidth() * 96)
    box = re.search(r'viewBox="([^"]*)"', drawing)
    assert box is not None
    head = (
        f'<svg viewBox="{box.group(1)}" role="img" aria-label="{html.escape(title)}" '
        f'style="width:100%;max-width:{width}px;height:auto" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return head + drawing[drawing.index(">") + 1 :]
