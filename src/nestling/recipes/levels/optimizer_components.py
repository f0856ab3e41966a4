"""The components of an optimizer: what it remembers of the gradients, and how often each trained weight changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from nestling.optim import NestedOptimizer
from nestling.recipes.levels.optimizer_state import entries_of
from nestling.recipes.levels.system import Component, Frequency
from nestling.recipes.levels.words import ANCHOR, NOT_KNOWN, PENDING, Words, state_words, weight_rule

__all__ = ["OptimizerView", "Trained", "view_of"]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How one parameter is trained: by which optimizer, how often, how, and the states that its update contains."""

    by: str
    updates: Frequency
    rule: str
    needs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class OptimizerView:
    """An optimizer's components, and per parameter how it is trained. num_state: None where a part is not known."""

    components: tuple[Component, ...] = ()
    trained: Mapping[Tensor, Trained] = field(default_factory=dict)
    num_state: int | None = 0
    label: str = "none"


_Key = tuple[str, Frequency]  # title of a state, and how often it changes


@dataclass
class _Sum:
    """One state over all parameters."""

    words: Words
    num_state: int | None = 0
    needs: set[_Key] = field(default_factory=set)


def view_of(optimizer: Optimizer) -> OptimizerView:
    """The view of any torch optimizer; a NestedOptimizer's levels each have their own period.

    Args:
        optimizer: not changed, and not stepped.
    """
    if not isinstance(optimizer, NestedOptimizer):
        name = type(optimizer).__name__
        return _joined(name, [_part(name, optimizer, 1, {})])
    parts = []
    for level in optimizer.levels.levels:
        inner = optimizer.inner[level.name]
        rule = "" if level.retention == 1 else f"W <- A + {level.retention:g} (W - A); "
        waiting = {} if level.update_period == 1 else {"level_pending": PENDING}
        anchored = {} if level.anchor == "zero" else {"level_start": ANCHOR}
        name = f"{level.name}, {type(inner).__name__}"
        parts.append(_part(name, inner, level.update_period, {**waiting, **anchored}, rule))
    inside = ", ".join(f"{level.name} every {level.update_period}" for level in optimizer.levels.levels)
    return _joined(f"NestedOptimizer ({inside})", parts)


def _part(name: str, optimizer: Optimizer, period: int, extra: Mapping[str, Words], rule: str = "") -> OptimizerView:
    """One optimizer that steps once every `period` steps; `extra` are entries of the size of the parameter."""
    entries = entries_of(optimizer)
    often = Frequency(per="step", period=period)
    sums: dict[_Key, _Sum] = {}
    contained: dict[Tensor, list[_Key]] = {}
    for group in optimizer.param_groups:
        for parameter in (p for p in group["params"] if p.requires_grad):
            own = entries[parameter]
            sizes = {} if own is None else {**own, **dict.fromkeys(extra, parameter.numel())}
            words = {entry: extra.get(entry) or state_words(optimizer, entry) for entry in sizes}
            keys = {entry: (words[entry].title, _frequency(words[entry], optimizer, group, period)) for entry in sizes}
            for entry, key in keys.items():
                total = sums.setdefault(key, _Sum(words[entry]))
                total.num_state = (total.num_state or 0) + sizes[entry]
                total.needs |= {keys[need] for need in words[entry].needs if need in keys and keys[need][1] == key[1]}
            if own is None:
                keys["state"] = (NOT_KNOWN.title, often)
                sums.setdefault(keys["state"], _Sum(NOT_KNOWN, None))
            inner = {need for entry in sizes for need in words[entry].needs}
            aside = {entry for entry in sizes if words[entry].aside} | inner
            contained[parameter] = [key for entry, key in keys.items() if key[1] == often and entry not in aside]
    names = _names(name, list(sums))
    rules = {
        parameter: rule + weight_rule(optimizer, elementwise=parameter.ndim < 2 or bool(group.get("elementwise")))
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    trained = {
        parameter: Trained(
            by=name, updates=often, rule=rules[parameter], needs=tuple(sorted({names[key] for key in keys}))
        )
        for parameter, keys in contained.items()
    }
    made = [_component(names[key], key[1], total, names) for key, total in sums.items()]
    components = tuple(replace(component, type_name=type(optimizer).__name__) for component in made)
    return OptimizerView(components=components, trained=trained, num_state=_total(components), label=name)


def _names(optimizer: str, keys: list[_Key]) -> dict[_Key, str]:
    """Names for people; the frequency is part of it where one state has several."""
    titles = [title for title, _ in keys]
    return {
        (title, often): f"{optimizer}: {title}" + (f" ({often})" if titles.count(title) > 1 else "")
        for title, often in keys
    }


def _frequency(words: Words, optimizer: Optimizer, group: Mapping[str, Any], period: int) -> Frequency:
    """How often an entry changes: gathered gradients at every step, the anchor never."""
    if words is PENDING:
        return Frequency(per="step")
    if words is ANCHOR:
        return Frequency(per="never")
    if words.by_task and getattr(optimizer, "mode", "") == "task":
        return Frequency(per="task")
    return Frequency(per="step", period=period * (int(group[words.period]) if words.period else 1))


def _component(name: str, updates: Frequency, total: _Sum, names: Mapping[_Key, str]) -> Component:
    return Component(
        name=name,
        kind="optimizer state",
        keys=total.words.keys,
        values=total.words.values,
        objective=total.words.objective,
        rule=total.words.rule,
        equations=total.words.equations,
        updates=updates,
        num_state=total.num_state,
        needs=tuple(sorted(names[key] for key in total.needs)),
    )


def _total(components: Iterable[Component]) -> int | None:
    sizes = [component.num_state for component in components]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _joined(label: str, parts: list[OptimizerView]) -> OptimizerView:
    components = tuple(component for part in parts for component in part.components)
    trained = {parameter: how for part in parts for parameter, how in part.trained.items()}
    return OptimizerView(components=components, trained=trained, num_state=_total(components), label=label)
