"""`report.html`: one page that holds everything it shows, to be understood at a glance."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from nestling.learners import name_of
from nestling.recipes.files import plain_errors
from nestling.recipes.report.figures import curves_svg, matrix_svg
from nestling.recipes.report.style import STYLE
from nestling.recipes.report.table import (
    Column,
    bytes_text,
    cost_columns,
    join_words,
    score_columns,
    score_text,
    seconds_text,
)
from nestling.recipes.results import LearnResult, SummaryRecord

_REFERENCE = "joint"
_FILMS = {".gif": "image/gif", ".mp4": "video/mp4"}


def report_page(result: LearnResult, folder: Path | None = None) -> str:
    """The page as HTML without scripts and without anything loaded from elsewhere.

    Args:
        result: at least one run.
        folder: where film*.gif and film*.mp4 may lie, which are put into the page.
    """
    sections = [
        _films(folder),
        _section("Result", _table([*score_columns(result)], result) + _meanings(score_columns(result))),
        _section("What it took", _table(cost_columns(result), result) + _meanings(cost_columns(result))),
        _section(
            "What was kept and what was lost", _reading(result) + "".join(_card(result, r) for r in result.summary)
        ),
        _section("How this was made", _origin(result)),
    ]
    title = f"nestling: {result.stream.name}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style></head>\n'
        f"<body><main><header><p class=kicker>nestling · {_text(result.stream.name)}</p>"
        f"<h1>{_text(headline(result))}</h1>{_setting(result)}</header>\n"
        + "\n".join(sections)
        + "</main></body></html>\n"
    )


def headline(result: LearnResult) -> str:
    """One sentence: which strategy kept most, and what the references reached."""
    others = [row for row in result.summary if name_of(row.strategy) != _REFERENCE]
    ranked = sorted(others or result.summary, key=lambda r: r.average_accuracy_mean, reverse=result.higher_is_better)
    best = ranked[0]
    count = len(result.stream.experiences)
    kept = (
        f"storing {bytes_text(best.stored_bytes_mean)} of examples" if best.stored_bytes_mean else "storing no examples"
    )
    first = (
        f"After {count} experiences in turn, {best.strategy} scores {_score(result, best)} {result.metric} "
        f"over all of them, {kept}"
    )
    references = [row for row in result.summary if row is not best and row.strategy in ("naive", _REFERENCE)]
    words = {"naive": "plain fine-tuning (naive)", _REFERENCE: "learning everything at once (joint)"}
    rest = [f"{words[row.strategy]} scores {_score(result, row)}" for row in references]
    return f"{first}; {join_words(rest)}." if rest else f"{first}."


def _score(result: LearnResult, row: SummaryRecord) -> str:
    unit = " %" if result.metric in ("accuracy", "success rate") else ""
    return score_text(result, row.average_accuracy_mean) + unit


def _setting(result: LearnResult) -> str:
    seeds = len(result.config["seeds"])
    parts = [
        f"{len(result.stream.experiences)} experiences",
        f"{seeds} seed{'s' if seeds > 1 else ''}",
        f"order {result.config['order']}",
        "the learner is not told which experience an example belongs to",
    ]
    missing = len(result.config["strategies"]) * seeds - len(result.runs)
    warning = f"<p class=warning>{missing} run(s) are still missing; resume the command below to finish.</p>"
    return f"<p class=setting>{_text(' · '.join(parts))}</p>{warning if missing else ''}"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{content}</section>"


def _table(columns: Sequence[Column], result: LearnResult) -> str:
    head = "".join(f'<th scope="col">{_text(column.head)}</th>' for column in columns)
    rows = "".join(
        f'<tr><th scope="row">{_text(row.strategy)}</th>'
        + "".join(f"<td>{_text(column.cells[index])}</td>" for column in columns)
        + "</tr>"
        for index, row in enumerate(result.summary)
    )
    return _wide(f'<th scope="col">strategy</th>{head}', rows)


def _wide(head: str, rows: str) -> str:
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def _meanings(columns: Sequence[Column]) -> str:
    items = "".join(f"<dt>{_text(c.head.split(' [')[0])}</dt><dd>{_text(c.meaning)}</dd>" for c in columns)
    return f"<details><summary>What the columns mean</summary><dl>{items}</dl></details>"


def _reading(result: LearnResult) -> str:
    place = (
        " Orders differ between seeds, so #1 is whatever came first." if result.config["order"] == "shuffled" else ""
    )
    return (
        "<p>Each row of a matrix is a moment: what the learner can do after learning one more experience. A column "
        "that stays bright downwards is remembered; one that turns dark is forgotten. Cells without colour were not "
        f"learned yet. The curves show the same over time, with a band of one standard deviation over seeds.{place}</p>"
    )


def _card(result: LearnResult, row: SummaryRecord) -> str:
    return (
        f"<article><h3>{_text(row.strategy)}</h3><div class=pair><figure>{matrix_svg(result, row.strategy)}</figure>"
        f"<figure>{curves_svg(result, row.strategy)}</figure></div></article>"
    )


def _films(folder: Path | None) -> str:
    paths = sorted(path for path in folder.glob("film*") if path.suffix in _FILMS) if folder else []
    return _section("On film", "".join(_film(path) for path in paths)) if paths else ""


def _film(path: Path) -> str:
    with plain_errors("read", path):
        content = base64.b64encode(path.read_bytes()).decode()
    source = f"data:{_FILMS[path.suffix]};base64,{content}"
    caption = _text(path.stem.removeprefix("film").strip("-_ ").replace("-", " ").replace("_", " "))
    film = (
        f'<img src="{source}" alt="{caption}">'
        if path.suffix == ".gif"
        else f'<video src="{source}" controls loop muted autoplay playsinline></video>'
    )
    return f"<figure class=film>{film}<figcaption>{caption}</figcaption></figure>"


def _origin(result: LearnResult) -> str:
    machine = dict(result.machine)
    memory = machine.pop("memory_bytes", 0)
    facts = {
        **{key: str(value) for key, value in machine.items()},
        "memory": bytes_text(float(memory)),
        **result.versions,
        "experiences": ", ".join(result.stream.experiences),
        "data (SHA-256)": result.stream.hash,
    }
    return (
        f"<pre><code>{_text(result.command)}</code></pre>"
        + _facts("Machine, versions and data", facts)
        + _facts("Configuration", {key: _plain(value) for key, value in result.config.items()})
        + f"<details><summary>Every run</summary>{_runs(result)}</details>"
    )


def _facts(title: str, facts: dict[str, str]) -> str:
    items = "".join(f"<dt>{_text(key)}</dt><dd>{_text(value)}</dd>" for key, value in facts.items())
    return f"<details><summary>{_text(title)}</summary><dl>{items}</dl></details>"


def _runs(result: LearnResult) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_text(run.strategy)}</th><td>{run.seed}</td>'
        f"<td>{score_text(result, run.average_accuracy, digits=2)}</td>"
        f"<td>{score_text(result, run.forgetting, digits=2)}</td>"
        f"<td>{seconds_text(run.seconds)}</td><td>{_text(', '.join(run.experiences))}</td></tr>"
        for run in result.runs
    )
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("strategy", "seed", f"final {result.metric}", "forgetting", "learning time", "order")
    )
    return _wide(head, rows)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} = {_plain(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(str(inner) for inner in value)
    return str(value)


def _text(value: str) -> str:
    return html.escape(value)
