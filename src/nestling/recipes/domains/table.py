"""The result as a table and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nestling.recipes.domains.run import DomainsResult

__all__ = ["draw", "markdown"]

HEAD = (
    "arm",
    "seeds",
    "gain on the newest domain",
    "lost on earlier domains",
    "gain kept in the end",
    "never read: change",
    "seconds",
    "kept",
)


def markdown(results: Sequence[DomainsResult]) -> str:
    """Means over seeds of every arm, then the matrix of each arm and seed; bits per byte."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    for arm in dict.fromkeys(each.arm for each in results):
        lines.append(f"| {' | '.join(_cells([each for each in results if each.arm == arm]))} |")
    for each in results:
        lines += ["", f"{each.arm}, seed {each.seed}: rows after reading, columns asked", ""]
        lines += [f"| | {' | '.join(each.order)} |", f"|---|{'---|' * len(each.order)}"]
        rows = [("before", each.before), *zip(each.order, each.matrix, strict=True)]
        for name, row in rows:
            cells = [f"{value:.3f}" for value in row] + [""] * (len(each.order) - len(row))
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(rows: Sequence[DomainsResult]) -> list[str]:
    return [
        rows[0].arm,
        str(len(rows)),
        _mean([each.gain for each in rows]),
        _mean([each.forgetting for each in rows]),
        _mean([each.kept for each in rows]),
        _mean([each.unread[-1] - each.unread[0] for each in rows]),
        f"{statistics.mean(sum(each.seconds) / len(each.seconds) for each in rows):.0f} a domain",
        f"{statistics.mean(each.num_bytes for each in rows) / 1e6:.1f} MB",
    ]


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):+.3f}{spread}"


def draw(results: Sequence[DomainsResult], path: Path) -> None:
    """One heat map for each arm of the first seed: bits per byte more than right after a domain was read."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [each for each in results if each.seed == results[0].seed]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(3.6 * len(shown) + 1, 4), squeeze=False)
    top = max(0.05, *(value for each in shown for row in _lost(each) for value in row))
    image: Any = None
    for axis, each in zip(axes[0], shown, strict=True):
        full = [row + [float("nan")] * (len(each.order) - len(row)) for row in _lost(each)]
        image = axis.imshow(full, vmin=-top, vmax=top, cmap="RdBu_r")
        names = [name.split("_", 1)[-1] for name in each.order]
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right")
        axis.set_yticks(range(len(names)), names if axis is axes[0][0] else [""] * len(names))
        axis.set_title(each.arm)
        for i, row in enumerate(each.matrix):
            for j, value in enumerate(row):
                axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8)
    axes[0][0].set_ylabel("after reading")
    figure.colorbar(image, ax=axes[0].tolist(), label="bits per byte more than right after reading it", shrink=0.8)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    pyplot.close(figure)


def _lost(result: DomainsResult) -> list[list[float]]:
    own = [result.matrix[j][j] for j in range(len(result.order))]
    return [[value - own[j] for j, value in enumerate(row)] for row in result.matrix]
