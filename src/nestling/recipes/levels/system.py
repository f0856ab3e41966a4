"""A model and its optimizer as a nested system: components, how often each changes, and the order of levels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nestling.recipes.files import make_folder, write_atomically

__all__ = ["Component", "Frequency", "Kind", "NestedSystem", "Per", "StatePer", "ordered"]

Per = Literal["query", "token", "step", "task", "never"]
Kind = Literal["attention", "memory", "optimizer state", "statistics", "weights"]
StatePer = Literal["model", "sequence", "token"]
_SPEED: dict[Per, int] = {"query": 0, "token": 1, "step": 2, "task": 3, "never": 4}

LEVELS_JSON, LEVELS_PAGE = "levels.json", "levels.html"


@dataclass(frozen=True, kw_only=True)
class Frequency:
    """Once per `period` tokens or optimizer steps; once per task; for every query (infinitely fast); or never (0).

    Tokens come before steps in the order: a step is taken to hold more tokens than any chunk.
    """

    per: Per
    period: int = 1

    @property
    def order(self) -> tuple[int, int]:
        """Smaller is faster."""
        return _SPEED[self.per], self.period

    def __str__(self) -> str:
        if self.per == "never":
            return "never (0)"
        if self.per == "query":
            return "every query (\u221e)"
        return f"every {self.per}" if self.period == 1 else f"every {self.period} {self.per}s"


@dataclass(frozen=True, kw_only=True)
class Component:
    """One associative memory of the system.

    name:            path in the model, equal repeated ones together ("layers.0-29.mlp.up_proj"), or the optimizer's.
    type_name:       class of the layer or of the optimizer.
    kind:            what it is.
    keys, values, objective, rule, equations:  the memory in the paper's words (NL unless said).
    updates:         its frequency.
    num_parameters:  numbers that the outer optimizer trains or that are frozen; a tied weight counts once.
    num_state:       numbers that the component itself carries; None where they are known only while it runs.
    state_per:       whether `num_state` is for the model, or for each sequence, or for each token that it keeps.
    count:           how many equal ones stand in this row.
    needs:           names of components of the same frequency whose new state this one's update contains.
    level:           0 is the fastest (NL Definition 2).
    """

    name: str
    type_name: str = ""
    kind: Kind
    keys: str
    values: str
    objective: str
    rule: str
    equations: str
    updates: Frequency
    num_parameters: int = 0
    num_state: int | None = 0
    state_per: StatePer = "model"
    count: int = 1
    needs: tuple[str, ...] = ()
    level: int = -1


@dataclass(frozen=True, kw_only=True)
class NestedSystem:
    """What `nestling.levels` returns: components from the fastest level to the slowest.

    num_parameters:       of the model, each once.
    num_trained:          of these, how many change.
    num_optimizer_state:  numbers that the optimizer carries, counters included; None where a part is not known yet.
    """

    model: str
    optimizer: str
    components: tuple[Component, ...]
    num_parameters: int
    num_trained: int
    num_optimizer_state: int | None

    @property
    def num_levels(self) -> int:
        """Levels, the frozen one included."""
        return len({component.level for component in self.components})

    def level(self, number: int) -> tuple[Component, ...]:
        """The components of one level, 0 is the fastest."""
        return tuple(component for component in self.components if component.level == number)

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dumps."""
        content = asdict(self)
        for component, written in zip(self.components, content["components"]):
            written["needs"] = list(component.needs)
        return {**content, "components": list(content["components"]), "num_levels": self.num_levels}

    def save(self, folder: str | Path) -> Path:
        """Write levels.json and levels.html, which needs nothing else, into `folder`; returns the path of the page.

        Raises:
            ResourceError: the folder cannot be written.
        """
        from nestling.recipes.levels.page import levels_page

        target = Path(folder)
        make_folder(target)
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n"
        write_atomically(target / LEVELS_JSON, text.encode())
        write_atomically(target / LEVELS_PAGE, levels_page(self).encode())
        return target / LEVELS_PAGE


def ordered(components: Sequence[Component]) -> tuple[Component, ...]:
    """The components with their level, fastest first.

    A is faster than B if f_A > f_B, or if they are equal and B's state at t needs A's at t. Components of one
    frequency that do not need each other share a level.

    Weights of one frequency share the level of those of them that need most, since none needs another.

    Source: NL Definitions 2-4. `needs` are states that an update rule contains. What merely arrives as the input of a
    layer does not count; otherwise every layer would be a level of its own.

    Args:
        components: with names of their own; `needs` without circles, and only among equal frequencies.
    """
    known = {component.name: component for component in components}
    assert len(known) == len(components), "names must differ"
    depths: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in depths:
            depths[name] = max((depth(need) + 1 for need in known[name].needs), default=0)
        return depths[name]

    deepest: dict[Frequency, int] = {}
    for each in components:
        if each.kind == "weights":
            deepest[each.updates] = max(deepest.get(each.updates, 0), depth(each.name))

    def place(each: Component) -> tuple[int, int, int]:
        return *each.updates.order, deepest[each.updates] if each.kind == "weights" else depth(each.name)

    places = {each.name: place(each) for each in components}
    numbers = {place: number for number, place in enumerate(sorted(set(places.values())))}
    placed = [replace(component, level=numbers[places[component.name]]) for component in components]
    return tuple(sorted(placed, key=lambda component: component.level))
