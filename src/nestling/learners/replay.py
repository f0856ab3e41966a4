"""Experience replay from a reservoir of examples."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from nestling.errors import InputError
from nestling.learners.base import sum_bytes
from nestling.learners.gradient import GradientStrategy
from nestling.streams.base import Examples, Problem, Training, concatenate


def reservoir_slots(count: int, seen: int, size: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """Where the next `count` items go so that every item ever seen is kept with the same probability.

    item n (counted from 0)   ->  slot n                    while n < size
                                  slot u, u ~ U{0..n}       kept only if u < size

    Source: Vitter 1985, "Random sampling with a reservoir", algorithm R.

    Args:
        count: new items.
        seen: items before them.
        size: slots of the reservoir.
        generator: source of u.

    Returns: (item, slot) pairs in the order in which they are to be written.
    """
    number = torch.arange(seen, seen + count, dtype=torch.float64)
    drawn = (torch.rand(count, generator=generator, dtype=torch.float64) * (number + 1)).long()
    slot = torch.where(number < size, number.long(), drawn)
    kept = torch.nonzero(slot < size).squeeze(1)
    return list(zip(kept.tolist(), slot[kept].tolist(), strict=True))


class Replay(GradientStrategy):
    """Mix stored examples of earlier experiences into every batch.

    loss = mean loss over (batch of the new experience  +  equally many drawn from the reservoir)

    Source: Chaudhry et al. 2019, "On tiny episodic memories in continual learning" (arXiv 1902.10486), there for a
    single pass. Here an experience is passed several times, so each example is offered to the reservoir once, when
    the experience ends.

    Args:
        buffer_size: examples kept in all (language: rows), whatever the number of experiences.
    """

    name: ClassVar[str] = "replay"
    summary: ClassVar[str] = "mix a reservoir of stored examples into every batch"

    def __init__(
        self,
        module: nn.Module,
        problem: Problem,
        *,
        training: Training,
        seed: int,
        buffer_size: int = 50,
        num_copies: int = 1,
    ) -> None:
        if buffer_size < 1:
            raise InputError(f"expected buffer_size >= 1 example to replay, got {buffer_size}; `naive` replays nothing")
        super().__init__(module, problem, training=training, seed=seed, num_copies=num_copies)
        self.buffer_size = buffer_size
        self.buffer: Examples | None = None
        self.num_seen = 0

    def extend(self, batch: Examples) -> Examples:
        """The batch and as many stored examples, or all of them where there are fewer."""
        if self.buffer is None:
            return batch
        drawn = torch.randperm(len(self.buffer), generator=self.generator)[: len(batch)]
        return concatenate([batch, self.buffer.subset(drawn)])

    def end(self, train: Examples) -> None:
        """Offer every example to the reservoir once."""
        pool = train if self.buffer is None else concatenate([self.buffer, train])
        first_new = len(pool) - len(train)
        source = list(range(first_new))
        for item, slot in reservoir_slots(len(train), self.num_seen, self.buffer_size, self.generator):
            if slot == len(source):
                source.append(first_new + item)
            else:
                source[slot] = first_new + item
        self.buffer = pool.subset(torch.tensor(source))
        self.num_seen += len(train)

    def state_dict(self) -> dict[str, Any]:
        """Also the reservoir."""
        buffer = None
        if self.buffer is not None:
            buffer = {"inputs": self.buffer.inputs, "targets": self.buffer.targets}
        return {**super().state_dict(), "buffer": buffer, "num_seen": self.num_seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        buffer = state["buffer"]
        self.buffer = None if buffer is None else Examples(inputs=buffer["inputs"], targets=buffer["targets"])
        self.num_seen = state["num_seen"]

    def stored_bytes(self) -> int:
        """Bytes of the examples in the reservoir."""
        return 0 if self.buffer is None else sum_bytes([self.buffer.inputs, self.buffer.targets])
