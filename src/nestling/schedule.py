"""Who updates at step or token t: update periods, chunk borders, and the order of levels. Time is counted from 1.

A level with update period C gathers what C steps (or tokens) ask of it and changes once, after the last of them:

    W_{t+1} = W_t + (sum_{i=t-C+1..t} update_i  if t = 0 mod C, else 0)

Source: NL eq. 70-71 (continuum memory system), Definition 2 (order of levels). C is `update_period` here, C^(l) in NL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from nestling.errors import InputError

__all__ = ["Accumulation", "Anchor", "Level", "Schedule", "Span", "Unit", "chunk_borders", "is_update", "num_updates"]

Unit = Literal["steps", "tokens"]
Accumulation = Literal["sum", "mean"]
Anchor = Literal["zero", "start"]


def is_update(time: int, update_period: int) -> bool:
    """Whether a level changes right after step or token `time`, counted from 1.

    Source: NL eq. 71.
    """
    return time > 0 and time % update_period == 0


def num_updates(time: int, update_period: int) -> int:
    """How often a level has changed once step or token `time` is over."""
    return max(time, 0) // update_period


def chunk_borders(first: int, last: int, update_period: int) -> range:
    """The times in (first, last] after which a level changes: its chunks end there.

    Args:
        first: steps or tokens that are over before the span, >= 0.
        last: steps or tokens that are over after it, >= first.
        update_period: steps or tokens, >= 1.
    """
    return range((first // update_period + 1) * update_period, last + 1, update_period)


@dataclass(frozen=True, kw_only=True)
class Level:
    """One level: how often it changes, and what it does with what it gathered.

    Symbols: update_period = C^(l) in NL 71.

    name:           for people and for saved states.
    update_period:  steps or tokens (the schedule or the optimizer says which) between two changes, >= 1.
    accumulation:   the gradient of a change is the "sum" (NL 71) or the "mean" of those since the last change. The
                    mean asks for the same learning rate at every period.
    retention:      alpha in [0, 1]: W <- A + alpha (W - A) once per change and before the gradient is written, as in
                    Gated DeltaNet. 1 keeps all, 0 forgets all. It does not depend on the learning rate. NL 71 has no
                    such term; it is Ret of NL 59-60 with one past state.
    anchor:         A: "zero" (weight decay), or "start", the weights with which the level began (the level then
                    keeps a copy of them).

    Raises:
        InputError: a value outside its range.
    """

    name: str
    update_period: int = 1
    accumulation: Accumulation = "sum"
    retention: float = 1.0
    anchor: Anchor = "zero"

    def __post_init__(self) -> None:
        where = f"level {self.name!r}"
        if not self.name:
            raise InputError("level: expected a name, got an empty string")
        if type(self.update_period) is not int or self.update_period < 1:
            raise InputError(f"{where}: expected update_period to be a whole number >= 1, got {self.update_period!r}")
        if self.accumulation not in get_args(Accumulation):
            raise InputError(f"{where}: expected accumulation 'sum' or 'mean', got {self.accumulation!r}")
        if not 0 <= self.retention <= 1:
            raise InputError(f"{where}: expected retention in [0, 1] (1 keeps all), got {self.retention!r}")
        if self.anchor not in get_args(Anchor):
            raise InputError(f"{where}: expected anchor 'zero' or 'start', got {self.anchor!r}")

    @property
    def frequency(self) -> float:
        """Changes per step or token."""
        return 1 / self.update_period


@dataclass(frozen=True)
class Span:
    """Steps or tokens first + 1 .. last, within which no level changes, and the levels that change after `last`."""

    first: int
    last: int
    due: tuple[str, ...]


@dataclass(frozen=True)
class Schedule:
    """Levels that share one clock.

    levels: at least one, each with a name of its own, in any order.
    unit:   what the clock counts, "steps" or "tokens".

    Raises:
        InputError: no level, two of one name, or an unknown unit.
    """

    levels: tuple[Level, ...]
    unit: Unit = "steps"

    def __post_init__(self) -> None:
        names = [level.name for level in self.levels]
        twice = sorted({name for name in names if names.count(name) > 1})
        if not names:
            raise InputError("a schedule needs at least one level, got none")
        if twice:
            raise InputError(f"expected levels with different names, got {', '.join(twice)} more than once")
        if self.unit not in get_args(Unit):
            raise InputError(f"expected the unit 'steps' or 'tokens', got {self.unit!r}")

    def due(self, time: int) -> tuple[Level, ...]:
        """The levels that change right after step or token `time`, counted from 1, in the given order."""
        return tuple(level for level in self.levels if is_update(time, level.update_period))

    def ranks(self) -> dict[str, int]:
        """Name to level number: 0 is the fastest, and levels of one period share a number.

        Source: NL Definition 2.
        """
        periods = sorted({level.update_period for level in self.levels})
        return {level.name: periods.index(level.update_period) for level in self.levels}

    def spans(self, first: int, last: int) -> tuple[Span, ...]:
        """Cut the time after `first` up to `last` wherever a level changes.

        Cutting it in pieces gives the same changes as cutting it whole.

        Args:
            first: steps or tokens that are over before, >= 0.
            last: steps or tokens that are over at the end.

        Raises:
            InputError: first is negative, or last lies before it.
        """
        if not 0 <= first <= last:
            raise InputError(f"expected 0 <= first <= last, got {first} and {last}")
        borders = {border for level in self.levels for border in chunk_borders(first, last, level.update_period)}
        ends = sorted(borders | ({last} if last > first else set()))
        starts = [first, *ends[:-1]]
        return tuple(Span(start, end, tuple(level.name for level in self.due(end))) for start, end in zip(starts, ends))
