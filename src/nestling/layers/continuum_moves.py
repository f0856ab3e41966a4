"""How the levels of a continuum memory change at the ends of their chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nestling.layers.continuum_state import ContinuumState
from nestling.memory.state import Weights
from nestling.schedule import Level, is_update

__all__ = ["gathered", "move"]

Parts = list[Tensor]


def gathered(state: ContinuumState, gradients: Weights) -> ContinuumState:
    """The state with gradients added to what every level gathers; `gradients` stand by state.delta."""
    begun = tuple(a + b for a, b in zip(state.start_gathered, gradients))
    return replace(state, gathered=tuple(map(torch.add, state.gathered, gradients)), start_gathered=begun)


def move(
    state: ContinuumState, eta: Tensor, levels: Sequence[Level], *, nested: bool, limit: float | None
) -> ContinuumState:
    """Change, row by row, the levels whose chunk ends at state.position.

    delta_l <- alpha_l delta_l - eta_l G_l,   G_l <- 0                                                          (71)

    nested: when a chunk of level l + 1 ends, delta_l begins again where that level has learned:

    start_l <- alpha_{l+1} start_l - eta_{l+1} G'_l,   delta_l <- start_l,   G'_l gathered over the chunk of l + 1

    Source: NL eq. 71-72; eq. 72 to first order: the gradient for the start is taken at the weights that came of it.

    Args:
        state: position already behind the tokens gathered.
        eta: [levels, maps of a level].
        levels: level 0 first.
        nested: whether there are starts.
        limit: largest length of a gradient of a level of a row.
    """
    places, maps = state.position.tolist(), eta.shape[1]
    delta, own, start, begun = map(list, (state.delta, state.gathered, state.start, state.start_gathered))
    for number, level in enumerate(levels):
        due = [is_update(place, level.update_period) for place in places]
        if not any(due):
            continue
        rows = None if all(due) else torch.tensor(due, device=state.position.device).view(-1, 1, 1)
        _change(delta, own, range(number * maps, (number + 1) * maps), eta[number], level, rows, limit)
        if nested and number > 0:
            faster = range((number - 1) * maps, number * maps)
            _change(start, begun, faster, eta[number], level, rows, limit)
            for place in faster:
                delta[place] = _chosen(rows, start[place], delta[place])
    return replace(state, delta=tuple(delta), gathered=tuple(own), start=tuple(start), start_gathered=tuple(begun))


def _change(
    moved: Parts, pushes: Parts, places: range, eta: Tensor, level: Level, rows: Tensor | None, limit: float | None
) -> None:
    """One level of the chosen rows, in place in the two lists."""
    mean = level.update_period if level.accumulation == "mean" else 1
    scale = _shortening([pushes[place] for place in places], None if limit is None else limit * mean) / mean
    for place, rate in zip(places, eta):
        push, old = pushes[place], moved[place]
        kept = old if level.retention == 1 else level.retention * old
        moved[place] = _chosen(rows, kept - (rate.to(old.dtype) * scale) * push, old)
        pushes[place] = _chosen(rows, torch.zeros_like(push[:1]).expand_as(push), push)


def _chosen(rows: Tensor | None, new: Tensor, old: Tensor) -> Tensor:
    """The new weights in the rows [B, 1, 1]; None is all."""
    return new if rows is None else torch.where(rows, new, old)


def _shortening(pushes: Parts, limit: float | None) -> Tensor | float:
    """[B, 1, 1] what brings the common length of a row's pushes down to the limit."""
    if limit is None:
        return 1.0
    squared = torch.stack([push.square().sum((1, 2), keepdim=True) for push in pushes]).sum(0)
    return limit / squared.clamp(min=limit**2).sqrt()
