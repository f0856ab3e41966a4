"""Ways to go on learning from texts that come one after another. One arm = one class."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nestling.models.nested_lm import NestedLM

__all__ = ["ARMS", "Arm", "FineTuning", "Levels", "Replay", "Untouched"]

CHUNK = 256


class Arm(Protocol):
    """What the benchmark needs of an arm."""

    summary: ClassVar[str]

    def read(self, ids: list[int], decode: Callable[[list[int]], str]) -> float:
        """Learn a text; nats per token of it, each chunk before it was learned."""
        ...

    def nats(self, windows: Sequence[list[int]]) -> float:
        """Summed -log p of all but the first token of each window."""
        ...

    def num_bytes(self) -> int:
        """Kept beside the pretrained model."""
        ...


class Untouched:
    """The pretrained model, which reads and learns nothing."""

    summary: ClassVar[str] = "the pretrained model"

    def __init__(self, model: Any, tokenizer: Any, seed: int) -> None:
        del seed
        self.model, self.tokenizer = model, tokenizer

    def read(self, ids: list[int], decode: Callable[[list[int]], str]) -> float:
        """Only predict."""
        del decode
        return self.nats(chunked(ids)) / (len(ids) - 1)

    @torch.no_grad()
    def nats(self, windows: Sequence[list[int]]) -> float:
        """Each window by itself."""
        return sum(float(self._loss(window)) * (len(window) - 1) for window in windows)

    def num_bytes(self) -> int:
        """Nothing is kept."""
        return 0

    def _loss(self, ids: list[int]) -> Tensor:
        row = torch.tensor([ids])
        return cross_entropy(self.model(input_ids=row, use_cache=False).logits[0, :-1].float(), row[0, 1:])


class FineTuning(Untouched):
    """AdamW on all weights, one step a chunk of 256 tokens, one pass. LR: chosen on validation parts."""

    summary: ClassVar[str] = "full fine-tuning, AdamW, one step per 256 tokens"
    LR: ClassVar[float] = 2e-4

    def __init__(self, model: Any, tokenizer: Any, seed: int) -> None:
        super().__init__(copy.deepcopy(model), tokenizer, seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.LR, weight_decay=0.0, betas=(0.9, 0.99))

    def read(self, ids: list[int], decode: Callable[[list[int]], str]) -> float:
        """Predict a chunk, then take a step on it."""
        del decode
        total = 0.0
        for chunk in chunked(ids):
            loss = self._loss(chunk)
            total += float(loss.detach()) * (len(chunk) - 1)
            self.optimizer.zero_grad()
            self._objective(loss).backward()
            self.optimizer.step()
        return total / (len(ids) - 1)

    def num_bytes(self) -> int:
        """A whole copy of the weights."""
        return sum(each.numel() * each.element_size() for each in self.model.parameters())

    def _objective(self, loss: Tensor) -> Tensor:
        return loss


class Replay(FineTuning):
    """The same with one stored chunk of an earlier text beside each new one; everything read is stored."""

    summary: ClassVar[str] = "fine-tuning, beside each chunk a stored one of what was read before"

    def __init__(self, model: Any, tokenizer: Any, seed: int) -> None:
        super().__init__(model, tokenizer, seed)
        self.past: list[list[int]] = []
        self.present: list[list[int]] = []

    def read(self, ids: list[int], decode: Callable[[list[int]], str]) -> float:
        """Learn a text, then store it."""
        nats = super().read(ids, decode)
        self.past += chunked(ids)
        return nats

    def num_bytes(self) -> int:
        """Weights, and two bytes a stored token."""
        return super().num_bytes() + 2 * sum(len(each) for each in self.past)

    def _objective(self, loss: Tensor) -> Tensor:
        if not self.past:
            return loss
        old = self.past[int(torch.randint(len(self.past), (), generator=self.generator))]
        return (loss + self._loss(old)) / 2


class Levels(Untouched):
    """Ours: `NestedLM.read`. It is not told which text it reads or is asked about."""

    summary: ClassVar[str] = "ours: levels on the upper MLP blocks and an exact memory, found again from the text"

    def __init__(self, model: Any, tokenizer: Any, seed: int) -> None:
        super().__init__(model, tokenizer, seed)
        self.learner = NestedLM(model, tokenizer)

    def read(self, ids: list[int], decode: Callable[[list[int]], str]) -> float:
        """Read the text."""
        return self.learner.read(decode(ids)).nats

    def num_bytes(self) -> int:
        """All contexts."""
        return sum(each.num_bytes() for each in self.learner.contexts())


def chunked(ids: list[int]) -> list[list[int]]:
    """Chunks of 256 predicted tokens; each begins with the last token of the one before."""
    return [ids[start : start + CHUNK + 1] for start in range(0, len(ids) - 1, CHUNK)]


ARMS: dict[str, Callable[[Any, Any, int], Arm]] = {
    "untouched": Untouched,
    "finetuning": FineTuning,
    "replay": Replay,
    "levels": Levels,
}
