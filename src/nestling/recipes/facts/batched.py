"""Passes over many texts at once: padded behind their end, sorted by length, a common start passed once."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from nestling.models.nested_lm.passes import padded, plain_cache

__all__ = ["tail_logits"]

_LEAST_SHARED = 8
_ROWS, _TOKENS = 16, 4096


class Reading(Protocol):
    """State that a model keeps of a text beside its cache."""

    def one_text(self) -> contextlib.AbstractContextManager[None]:
        """All passes inside are one text."""
        ...

    def widen(self, rows: int) -> None:
        """Go on with as many copies of the text."""
        ...


@torch.no_grad()
def tail_logits(
    model: Any, rows: Sequence[Sequence[int]], keep: Sequence[int], *, reading: Reading | None = None
) -> list[Tensor]:
    """Logits of the last positions of each text, each as by itself up to float rounding.

    Args: rows: ids of N texts.   keep: how many last positions of each are wanted.   reading: of a model with more
        state than its cache.
    Returns: N tensors [keep, V] float32.
    """
    start = _Start(model, rows, keep, reading)
    order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
    found: dict[int, Tensor] = {}
    while order:
        size = max(1, min(_ROWS, _TOKENS // len(rows[order[0]])))
        batch, order = order[:size], order[size:]
        texts = [rows[n][start.length :] for n in batch]
        longest = max(len(text) for text in texts)
        wanted = longest - min(len(text) - keep[n] for text, n in zip(texts, batch, strict=True))
        with contextlib.nullcontext() if reading is None else reading.one_text():
            options = start.options(len(batch))
            out = model(input_ids=padded(texts), logits_to_keep=wanted, **options).logits
        for row, n in enumerate(batch):
            end = wanted - (longest - len(texts[row]))
            found[n] = out[row, end - keep[n] : end].float()
    return [found[n] for n in range(len(rows))]


class _Start:
    """What all texts begin with. It is passed once, or once a batch where the model keeps more than its cache."""

    def __init__(self, model: Any, rows: Sequence[Sequence[int]], keep: Sequence[int], reading: Reading | None) -> None:
        self.model, self.reading = model, reading
        most = min(len(row) - kept for row, kept in zip(rows, keep, strict=True))
        shared = 0
        while shared < most and all(row[shared] == rows[0][shared] for row in rows):
            shared += 1
        worthwhile = shared >= _LEAST_SHARED and len(rows) > 1 and plain_cache(model.config) is not None
        self.length = shared if worthwhile else 0
        self._ids = list(rows[0][: self.length])
        self._cache = self._pass() if self.length and reading is None else None

    def options(self, rows: int) -> dict[str, Any]:
        """Arguments of the pass that goes on."""
        if not self.length:
            return {"use_cache": False}
        cache = self._pass() if self._cache is None else copy.deepcopy(self._cache)
        if self.reading is not None:
            self.reading.widen(rows)
        cache.batch_repeat_interleave(rows)
        return {"use_cache": True, "past_key_values": cache}

    def _pass(self) -> Any:
        cache = plain_cache(self.model.config)
        self.model(input_ids=torch.tensor([self._ids]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache
