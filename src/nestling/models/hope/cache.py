"""What a Hope model remembers between two calls, as a transformers cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from nestling.errors import InputError
from nestling.memory.state import State

__all__ = ["BlockState", "HopeCache"]

BlockState = tuple[State, State]


class HopeCache(Cache):
    """States of all mixers and continuum memories. Its size does not grow with the text (it does with attention).

    blocks:      (state of the mixer, state of the continuum memory) per block; empty before the first token.
    num_seen:    tokens of the longest row, padding included.
    closed:      whether some row has ended in padding, so that it cannot go on.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.blocks: list[BlockState] = []
        self.num_seen = 0
        self.closed = False

    def store(self, blocks: list[BlockState], length: int) -> None:
        """Replace the states after `length` more tokens."""
        self.blocks = blocks
        self.num_seen += length

    def map(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply `function` to every tensor of every state."""
        self.blocks = [(mixer.map(function), continuum.map(function)) for mixer, continuum in self.blocks]

    def detach(self) -> None:
        """Forget the gradient history, for truncated backpropagation."""
        self.map(Tensor.detach)

    def num_bytes(self) -> int:
        """Bytes of all states."""
        return sum(state.num_bytes() for block in self.blocks for state in block)

    def reset(self) -> None:
        """A new context in every row."""
        self.blocks, self.num_seen, self.closed = [], 0, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes what row beam_idx[i] was, for beam search."""
        self.map(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row `repeats` times, copies side by side."""
        self.map(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices`, numbers or a mask."""
        self.map(lambda tensor: tensor[indices.to(tensor.device)])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens seen."""
        del layer_idx
        return self.num_seen

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: there is no limit."""
        del layer_idx
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Refused: what a memory has learned cannot be taken back.

        Raises:
            InputError: always, unless there is nothing to remove.
        """
        if tokens_to_remove:
            raise InputError("a Hope cache cannot be cropped: keep a copy.deepcopy of it from before those tokens")

    def __len__(self) -> int:
        return len(self.blocks)

    def __repr__(self) -> str:
        return f"HopeCache(blocks={len(self.blocks)}, num_seen={self.num_seen}, bytes={self.num_bytes()})"

    @property
    def is_compileable(self) -> bool:
        """No: states are replaced, not written in place."""
        return False

    @property
    def batch_size(self) -> int:
        """Rows, or -1 before the first token."""
        return self.blocks[0][0].num_rows if self.blocks else -1

    @property
    def device(self) -> torch.device | None:
        """Where the states are."""
        return next(iter(self.blocks[0][0].state_dict().values())).device if self.blocks else None
