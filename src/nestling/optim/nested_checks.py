"""What a NestedOptimizer asks of an inner optimizer and of a saved state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

from torch.optim import Optimizer

from nestling.errors import CheckpointError, InputError
from nestling.schedule import Level

__all__ = ["COUNTS", "check_saved", "make_inner"]

COUNTS = ("num_steps", "num_skipped")


def make_inner(level: Level, make: Callable[..., Optimizer], params: list[Any], options: dict[str, Any]) -> Optimizer:
    """The optimizer of a level.

    Raises:
        InputError: it does not take the options, has several groups, or its step asks for a closure.
    """
    try:
        inner = make(params, **options)
    except (TypeError, ValueError) as error:
        raise InputError(f"level {level.name!r}: its optimizer cannot be made: {error}") from error
    if not isinstance(inner, Optimizer) or len(inner.param_groups) != 1:
        raise InputError(
            f"level {level.name!r}: 'optimizer' must make one torch optimizer with one group, got {inner!r}: "
            "make a level of each group"
        )
    closure = signature(type(inner).step).parameters.get("closure")
    if closure is not None and closure.default is Parameter.empty:
        raise InputError(
            f"level {level.name!r}: {type(inner).__name__} evaluates the loss anew in every step, which a level with "
            "gathered gradients cannot do: choose an optimizer whose step needs no closure"
        )
    return inner


def check_saved(groups: Sequence[Mapping[str, Any]], saved: Mapping[str, Any]) -> None:
    """Whether a saved state fits the groups of an optimizer.

    Raises:
        CheckpointError: keys that are missing, other levels, or naming the first parameter whose shape differs.
    """
    if missing := {"state", "param_groups", "shapes", "inner", *COUNTS} - set(saved):
        raise CheckpointError(f"not the state of a NestedOptimizer: {', '.join(sorted(missing))} missing")
    names = [group["level"] for group in groups]
    saved_names = [group.get("level") for group in saved["param_groups"]]
    if names != saved_names:
        raise CheckpointError(f"the saved state has the levels {saved_names}, expected {names} as in this optimizer")
    shapes = iter(saved["shapes"])
    for group, old in zip(groups, saved["param_groups"]):
        params, count = group["params"], len(old["params"])
        if len(params) != count:
            raise CheckpointError(
                f"level {group['level']!r}: the saved state has {count} parameters, expected {len(params)}: "
                "build the optimizer on the same model with the same levels"
            )
        called = group.get("param_names", [f"number {i}" for i in range(count)])
        for name, parameter, shape in zip(called, params, shapes):
            if list(parameter.shape) != list(shape):
                raise CheckpointError(
                    f"level {group['level']!r}, parameter {name}: expected shape {list(parameter.shape)}, "
                    f"the saved state has {list(shape)}: load a state of the same model"
                )
