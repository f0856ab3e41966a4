"""`levels.html`: the picture and the table of a nested system on one page that needs nothing else."""

from __future__ import annotations

import html

from nestling.recipes.levels.picture import levels_svg
from nestling.recipes.levels.system import Component, NestedSystem
from nestling.recipes.levels.texts import HEADS, MEANINGS, cells, headline
from nestling.recipes.report.style import STYLE

__all__ = ["levels_page"]

_WORDS = """
.words td, .words thead th { text-align: left; white-space: normal; vertical-align: top; font-size: .85rem }
.words tbody th { white-space: normal; vertical-align: top; overflow-wrap: anywhere; min-width: 14rem; font-weight: 500;
  font-size: .9rem }
.words .number { text-align: right }
.words .number, .words .when { white-space: nowrap }
.words td:not(.number) { min-width: 7rem }
figure { margin-top: 1.2rem }
"""


def levels_page(system: NestedSystem) -> str:
    """The page as HTML without scripts and without anything loaded from elsewhere."""
    title = f"nestling: levels of {system.model}"
    sections = "".join(_level(system, number) for number in range(system.num_levels))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}{_WORDS}</style></head>\n"
        "<body><main><header><p class=kicker>nestling · levels</p>"
        f"<h1>{html.escape(headline(system))}</h1>"
        "<p class=setting>Everything that learns, ordered by how often it changes: the fastest adapts at once and "
        "forgets soon, the slowest anchors what was learned.</p></header>\n"
        f"<section><figure class=wide>{levels_svg(system)}</figure></section>\n"
        f"{sections}{_meanings()}</main></body></html>\n"
    )


def _level(system: NestedSystem, number: int) -> str:
    members = system.level(number)
    kinds: dict[str, str] = dict.fromkeys(HEADS[-2:], " class=number")
    head = "".join(f'<th scope="col"{kinds.get(name, "")}>{html.escape(name)}</th>' for name in HEADS[1:])
    rows = "".join(_row(component) for component in members)
    return (
        f"<section><h2>Level {number}: {html.escape(str(members[0].updates))}</h2>"
        f'<div class="wide words"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></section>\n'
    )


def _row(component: Component) -> str:
    _, name, *words, updates, parameters, state = cells(component)
    return (
        f'<tr><th scope="row">{html.escape(name)}</th>'
        + "".join(f"<td>{html.escape(text)}</td>" for text in words)
        + f"<td class=when>{html.escape(updates)}</td>"
        + f"<td class=number>{html.escape(parameters)}</td><td class=number>{html.escape(state)}</td></tr>"
    )


def _meanings() -> str:
    items = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(meaning)}</dd>" for name, meaning in MEANINGS)
    return (
        "<details><summary>What the columns mean</summary>"
        f"<dl>{items}<dt>order</dt><dd>Nested Learning, Definition 2. What merely arrives as the input of a layer "
        "does not order two components; otherwise every layer would be a level of its own.</dd></dl></details>"
    )
