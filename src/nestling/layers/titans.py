"""Titans: a neural memory and attention wired as a context (MAC), as a gate (MAG) or as a layer (MAL)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nestling.errors import InputError
from nestling.layers.neural_memory import NeuralMemory
from nestling.layers.persistent_attention import PersistentAttention
from nestling.memory.base import Memory, state_dtype
from nestling.memory.state import State, Weights, WeightState

__all__ = ["MemoryAsContext", "MemoryAsGate", "MemoryAsLayer", "TitansState"]


@dataclass(frozen=True)
class TitansState(State):
    """State of a neural memory (see `WeightState`) and the pairs that attention still sees.

    key, value: [B, H, P, K], oldest first; P does not change.
    known:      [B, P] bool, False for places that a row must not see.
    """

    memory: Weights
    anchor: Weights
    position: Tensor
    key: Tensor
    value: Tensor
    known: Tensor
    surprise: Weights = ()

    @property
    def num_rows(self) -> int:
        """Batch rows B."""
        return self.position.shape[0]

    def weights(self) -> WeightState:
        """The part of the neural memory."""
        return WeightState(self.memory, self.anchor, self.surprise, self.position)


class Titans(Memory[TitansState]):
    """What the three wirings share.

    Everything is causal: a token sees neither later tokens nor what was recalled for them. (As printed, MAC's attention
    sees all that was recalled for its segment, which later tokens asked for.) Persistent tokens stand before the
    attention; the memory's own persistent part is its learned initial state.

    Source: Titans (arXiv 2501.00663) section 4, eq. 21-31.

    Args:
        dim: width D of the tokens.
        num_heads: H, of attention and memory.
        head_dim: None is dim / num_heads.
        window: tokens of a segment (MAC) or of the sliding window, the token itself included (MAG, MAL), >= 1.
        num_persistent: persistent memory tokens, >= 0.
        kind: of the memory: "mlp" or "matrix".
        chunk_size: of the memory; MAC takes its segments.
    """

    pairs_per_token = 1

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        head_dim: int | None = None,
        window: int = 64,
        num_persistent: int = 4,
        kind: str = "mlp",
        chunk_size: int = 64,
    ) -> None:
        super().__init__(dim=dim, num_heads=num_heads, head_dim=head_dim)
        if window < 1 or num_persistent < 0:
            raise InputError(f"expected window >= 1 and num_persistent >= 0, got {window} and {num_persistent}")
        self.window = window
        self.memory = NeuralMemory(dim=dim, num_heads=num_heads, head_dim=head_dim, kind=kind, chunk_size=chunk_size)
        self.attention = PersistentAttention(
            dim=dim, num_heads=num_heads, head_dim=self.head_dim, num_persistent=num_persistent
        )

    def initial_state(self, batch: int) -> TitansState:
        """The learned memory and no pairs."""
        start, persistent = self.memory.initial_state(batch), self.attention.persistent
        assert start.position is not None
        places = self.pairs_per_token * (self.window - 1)
        empty = persistent.new_zeros(batch, self.num_heads, places, self.head_dim, dtype=state_dtype(persistent))
        known = torch.zeros(batch, places, dtype=torch.bool, device=persistent.device)
        return TitansState(start.memory, start.anchor, start.position, empty, empty, known, start.surprise)

    def _attend(
        self, x: Tensor, key: Tensor, value: Tensor, visible: Tensor, state: TitansState
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Attention of x [B, T, D] over the pairs of the state and new ones, visible [T, P] by place.

        Returns: y [B, T, D], and the newest P pairs with whether each is known.
        """
        query, _, _ = self.attention.project(x)
        fresh = state.known.new_ones(len(x), key.shape[2])
        key = torch.cat([state.key, key.to(state.key.dtype)], dim=2)
        value = torch.cat([state.value, value.to(state.key.dtype)], dim=2)
        known = torch.cat([state.known, fresh], dim=1)
        y = self.attention.attend(query, key, value, known.unsqueeze(1) & visible)
        first = key.shape[2] - state.key.shape[2]
        return y, key[:, :, first:], value[:, :, first:], known[:, first:]

    def _visible(self, length: int, device: torch.device) -> Tensor:
        """[T, P + new] whether token t may see a place: not later, and less than a window ago."""
        token = torch.arange(self.window - 1 + length, device=device).repeat_interleave(self.pairs_per_token)
        own = torch.arange(length, device=device).unsqueeze(-1) + self.window - 1
        return (token <= own) & (token > own - self.window)

    def _slide(self, x: Tensor, state: TitansState) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Sliding-window attention, and the pairs to keep."""
        _, key, value = self.attention.project(x)
        y, *pairs = self._attend(x, key, value, self._visible(x.shape[1], x.device), state)
        return y, (pairs[0], pairs[1], pairs[2])


class Gate(nn.Module):
    """y gated by m: norm(y) * sigmoid(norm(m)), each norm with a learned weight per channel.

    Source: Titans 4.2: outputs are normalised with learned vectors, then a non-linearity.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.gate_norm = nn.RMSNorm(dim), nn.RMSNorm(dim)

    def forward(self, y: Tensor, gate: Tensor) -> Tensor:
        """Both [..., D]."""
        return self.norm(y) * torch.sigmoid(self.gate_norm(gate))


class MemoryAsContext(Titans):
    """MAC: per segment, attention over persistent tokens, what the memory recalls, and the segment itself.

    h = M*_{t-1}(x),   y = Attn([p, h, x]),   M_t = M_{t-1}(y),   o = gate(y, M_t(y))

    Source: Titans eq. 21-25. h_j is recalled for token j from the memory at the end of the last segment.
    """

    pairs_per_token = 2

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        head_dim: int | None = None,
        window: int = 64,
        num_persistent: int = 4,
        kind: str = "mlp",
    ) -> None:
        super().__init__(
            dim=dim,
            num_heads=num_heads,
            head_dim=head_dim,
            window=window,
            num_persistent=num_persistent,
            kind=kind,
            chunk_size=window,
        )
        self.gate = Gate(dim)

    def mix(self, x: Tensor, state: TitansState) -> tuple[Tensor, TitansState]:
        """Write and read [B, T, D]; see `Memory.forward`."""
        position, done, outputs = state.position.tolist(), 0, []
        while done < x.shape[1]:
            step = min(x.shape[1] - done, self.window - max(position))
            y, state = self._segment(x[:, done : done + step], state)
            outputs.append(y)
            position, done = [(place + step) % self.window for place in position], done + step
        return torch.cat(outputs, dim=1) if outputs else x, state

    def _segment(self, x: Tensor, state: TitansState) -> tuple[Tensor, TitansState]:
        """Tokens of one segment, or a part of one."""
        recalled = self.memory.recall(x, state.weights())
        both = torch.stack([recalled, x], dim=2).flatten(1, 2)
        _, key, value = self.attention.project(both)
        y, key, value, known = self._attend(x, key, value, self._visible(x.shape[1], x.device), state)
        stored, end = self.memory.mix(y, state.weights())
        assert end.position is not None
        known = known & (end.position != 0).unsqueeze(-1)
        after = TitansState(end.memory, end.anchor, end.position, key, value, known, end.surprise)
        return self.gate(y, stored), after


class MemoryAsGate(Titans):
    """MAG: sliding-window attention and memory side by side.

    o = gate(SlidingAttn([p, x]), M(x))

    Source: Titans eq. 26-28.
    """

    def __init__(self, *, dim: int, num_heads: int, **options: int | str | None) -> None:
        super().__init__(dim=dim, num_heads=num_heads, **options)  # pyright: ignore[reportArgumentType]
        self.gate = Gate(dim)

    def mix(self, x: Tensor, state: TitansState) -> tuple[Tensor, TitansState]:
        """Write and read [B, T, D]; see `Memory.forward`."""
        y, pairs = self._slide(x, state)
        stored, end = self.memory.mix(x, state.weights())
        assert end.position is not None
        return self.gate(y, stored), TitansState(end.memory, end.anchor, end.position, *pairs, end.surprise)


class MemoryAsLayer(Titans):
    """MAL: the memory compresses, then sliding-window attention reads.

    y = M(x),   o = SlidingAttn([p, y])

    Source: Titans eq. 29-31.
    """

    def mix(self, x: Tensor, state: TitansState) -> tuple[Tensor, TitansState]:
        """Write and read [B, T, D]; see `Memory.forward`."""
        stored, end = self.memory.mix(x, state.weights())
        assert end.position is not None
        y, pairs = self._slide(stored, state)
        return y, TitansState(end.memory, end.anchor, end.position, *pairs, end.surprise)
