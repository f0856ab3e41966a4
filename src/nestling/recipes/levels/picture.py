"""A nested system drawn as an <svg>: one band per level, the fastest on top, in the text colour of the page."""

from __future__ import annotations

import html
from collections.abc import Sequence

from nestling.recipes.levels.system import Component, Frequency, Kind, NestedSystem
from nestling.recipes.levels.texts import state_text
from nestling.recipes.report.figures import COLOURS
from nestling.recipes.report.table import count_text

__all__ = ["levels_svg"]

_WIDTH, _SIDE, _GAP = 1000, 210, 8
_CHIP_WIDTH, _CHIP_HEIGHT, _PER_LINE = 250, 46, 3
_PULSE_WIDTH, _PULSE_HEIGHT = 160, 14
_BETWEEN = 26
_MOST_LETTERS, _MOST_BELOW = 29, 33
_STEPS_SHOWN = 8  # of the pulse
COLOUR: dict[Kind, str] = {
    "attention": COLOURS[5],
    "memory": COLOURS[2],
    "optimizer state": COLOURS[1],
    "statistics": COLOURS[3],
    "weights": COLOURS[0],
}
_STILL = COLOURS[7]


def levels_svg(system: NestedSystem) -> str:
    """The whole drawing, with a legend. An arrow between two levels: the upper one's new state is part of the lower
    one's update.
    """
    parts: list[str] = []
    top = 0.0
    for number in range(system.num_levels):
        members = system.level(number)
        if number:
            parts.append(_between(top, _is_needed(system.level(number - 1), members)))
            top += _BETWEEN
        height = _band_height(len(members))
        parts.append(_band(number, members, top, height))
        top += height
    legend, top = _legend(system, top + 18)
    parts.append(legend)
    title = html.escape(f"Levels of {system.model}, the fastest on top")
    return (
        f'<svg viewBox="0 0 {_WIDTH} {top:g}" role="img" aria-label="{title}" xmlns="http://www.w3.org/2000/svg" '
        'style="width:100%;min-width:44rem;height:auto" font-family="system-ui, sans-serif" fill="currentColor">'
        + "".join(parts)
        + "</svg>"
    )


def _band_height(members: int) -> float:
    lines = -(-members // _PER_LINE)
    return max(2 * _GAP + lines * (_CHIP_HEIGHT + _GAP) - _GAP, 88)


def _band(number: int, members: Sequence[Component], top: float, height: float) -> str:
    updates = members[0].updates
    parts = [
        f'<rect x="1" y="{top:g}" width="{_WIDTH - 2}" height="{height:g}" rx="10" fill="currentColor" '
        'fill-opacity="0.05" stroke="currentColor" stroke-opacity="0.25"/>',
        _text(16, top + 28, f"level {number}", size=17, weight=600),
        _text(16, top + 48, str(updates), size=14),
        _pulse(16, top + 58, updates),
    ]
    for index, component in enumerate(members):
        line, place = divmod(index, _PER_LINE)
        x = _SIDE + place * (_CHIP_WIDTH + _GAP)
        parts.append(_chip(component, x, top + _GAP + line * (_CHIP_HEIGHT + _GAP)))
    return "".join(parts)


def _chip(component: Component, x: float, y: float) -> str:
    colour = _STILL if component.updates.per == "never" else COLOUR[component.kind]
    return (
        f"<g><title>{html.escape(_hover(component))}</title>"
        f'<rect x="{x:g}" y="{y:g}" width="{_CHIP_WIDTH}" height="{_CHIP_HEIGHT}" rx="6" fill="{colour}" '
        f'fill-opacity="0.16" stroke="{colour}"/>'
        f'<rect x="{x:g}" y="{y:g}" width="5" height="{_CHIP_HEIGHT}" rx="2" fill="{colour}"/>'
        + _text(x + 13, y + 19, _name(component), size=12.5, weight=600)
        + _text(x + 13, y + 36, _below(component), size=12, opacity=0.8)
        + "</g>"
    )


def _name(component: Component) -> str:
    """The end of a long path tells most; of a name in words its beginning and its end."""
    name = component.name
    if " " in name.split(":")[0]:
        return _shortened(name)
    shown = name
    while len(shown) >= _MOST_LETTERS and "." in shown:
        shown = shown.partition(".")[2]
    return _shortened(name if shown == name else f"\u2026{shown}")


def _below(component: Component) -> str:
    """The second line of a chip: class and size."""
    if component.kind != "weights":
        times = f"{component.count} layers: " if component.count > 1 else ""
        return _shortened(times + state_text(component), most=_MOST_BELOW)
    times = f"{component.count} \u00d7 " if component.count > 1 else ""
    return _shortened(f"{times}{component.type_name}: {count_text(component.num_parameters)} params", most=_MOST_BELOW)


def _hover(component: Component) -> str:
    return (
        f"{component.name}: {component.keys} to {component.values}; objective {component.objective}; "
        f"rule {component.rule}"
    )


def _pulse(x: float, y: float, updates: Frequency) -> str:
    """When it changes, schematically: a line for every change within a few steps, a full bar for every query."""
    base = (
        f'<rect x="{x:g}" y="{y:g}" width="{_PULSE_WIDTH}" height="{_PULSE_HEIGHT}" fill="currentColor" '
        f'fill-opacity="{0.75 if updates.per == "query" else 0.08}"/>'
    )
    count = _num_changes(updates)
    gap = _PULSE_WIDTH / max(count, 1)
    width = 1 if count > 2 * _STEPS_SHOWN else 2
    lines = "".join(
        f'<rect x="{x + (i + 1) * gap - width:g}" y="{y:g}" width="{width}" height="{_PULSE_HEIGHT}"/>'
        for i in range(count)
    )
    return base + lines


def _num_changes(updates: Frequency) -> int:
    """Lines of the pulse; a step is drawn as eight tokens."""
    if updates.per == "token":
        return 8 * _STEPS_SHOWN if updates.period == 1 else 2 * _STEPS_SHOWN
    if updates.per == "step":
        return max(1, _STEPS_SHOWN // updates.period)
    return 1 if updates.per == "task" else 0


def _is_needed(upper: Sequence[Component], lower: Sequence[Component]) -> bool:
    names = {component.name for component in upper}
    return any(need in names for component in lower for need in component.needs)


def _between(top: float, needed: bool) -> str:
    if not needed:
        return ""
    x = 96
    return (
        f'<path d="M{x} {top + 3:g} V{top + _BETWEEN - 9:g}" stroke="currentColor" stroke-width="2" fill="none"/>'
        f'<path d="M{x - 5} {top + _BETWEEN - 10:g} h10 l-5 8 z"/>'
        + _text(x + 14, top + 17, "is part of the update of", size=12, opacity=0.8)
    )


def _legend(system: NestedSystem, top: float) -> tuple[str, float]:
    """What the colours mean, and the height of all."""
    moving = {component.kind for component in system.components if _is_moving(component)}
    entries = [(colour, str(kind)) for kind, colour in COLOUR.items() if kind in moving]
    if not all(map(_is_moving, system.components)):
        entries.append((_STILL, "does not change"))
    x, parts = 16.0, []
    for colour, name in entries:
        parts.append(f'<rect x="{x:g}" y="{top - 10:g}" width="12" height="12" rx="2" fill="{colour}"/>')
        parts.append(_text(x + 18, top, name, size=12))
        x += 46 + 6.6 * len(name)
    parts.append(_text(x + 8, top, "lines: when a level changes, not to scale", size=12, opacity=0.8))
    return "".join(parts), top + 8


def _is_moving(component: Component) -> bool:
    return component.updates.per != "never"


def _shortened(text: str, most: int = _MOST_LETTERS) -> str:
    """The text, its middle left out where it is too long for a chip."""
    if len(text) <= most:
        return text
    head = (most - 1) // 3
    return f"{text[:head]}\u2026{text[-(most - 1 - head) :]}"


def _text(x: float, y: float, text: str, *, size: float, weight: int = 400, opacity: float = 1.0) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" font-weight="{weight}" opacity="{opacity:g}">'
        f"{html.escape(text)}</text>"
    )
