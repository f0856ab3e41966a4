"""Least squares on one-hot keys is counting: an exact, mergeable memory of which symbol follows which context."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nestling.errors import CheckpointError, InputError, ShapeError
from nestling.memory.context_counts import context_codes, ridge_solution, sum_by_key, window_counts


class CountMemory:
    """A stack of associative memories, one per order n, from the last n symbols to the next symbol.

    key k     one-hot of the last n symbols (exact, no hashing), value v one-hot of the next symbol
    objective l(M) = sum_i |M k_i - v_i|^2 + sum_k r_k |M k - p_prior|^2,   r_k = ridge_n * distinct(k)
    solution  M k = (count(k, .) + r_k p_prior) / (count(k) + r_k)

    p_prior of order n is what the next lower order predicts; below the lowest order stands a base distribution
    (uniform, or another model's). An unseen key answers with its prior: the memory has no opinion of its own.
    distinct(k) counts the different symbols seen after k, so a key that was always followed by one symbol is
    trusted sooner (this choice of ridge is the Witten-Bell estimate of how often something new follows).

    Sums of integers: the state does not depend on the order of writes, `merge` equals having written both,
    `unlearn` equals never having written. Size grows with the number of different (context, symbol) pairs;
    a long text can be recovered from high orders, so treat the state as carefully as the text.

    Source: recursive least squares (NL eq. 59-60 with retention over all inputs) with one-hot keys; hierarchy of
        priors: MacKay and Peto 1995; r_k: Witten and Bell 1991, method C.

    Args:
        orders: context lengths, increasing, each >= 1 and vocabulary ** (order + 1) < 2 ** 63.
        ridge: > 0, strength of the prior, one for all orders or one per order.
        vocabulary: number of symbols, 0..vocabulary-1.
    Raises: InputError for orders or ridges out of range.
    """

    def __init__(
        self,
        *,
        orders: Sequence[int] = (1, 2, 3, 4, 5, 6),
        ridge: float | Sequence[float] = 4.0,
        vocabulary: int = 256,
    ) -> None:
        self.orders = tuple(orders)
        self.ridge = tuple(ridge) if isinstance(ridge, Sequence) else (float(ridge),) * len(self.orders)
        self.vocabulary = vocabulary
        self._check_options()
        self._keys = [torch.empty(0, dtype=torch.int64) for _ in self.orders]
        self._counts = [torch.empty(0, dtype=torch.int64) for _ in self.orders]

    def write(self, inputs: Tensor, targets: Tensor) -> None:
        """Count every position: inputs [N, L] int64, targets [N, L] int64 the next symbols."""
        self._add(inputs, targets, sign=1)

    def unlearn(self, inputs: Tensor, targets: Tensor) -> None:
        """Take positions out again, as if never written. Raises: InputError, unchanged, when they were not written."""
        self._add(inputs, targets, sign=-1)

    def merge(self, other: CountMemory) -> None:
        """Add what `other` has counted. Raises: InputError when its orders or vocabulary differ."""
        if (other.orders, other.vocabulary) != (self.orders, self.vocabulary):
            raise InputError(
                f"expected a memory of orders {self.orders} over {self.vocabulary} symbols to merge, "
                f"got orders {other.orders} over {other.vocabulary}"
            )
        for level in range(len(self.orders)):
            keys = [self._keys[level], other._keys[level]]
            counts = [self._counts[level], other._counts[level]]
            self._set(level, *sum_by_key(keys, counts))

    def log_probs(
        self, inputs: Tensor, base_log_probs: Tensor | None = None, *, window_weight: float = 0.0, rows: int = 16
    ) -> Tensor:
        """Log-probabilities [N, L, vocabulary] of the next symbol at every position.

        Args:
            inputs: [N, L] int64; position t is answered from inputs[:, :t + 1] only.
            base_log_probs: [N, L, vocabulary], normalised, what the lowest order falls back on; uniform when None.
            window_weight: >= 0. What was read so far in the same window is counted too, so many times: the
                fastest level, written at every position and forgotten with the window.
            rows: rows of inputs answered at once (memory only, the result is the same).
        """
        self._check(inputs)
        answers = [
            self._read(part, None if base_log_probs is None else base_log_probs[start : start + rows], window_weight)
            for start, part in zip(itertools.count(0, rows), inputs.split(rows))
        ]
        return torch.cat(answers)

    def sample(self, count: int, length: int, *, generator: torch.Generator) -> Tensor:
        """Draw `count` sequences [count, length] int64 from what was written.

        The first symbols are a context of the highest order there is, drawn by how often it was seen.
        Raises: InputError when nothing was written.
        """
        filled = [level for level, keys in enumerate(self._keys) if len(keys)]
        if not filled:
            raise InputError("nothing was written into this memory: write text before sampling from it")
        drawn = self._draw_beginnings(filled[-1], count, generator)
        while drawn.shape[1] < length:
            probs = self._read_last(drawn[:, -self.orders[-1] :])
            drawn = torch.cat([drawn, torch.multinomial(probs, 1, generator=generator)], dim=1)
        return drawn[:, :length]

    def num_entries(self) -> int:
        """Different (context, symbol) pairs over all orders: the numbers this memory keeps."""
        return sum(len(keys) for keys in self._keys)

    def state_dict(self) -> dict[str, Any]:
        """Per order n: `keys_n` int64 [M] increasing (context then symbol, base vocabulary), `counts_n` int32 [M]."""
        state: dict[str, Any] = {}
        for order, keys, counts in zip(self.orders, self._keys, self._counts):
            state[f"keys_{order}"] = keys.clone()
            state[f"counts_{order}"] = counts.to(torch.int32)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. Raises: CheckpointError when an order is missing."""
        names = {f"{kind}_{order}" for kind in ("keys", "counts") for order in self.orders}
        if set(state) != names:
            raise CheckpointError(f"expected counts of orders {self.orders}, got entries {sorted(state)}")
        for level, order in enumerate(self.orders):
            self._set(level, state[f"keys_{order}"].clone(), state[f"counts_{order}"].to(torch.int64))

    def _add(self, inputs: Tensor, targets: Tensor, *, sign: int) -> None:
        self._check(inputs)
        self._check(targets)
        changed = []
        for level, order in enumerate(self.orders):
            contexts, valid = context_codes(inputs, order, self.vocabulary)
            keys = (contexts * self.vocabulary + targets)[valid]
            ones = torch.full_like(keys, sign)
            changed.append(sum_by_key([self._keys[level], keys], [self._counts[level], ones]))
        if any(len(counts) and int(counts.min()) < 0 for _, counts in changed):
            raise InputError("cannot unlearn text that was not written: nothing was changed")
        for level, (keys, counts) in enumerate(changed):
            self._set(level, keys, counts)

    def _set(self, level: int, keys: Tensor, counts: Tensor) -> None:
        self._keys[level], self._counts[level] = keys, counts

    def _read(self, inputs: Tensor, base_log_probs: Tensor | None, window_weight: float) -> Tensor:
        shape = (*inputs.shape, self.vocabulary)
        if base_log_probs is None:
            probs = torch.full(shape, 1.0 / self.vocabulary)
        elif base_log_probs.shape == shape:
            probs = base_log_probs.exp()
        else:
            raise ShapeError(f"expected base_log_probs {shape}, got {tuple(base_log_probs.shape)}")
        window = window_counts(inputs, self.orders, self.vocabulary) if window_weight > 0 else itertools.repeat(None)
        for level, (order, recent) in enumerate(zip(self.orders, window)):
            contexts, valid = context_codes(inputs, order, self.vocabulary)
            counts = self._lookup(level, contexts.where(valid, -1).flatten(), probs.dtype).view(shape)
            if recent is not None:
                counts = counts + window_weight * recent
            probs = ridge_solution(counts, probs, ridge=self.ridge[level])
        return probs.clamp_min(torch.finfo(probs.dtype).tiny).log()

    def _draw_beginnings(self, level: int, count: int, generator: torch.Generator) -> Tensor:
        """Keys of one order with the symbol that followed, [count, order + 1], drawn by their counts."""
        cumulative = self._counts[level].cumsum(0)
        place = torch.randint(int(cumulative[-1]), (count,), generator=generator)
        keys = self._keys[level][torch.searchsorted(cumulative, place, right=True)]
        powers = self.vocabulary ** torch.arange(self.orders[level], -1, -1)
        return (keys[:, None] // powers) % self.vocabulary

    def _read_last(self, recent: Tensor) -> Tensor:
        """Probabilities [Q, vocabulary] after the symbols `recent` [Q, n]; orders above n stay out."""
        probs = torch.full((len(recent), self.vocabulary), 1.0 / self.vocabulary)
        for level, order in enumerate(self.orders):
            if order > recent.shape[1]:
                break
            contexts, _ = context_codes(recent[:, -order:], order, self.vocabulary)
            probs = ridge_solution(self._lookup(level, contexts[:, -1], probs.dtype), probs, ridge=self.ridge[level])
        return probs

    def _lookup(self, level: int, contexts: Tensor, dtype: torch.dtype) -> Tensor:
        """Counts [Q, vocabulary] of every symbol after `contexts` [Q] (codes; -1 finds nothing)."""
        keys = self._keys[level]
        first = torch.searchsorted(keys, contexts * self.vocabulary)
        number = torch.searchsorted(keys, (contexts + 1) * self.vocabulary) - first
        row = torch.repeat_interleave(torch.arange(len(contexts)), number)
        entry = torch.arange(len(row)) + torch.repeat_interleave(first - (number.cumsum(0) - number), number)
        found = torch.zeros(len(contexts), self.vocabulary, dtype=dtype)
        found[row, keys[entry] % self.vocabulary] = self._counts[level][entry].to(dtype)
        return found

    def _check(self, symbols: Tensor) -> None:
        if symbols.dim() != 2 or symbols.dtype != torch.int64:
            raise ShapeError(f"expected symbols [N, L] int64, got {tuple(symbols.shape)} {symbols.dtype}")
        if symbols.numel() and not 0 <= int(symbols.min()) <= int(symbols.max()) < self.vocabulary:
            raise InputError(
                f"expected symbols in 0..{self.vocabulary - 1}, got {int(symbols.min())}..{int(symbols.max())}"
            )

    def _check_options(self) -> None:
        if not self.orders or self.orders[0] < 1 or list(self.orders) != sorted(set(self.orders)):
            raise InputError(f"expected increasing orders >= 1, got {self.orders}")
        if self.vocabulary < 2 or self.vocabulary ** (self.orders[-1] + 1) >= 2**63:
            raise InputError(
                f"order {self.orders[-1]} over {self.vocabulary} symbols does not fit: expected at least 2 symbols and "
                "vocabulary ** (order + 1) below 2 ** 63"
            )
        if len(self.ridge) != len(self.orders) or min(self.ridge) <= 0:
            raise InputError(f"expected a ridge > 0 for each of the orders {self.orders}, got {self.ridge}")
