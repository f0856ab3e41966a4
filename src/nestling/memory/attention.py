"""Attention as the non-parametric memory: pairs are kept, and every query solves anew."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestling.errors import InputError
from nestling.memory.base import Memory, state_dtype
from nestling.memory.state import PairState
from nestling.ops.rotary import rotate


class AttentionMemory(Memory[PairState]):
    """Softmax attention over all past pairs, or over the last `window` of them, with learned pairs at the start.

    y = sum_i softmax_i(k_i.q / sqrt(K)) v_i

    Without `rope_theta` there is no encoding of positions. Without a window the state grows by one pair per token;
    with a window one token costs constant time and memory.

    Source: NL eq. 62-63. The learned first pairs are the meta-learned initial state of this memory.

    Args:
        dim: width D of the tokens.
        num_heads: H.
        head_dim: None is dim / num_heads.
        window: number of pairs a query sees, its own included, >= 1; None is all.
        num_initial: learned pairs that every context starts with, >= 0; in a window they leave like any other pair.
        rope_theta: queries and keys are turned by their place (see `ops.rotary`), with this base > 0; None: no places.
            Pairs are kept as they were before, and count their places from the oldest that is kept.

    Raises:
        InputError: a value outside its range, or an odd head_dim with rope_theta.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        head_dim: int | None = None,
        window: int | None = None,
        num_initial: int = 0,
        rope_theta: float | None = None,
    ) -> None:
        super().__init__(dim=dim, num_heads=num_heads, head_dim=head_dim)
        if (window is not None and window < 1) or num_initial < 0:
            raise InputError(f"expected window >= 1 (or None) and num_initial >= 0, got {window} and {num_initial}")
        if rope_theta is not None and (not rope_theta > 0 or self.head_dim % 2):
            raise InputError(f"rope_theta: expected a base > 0 and an even head_dim, got {rope_theta}, {self.head_dim}")
        self.window, self.rope_theta = window, rope_theta
        self.pairs = nn.Linear(dim, 3 * num_heads * self.head_dim, bias=False)
        self.initial = nn.Parameter(torch.zeros(2, num_heads, num_initial, self.head_dim))
        self.output = nn.Linear(num_heads * self.head_dim, dim, bias=False)

    def initial_state(self, batch: int) -> PairState:
        """The learned pairs in every row."""
        pairs = self.initial.to(state_dtype(self.initial)).unsqueeze(1).expand(-1, batch, -1, -1, -1)
        known = torch.ones(batch, self.initial.shape[2], dtype=torch.bool, device=self.initial.device)
        return self._recent(pairs[0], pairs[1], known)

    def mix(self, x: Tensor, state: PairState) -> tuple[Tensor, PairState]:
        """Write and read [B, T, D]; see `Memory.forward`."""
        batch, length = x.shape[:2]
        query, key, value = self.pairs(x).unflatten(-1, (3, self.num_heads, self.head_dim)).transpose(1, 3).unbind(2)
        key = torch.cat([state.key.to(key.dtype), key], dim=2)
        value = torch.cat([state.value.to(value.dtype), value], dim=2)
        known = torch.cat([state.known, state.known.new_ones(batch, length)], dim=1)
        turned = (query, key) if self.rope_theta is None else self._turned(query, key, self.rope_theta)
        y = F.scaled_dot_product_attention(*turned, value, attn_mask=self._visible(known, length))
        dtype = state.key.dtype
        state = self._recent(key.to(dtype), value.to(dtype), known)
        return self.output(y.transpose(1, 2).flatten(2)), state

    @staticmethod
    def _turned(query: Tensor, key: Tensor, theta: float) -> tuple[Tensor, Tensor]:
        """Queries, which stand at the last places, and keys, turned."""
        places = torch.arange(key.shape[2], device=key.device)
        return rotate(query, places[key.shape[2] - query.shape[2] :], theta=theta), rotate(key, places, theta=theta)

    def _visible(self, known: Tensor, length: int) -> Tensor:
        """[B, 1, T, P] whether a query sees a pair: known, not in the future, and in the window."""
        total = known.shape[1]
        place = torch.arange(total, device=known.device)
        own = place[total - length :].unsqueeze(-1)
        seen = place <= own
        if self.window is not None:
            seen &= place > own - self.window
        return (known.unsqueeze(1) & seen).unsqueeze(1)

    def _recent(self, key: Tensor, value: Tensor, known: Tensor) -> PairState:
        if self.window is None:
            return PairState(key, value, known)
        first = max(0, key.shape[2] - self.window + 1)
        return PairState(key[:, :, first:], value[:, :, first:], known[:, first:])

    def _fresh_like(self, state: PairState, batch: int) -> PairState:
        """The learned pairs as the newest places of a state of the given length."""
        fresh, places = self.initial_state(batch), state.key.shape[2]
        count = min(fresh.key.shape[2], places)
        padded = state.map(torch.zeros_like)
        key, value, known = padded.key.clone(), padded.value.clone(), padded.known.clone()
        if count:
            key[:, :, -count:] = fresh.key[:, :, -count:]
            value[:, :, -count:] = fresh.value[:, :, -count:]
            known[:, -count:] = True
        return PairState(key, value, known)
