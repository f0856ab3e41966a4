"""Tables and pictures of what language_models.py measured."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from nestling.recipes.files import make_folder, write_atomically
from nestling.recipes.machine import describe_machine, describe_versions

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#B8A500", "#7F7F7F")
NOTES = "\n## Notes\n"
WHOLE = "everything"  # of the ablation: what the others are compared with, seed by seed
HEADS = ("validation, 1x", "test, 1x", "test, 4x", "seeds", "learning rate", "parameters", "tokens/s")


def write_pages(results: list[dict[str, Any]], folder: Path, *, ablation: bool) -> None:
    """Write .json, .md and .png into a folder, named by what was compared and, but for AdamW, by the optimizer."""
    if not results:
        raise SystemExit("no finished run: start some first")
    make_folder(folder)
    optimizer = results[0]["recipe"]["optimizer"].partition(":")[0]
    by = "" if optimizer == "adamw" else f"_{optimizer}"
    name = "language_models" + by + ("_ablation" if ablation else "")
    rows = rows_of(results)
    content = {"machine": describe_machine(), "versions": describe_versions(), "rows": rows, "runs": results}
    write_atomically(folder / f"{name}.json", json.dumps(content, indent=1).encode())
    write_atomically(folder / f"{name}.png", picture(results, rows))
    path = folder / f"{name}.md"
    text = page(rows, results, name) + notes_of(path)
    write_atomically(path, text.encode())
    print(text)


def notes_of(path: Path) -> str:
    """What people wrote at the end of the page that is there, which stays."""
    _, heading, notes = path.read_text().partition(NOTES) if path.exists() else ("", "", "")
    return heading + notes


def rows_of(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds, and the standard deviation where there are several; best on the test part first."""
    labels = list(dict.fromkeys(result["label"] for result in results))
    whole = {result["seed"]: result["test_1x"] for result in results if result["label"] == WHOLE}
    rows = []
    for label in labels:
        mine = [result for result in results if result["label"] == label]
        row: dict[str, Any] = {"label": label, "seeds": len(mine), "lr": mine[0]["lr"]}
        for key in ("validation", "test_1x", "test_4x"):
            values = [result[key] for result in mine]
            row[key], row[f"{key}_spread"] = mean_and_spread(values)
        pairs = [(result["test_1x"], whole[result["seed"]]) for result in mine if result["seed"] in whole]
        if pairs:
            row["more"], row["more_spread"] = mean_and_spread([mine - other for mine, other in pairs])
        row["parameters"] = mine[0]["parameters"]
        row["tokens_per_second"] = sum(result["tokens_per_second"] for result in mine) / len(mine)
        rows.append(row)
    return sorted(rows, key=lambda row: row.get("more", row["test_1x"]))


def mean_and_spread(values: list[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation, None for a single value."""
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)) if values[1:] else None
    return mean, spread


def page(rows: list[dict[str, Any]], results: list[dict[str, Any]], name: str) -> str:
    """The table as Markdown, with what was done."""
    first = results[0]
    recipe = first["recipe"]
    compared = all("more" in row for row in rows)
    heads = [*(["test, 1x: more than everything, same seeds"] if compared else []), *HEADS]
    lines = [
        _title(name, recipe["optimizer"]),
        "",
        f"Bits per byte, lower is better; mean and standard deviation over seeds. {first['tokens']:,} bytes of "
        f"training with {recipe['optimizer']} for every model in contexts of {recipe['length']} (1x); 4x is contexts "
        f"of {4 * recipe['length']}. "
        f"Texts `{recipe['data']}`: the last 5 % of every file for test, the 5 % before for validation. Made by "
        "[language_models.py](../../benchmarks/language_models.py), which says how rates were chosen.",
        "",
        "| | " + " | ".join(heads) + " |",
        "|---|" + "---|" * len(heads),
    ]
    for row in rows:
        keys = [*(["more"] if compared else []), "validation", "test_1x", "test_4x"]
        cells = [_with_spread(row, key) for key in keys]
        cells += [str(row["seeds"]), f"{row['lr']:g}", f"{row['parameters']:,}", f"{row['tokens_per_second']:,.0f}"]
        lines.append(f"| {row['label']} | " + " | ".join(cells) + " |")
    lines += ["", f"![bits per byte]({name}.png)", ""]
    return "\n".join(lines)


def _title(name: str, optimizer: str) -> str:
    title = "# Language models: what each part of Hope gives" if "ablation" in name else "# Language models compared"
    return title if optimizer == "adamw" else f"{title}, trained with {optimizer.partition(':')[0].capitalize()}"


def picture(results: list[dict[str, Any]], rows: list[dict[str, Any]]) -> bytes:
    """Training curves, and bits per byte by place in contexts of four times the training length."""
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 4), layout="constrained")
        curves: Any
        places: Any
        curves, places = figure.subplots(1, 2)
        for number, row in enumerate(rows):
            mine = [result for result in results if result["label"] == row["label"]]
            style = {"color": COLOURS[number % len(COLOURS)], "linestyle": "-" if number < len(COLOURS) else "--"}
            curves.plot(*zip(*_mean_points([result["losses"] for result in mine])), lw=1, label=row["label"], **style)
            places.plot(
                *zip(*_mean_points([result["test_4x_positions"] for result in mine])), marker="o", ms=3, lw=1, **style
            )
        losses = [point[1] for result in results for point in result["losses"]]
        curves.set(xlabel="tokens of training", ylabel="training loss [bits per byte]", ylim=(min(losses) - 0.05, 4))
        curves.legend(frameon=False, fontsize=8)
        trained = results[0]["recipe"]["length"]
        places.axvline(trained, color="#999999", lw=0.8, ls=":")
        places.set(xscale="log", xlabel="place in the context (dotted: training length)", ylabel="test [bits per byte]")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _with_spread(row: dict[str, Any], key: str) -> str:
    spread = row[f"{key}_spread"]
    return f"{row[key]:.4f}" if spread is None else f"{row[key]:.4f} ± {spread:.4f}"


def _mean_points(curves: list[list[list[float]]]) -> list[tuple[float, float]]:
    return [(points[0][0], sum(point[1] for point in points) / len(points)) for points in zip(*curves)]
