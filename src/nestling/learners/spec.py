"""A strategy with options, written as one text: NAME or NAME:option=value:option=value."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import nn

from nestling.errors import InputError, NestlingError, UnknownNameError
from nestling.learners.base import Strategy
from nestling.learners.table import find_strategy
from nestling.options import read_value, write_value
from nestling.streams.base import Kind, Problem, Training

_GIVEN_BY_THE_RUN = ("self", "module", "problem", "training", "seed")
_SCALARS = (bool, int, float, str)
_LONGEST_NAME = 80


@dataclass(frozen=True)
class Option:
    """One option of a strategy.

    default: its value when it is left out.   hint: its type, resolved.
    settable: whether it can be written in a spec (bool, int, float, text or a choice of texts).
    """

    default: Any
    hint: Any

    @property
    def settable(self) -> bool:
        """Whether the type has a spelling in a spec."""
        return get_origin(self.hint) is Literal or all(part in _SCALARS for part in _alternatives(self.hint))

    def read(self, what: str, text: str) -> Any:
        """The value that `text` stands for. Raises InputError saying what was expected."""
        choices = get_args(self.hint) if get_origin(self.hint) is Literal else ()
        if choices and text not in choices:
            raise InputError(f"{what}: expected {' or '.join(choices)}, got {text!r}")
        return read_value(what, text, " | ".join(part.__name__ for part in _alternatives(self.hint)))


@dataclass(frozen=True, kw_only=True)
class StrategySpec:
    """A strategy and the options that differ from its defaults or were written out.

    name: a key of `STRATEGIES`.   options: name to value, in the order of the signature.
    """

    name: str
    options: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The spec as text, always the same for the same options: what results and reports call this strategy."""
        return ":".join([self.name, *(f"{name}={write_value(value)}" for name, value in self.options.items())])

    @property
    def strategy(self) -> type[Strategy]:
        """The class."""
        return find_strategy(self.name)

    def resolved(self, kind: Kind) -> dict[str, Any]:
        """Every option with its value on a stream of that kind, defaults included."""
        return {name: option.default for name, option in options_of(self.strategy, kind).items()} | dict(self.options)

    def build(self, module: nn.Module, problem: Problem, *, training: Training, seed: int) -> Strategy:
        """The strategy, ready to learn. Raises InputError for an option out of its range."""
        try:
            return self.strategy(module, problem, training=training, seed=seed, **self.options)
        except (ArithmeticError, RuntimeError, ValueError) as error:
            if isinstance(error, NestlingError) or not self.options:
                raise
            raise InputError(f"strategy {self.label!r} cannot be built ({error}); choose other values") from error


def parse_strategy(text: str) -> StrategySpec:
    """The spec that a user wrote, e.g. "replay:buffer_size=200".

    Raises: UnknownNameError naming the nearest strategy or option, InputError for a value of the wrong type.
    """
    name, *settings = (part.strip() for part in text.split(":"))
    strategy = find_strategy(name)
    known = {option: each for kind in sorted(strategy.kinds) for option, each in options_of(strategy, kind).items()}
    known = {option: each for option, each in known.items() if each.settable}
    given: dict[str, Any] = {}
    for setting in settings:
        option, equals, value = (part.strip() for part in setting.partition("="))
        option = option.replace("-", "_")
        if not equals or not option or option in given:
            raise InputError(f"expected {name}:option=value, each option once, got {text!r}")
        if not known:
            raise InputError(f"strategy {name!r} has no options, got {option!r}; leave it out")
        if option not in known:
            raise UnknownNameError(f"option of strategy {name!r}", option, known)
        given[option] = known[option].read(f"option {option} of strategy {name!r}", value)
    return StrategySpec(name=name, options={option: given[option] for option in known if option in given})


def options_of(strategy: type[Strategy], kind: Kind) -> dict[str, Option]:
    """The options of a strategy on streams of that kind: its keyword arguments and their defaults, in order."""
    build = strategy.parts.get(kind, strategy).__init__
    hints = get_type_hints(build)
    parameters = inspect.signature(build).parameters
    return {
        name: Option(parameter.default, hints[name])
        for name, parameter in parameters.items()
        if name not in _GIVEN_BY_THE_RUN and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }


def name_of(label: str) -> str:
    """The strategy that a label speaks of: "naive" for "naive:num_copies=18"."""
    return label.partition(":")[0]


def file_name(label: str) -> str:
    """A label as a file name of any system: plain names as they are, others made safe and told apart by a hash."""
    safe = re.sub(r"[^A-Za-z0-9._=-]+", "_", label)
    if safe == label:
        return label
    return f"{safe[:_LONGEST_NAME]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


def _alternatives(hint: Any) -> list[Any]:
    """[int] for int and for int | None."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return [part for part in parts if part is not NoneType]
