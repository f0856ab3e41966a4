"""`levels`: read a module and an optimizer as a nested system."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nestling.errors import InputError
from nestling.memory import Memory
from nestling.recipes.levels.inside import inside_components
from nestling.recipes.levels.load import make_optimizer
from nestling.recipes.levels.optimizer_components import OptimizerView, view_of
from nestling.recipes.levels.system import Component, Frequency, NestedSystem, ordered
from nestling.recipes.levels.words import START_OF_CONTEXT, Words, weight_words

__all__ = ["levels"]

_NEVER = Frequency(per="never")


def levels(module: nn.Module, optimizer: Optimizer | str | None = None, *, name: str = "") -> NestedSystem:
    """A model and its optimizer as memories at levels of their own frequency.

    Attention is solved anew for every query (infinitely fast); memories with a state change per token or chunk;
    trained weights and the optimizer's state change per step, or per period of a NestedOptimizer; frozen weights
    never. Nothing is run and nothing is changed: modules on the meta device will do.

    Source: NL Definitions 2-4, eq. 8, 29-31 (weights), 33-37, 101-107 (optimizers), 62-63 (attention).

    Args:
        module: any torch module.
        optimizer: one that trains parameters of this module, or a name such as "adamw"; None: the module as it is
            used, its weights do not change.
        name: of the model, for people; its class if empty.

    Raises:
        InputError: the module has no parameters and no memory, or the optimizer trains none of them.
        UnknownNameError: no optimizer of that name.
    """
    made = make_optimizer(optimizer, module) if isinstance(optimizer, str) else optimizer
    view = OptimizerView() if made is None else view_of(made)
    weights = list(_weights(module, view))
    inside = inside_components(module, training=made is not None)
    if made is not None and not any(parameter in view.trained for parameter in module.parameters()):
        raise InputError(
            "the optimizer trains no parameter of this module: build it with module.parameters(), and leave those "
            "that it shall train without requires_grad=False"
        )
    components = [*inside, *view.components, *weights]
    if not components:
        raise InputError(f"{type(module).__name__} has no parameters and no memory: there is nothing to order")
    parameters = set(module.parameters())
    return NestedSystem(
        model=name or type(module).__name__,
        optimizer=view.label,
        components=_collected(ordered(components), module),
        num_parameters=sum(parameter.numel() for parameter in parameters),
        num_trained=sum(parameter.numel() for parameter in parameters if parameter in view.trained),
        num_optimizer_state=view.num_state,
    )


def _weights(module: nn.Module, view: OptimizerView) -> Iterable[Component]:
    """One component per layer that owns parameters; more where they are trained in different ways."""
    memories = [part for part in module.modules() if isinstance(part, Memory)]
    starts = {p for part in memories for name, p in part.named_parameters() if "initial" in name.split(".")}
    seen: set[Tensor] = set()
    for path, owner in module.named_modules():
        ways: dict[tuple[Any, ...], list[tuple[str, Tensor]]] = {}
        for own, parameter in owner.named_parameters(recurse=False):
            if parameter not in seen and parameter.numel():
                seen.add(parameter)
                how = view.trained.get(parameter)
                way = (parameter in starts, how and how.by)
                ways.setdefault(way, []).append((own, parameter))
        for (start, *_), owned in ways.items():
            words = START_OF_CONTEXT if start else weight_words(owner)
            whole = len(ways) == 1 and (not start or isinstance(owner, nn.ParameterList | nn.ParameterDict))
            layer = _layer(path or type(owner).__name__, words, owned, view, whole=whole)
            yield replace(layer, type_name=type(owner).__name__)


def _layer(
    place: str, words: Words, owned: Sequence[tuple[str, Tensor]], view: OptimizerView, *, whole: bool
) -> Component:
    names = ", ".join(name for name, _ in owned)
    how = view.trained.get(owned[0][1])
    needs = {need for _, parameter in owned if how for need in view.trained[parameter].needs}
    frozen = all(not parameter.requires_grad for _, parameter in owned)
    unused = "not in the optimizer" if view.trained else "no optimizer"
    still = f"none: {'frozen' if frozen else unused}"
    return Component(
        name=place if whole else f"{place}.{names}",
        kind="weights",
        keys=words.keys,
        values=words.values if how else "what they were trained on",
        objective=words.objective if how else "not stated",
        rule=how.rule if how else still,
        equations=words.equations,
        updates=how.updates if how else _NEVER,
        needs=tuple(sorted(needs)),
        num_parameters=sum(parameter.numel() for _, parameter in owned),
    )


def _collected(components: Sequence[Component], module: nn.Module) -> tuple[Component, ...]:
    """Components that differ in nothing but numbers of their names, in one row with a count."""
    types = {path: type(part).__name__ for path, part in module.named_modules()}
    rows: dict[Any, list[Component]] = {}
    for component in components:
        needs = tuple(sorted({_pattern(need) for need in component.needs}))
        path = component.name.split(":")[0].split(".")
        around = tuple(types.get(".".join(path[: i + 1])) for i in range(len(path)))
        key = (_pattern(component.name), around, replace(component, name="", needs=needs))
        rows.setdefault(key, []).append(component)
    names = {component.name: _joined([each.name for each in same]) for same in rows.values() for component in same}
    return tuple(_row(same, names) for same in rows.values())


def _row(same: Sequence[Component], names: Mapping[str, str]) -> Component:
    first = same[0]
    return replace(
        first,
        name=names[first.name],
        needs=tuple(sorted({names[need] for component in same for need in component.needs})),
        count=len(same),
        num_parameters=first.num_parameters * len(same),
        num_state=None if first.num_state is None else first.num_state * len(same),
    )


def _pattern(name: str) -> str:
    """The name with its numbers left open: "layers.#.mlp"."""
    return re.sub(r"(?<![^.])\d+(?![^.:])", "#", name)


def _joined(names: Sequence[str]) -> str:
    """One name for several: layers.0-29.mlp for layers.0.mlp to layers.29.mlp."""
    if len(names) == 1:
        return names[0]
    parts = list(zip(*(re.split(r"(?<![^.])(\d+)(?![^.:])", name) for name in names)))
    return "".join(part[0] if len(set(part)) == 1 else _numbers(part) for part in parts)


def _numbers(parts: Sequence[str]) -> str:
    """0-29 for all of 0 to 29; 0,2,5 for some."""
    numbers = sorted({int(part) for part in parts})
    if len(numbers) > 1 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]}-{numbers[-1]}"
    return ",".join(map(str, numbers)) if len(numbers) <= 6 else f"{numbers[0]}..{numbers[-1]}"
