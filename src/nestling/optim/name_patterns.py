"""Parameter groups from patterns of parameter names, with nothing left over and nothing in vain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from nestling.errors import InputError

__all__ = ["groups_by_name"]

_MOST_NAMED = 6


def groups_by_name(module: nn.Module, groups: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One parameter group per pattern, with (name, parameter) pairs as "params".

    Args:
        module: its trainable parameters are distributed, each once; frozen ones are left out.
        groups: shell pattern ("*", "?", "[..]"; "*" also crosses dots) to the rest of the group. The first pattern
            that fits a name takes the parameter; a tied parameter has several names and one of them is enough.

    Returns:
        the groups in the order of the patterns, parameters in the order of the module.

    Raises:
        InputError: naming patterns that take no parameter, and parameters that no pattern takes.
    """
    names: dict[Any, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    taken: dict[str, list[Any]] = {pattern: [] for pattern in groups}
    left = []
    for parameter, own in names.items():
        if not parameter.requires_grad:
            continue
        fits = (pattern for pattern in groups if any(fnmatchcase(name, pattern) for name in own))
        pattern = next(fits, None)
        if pattern is None:
            left.append(own[0])
        else:
            taken[pattern].append((own[0], parameter))
    idle = [pattern for pattern, params in taken.items() if not params]
    every = [name for own in names.values() for name in own]
    problems = [_idle(pattern, every) for pattern in idle]
    if left:
        problems.append(f"no pattern takes {_some(left)}: add a pattern such as '*' at the end, or freeze them")
    if problems:
        raise InputError("; ".join(problems))
    return [{**groups[pattern], "params": params} for pattern, params in taken.items()]


def _idle(pattern: str, names: Sequence[str]) -> str:
    fitting = [name for name in names if fnmatchcase(name, pattern)]
    if fitting:
        return f"pattern {pattern!r} takes nothing: {_some(fitting)} are frozen or taken by an earlier pattern"
    return f"pattern {pattern!r} fits no parameter: there are {_some(names)}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMED])
    return f"{shown} and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else shown
