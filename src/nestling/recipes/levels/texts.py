"""A nested system in words: one sentence, and the cells of its table."""

from __future__ import annotations

from collections.abc import Sequence

from nestling.recipes.levels.system import Component, NestedSystem
from nestling.recipes.report.table import count_text, join_words

__all__ = ["HEADS", "MEANINGS", "cells", "headline", "label", "state_text"]

HEADS = ("level", "component", "keys \u2192 values", "objective", "rule", "source", "updates", "parameters", "state")
MEANINGS: Sequence[tuple[str, str]] = (
    ("level", "0 is the fastest: more updates, or equally many and its new state is part of the other's update"),
    (
        "component",
        "an associative memory: a layer, what it carries, or what the optimizer carries; equal ones in one row",
    ),
    ("keys \u2192 values", "what it maps to what"),
    ("objective", "what its rule makes smaller; L is the loss of the whole model, g its gradient by the weight"),
    ("rule", "how it is written"),
    ("source", "equations; NL is Nested Learning (arXiv 2512.24695)"),
    ("updates", "how often; a step is one of the optimizer and holds many tokens"),
    ("parameters", "trained or frozen numbers"),
    ("state", "numbers that it carries besides"),
)


def headline(system: NestedSystem) -> str:
    """One sentence: levels, parameters, and what else is carried."""
    under = "with no optimizer" if system.optimizer == "none" else f"under {system.optimizer}"
    number = system.num_levels
    parts = [f"{count_text(system.num_parameters)} parameters"]
    if 0 < system.num_trained < system.num_parameters:
        parts[0] += f" ({count_text(system.num_trained)} of them trained)"
    if system.num_optimizer_state is None:
        parts.append("an optimizer state whose size is known after a step")
    elif system.num_optimizer_state:
        parts.append(f"{count_text(system.num_optimizer_state)} numbers of optimizer state")
    return f"{system.model} {under}: {number} level{'s' if number > 1 else ''}, {join_words(parts)}"


def label(component: Component) -> str:
    """The name with the class of the layer and how many there are."""
    times = f" \u00d7 {component.count}" if component.count > 1 else ""
    kind = "" if component.kind == "optimizer state" else f" ({component.type_name})"
    return f"{component.name}{kind}{times}"


def state_text(component: Component) -> str:
    """What it carries, with its unit; empty for nothing."""
    if component.num_state is None:
        return "known while it runs"
    if not component.num_state:
        return ""
    unit = "" if component.state_per == "model" else f" per {component.state_per}"
    return count_text(component.num_state) + unit


def cells(component: Component) -> tuple[str, ...]:
    """One table row in the order of HEADS."""
    return (
        str(component.level),
        label(component),
        f"{component.keys} \u2192 {component.values}",
        component.objective,
        component.rule,
        component.equations,
        str(component.updates),
        count_text(component.num_parameters) if component.num_parameters else "",
        state_text(component),
    )
