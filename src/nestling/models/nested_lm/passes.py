"""Passes of the frozen model over several short texts at once, the start they share computed only once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nestling.models.nested_lm.taps import States, Taps

__all__ = ["Passes", "padded", "plain_cache"]

_LEAST_SHARED = 8
_ROWS = 8
_PLAIN = ("llama", "gpt2", "gpt_neox", "mistral", "phi", "qwen2", "qwen3")


class Passes:
    """Observes texts in padded batches.

    Texts are padded behind their end, where a causal model does not look, so each row's states are those of the text
    by itself up to float rounding. What every question begins with (the system message of a chat template) is passed
    once and kept, for models whose cache is a plain list of keys and values.

    Args: taps: of the model.   device: of its weights.   start: ids that questions begin with, kept when there are
        at least eight.
    """

    def __init__(self, taps: Taps, device: torch.device, start: Sequence[int] = ()) -> None:
        self._taps, self._device = taps, device
        self._start = list(start)
        self._begun: tuple[States, Any] | None = None
        self._can_begin = len(self._start) >= _LEAST_SHARED

    def alone(self, ids: Sequence[int]) -> States:
        """States [1, T, D] of one text."""
        return self.together([ids])[0]

    def together(self, rows: Sequence[Sequence[int]]) -> list[States]:
        """States [1, T, D] of each of several texts, eight rows to a pass."""
        found: list[States] = []
        for begin in range(0, len(rows), _ROWS):
            found += self._pass(rows[begin : begin + _ROWS])
        return found

    def _pass(self, rows: Sequence[Sequence[int]]) -> list[States]:
        size = len(self._start)
        begun = self._begin() if all(len(row) > size and list(row[:size]) == self._start for row in rows) else None
        if begun is None:
            states = self._taps.observe(padded(rows, self._device))
            return [_cut(states, n, len(row)) for n, row in enumerate(rows)]
        before, cache = begun[0], copy.deepcopy(begun[1])
        cache.batch_repeat_interleave(len(rows))
        states = self._taps.observe(padded([row[size:] for row in rows], self._device), cache)
        return [_cut(states, n, len(row) - size, before) for n, row in enumerate(rows)]

    def _begin(self) -> tuple[States, Any] | None:
        """States and cache of the shared start, None for a short one or a model whose cache is of another kind."""
        if self._begun is None and self._can_begin:
            cache = plain_cache(self._taps.config)
            if cache is None:
                self._can_begin = False
                return None
            self._begun = self._taps.observe(torch.tensor([self._start], device=self._device), cache), cache
        return self._begun


def padded(rows: Sequence[Sequence[int]], device: torch.device | None = None) -> Tensor:
    """Ids [B, T], each row padded behind its end with its last token."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows], device=device)


def plain_cache(config: Any) -> Any:
    """An empty cache of transformers for a model known to keep every position's keys and values; else None."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    if getattr(config, "model_type", None) in _PLAIN:
        cache = DynamicCache(config=config)
        if all(type(layer) is DynamicLayer for layer in cache.layers):
            return cache
    return None


def _cut(states: States, row: int, length: int, before: States | None = None) -> States:
    parts = [part[row : row + 1, :length] for part in (states.early, states.late, states.last)]
    if before is not None:
        starts = (before.early, before.late, before.last)
        parts = [torch.cat([start, part], 1) for start, part in zip(starts, parts, strict=True)]
    return States(*parts)
