"""What can be chosen about a continuum memory, and which choices go together."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal, get_args

from nestling.errors import InputError, UnknownNameError
from nestling.schedule import Level

__all__ = ["Mode", "Objective", "Variant", "check_options"]

Mode = Literal["static", "online", "meta"]
Variant = Literal["sequential", "nested", "independent"]
Objective = Literal["local", "given"]


def check_options(
    levels: tuple[Level, ...], mode: str, variant: str, objective: str, inner_rate: float, limit: float | None
) -> None:
    """Check the arguments of a `ContinuumMemory`.

    Raises:
        UnknownNameError: a mode, variant or objective that does not exist.
        InputError: a value outside its range, or periods that do not nest.
    """
    chosen: list[tuple[str, str, Any]] = [("mode", mode, Mode), ("variant", variant, Variant)]
    for what, given, known in [*chosen, ("objective", objective, Objective)]:
        if given not in get_args(known):
            raise UnknownNameError(f"{what} of a continuum memory", given, get_args(known))
    if not 0 <= inner_rate < float("inf"):
        raise InputError(f"inner_rate: expected a number >= 0, got {inner_rate}")
    if limit is not None and not limit > 0:
        raise InputError(f"limit: expected a length > 0, or None for no limit, got {limit}")
    for level in levels:
        if level.retention < 1 and level.anchor != "start":
            raise InputError(f"level {level.name!r}: retention is towards the start here, give anchor='start'")
    if variant == "nested" and any(slow.update_period % fast.update_period for fast, slow in pairwise(levels)):
        periods = [level.update_period for level in levels]
        raise InputError(f"nested: expected periods that are each a multiple of the one before, got {periods}")
