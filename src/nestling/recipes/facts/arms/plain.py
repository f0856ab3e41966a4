"""What every arm has: a model, a way to ask it, and batched logits; and the arm that is taught nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from nestling.models.nested_lm.wording import Message, Wording
from nestling.recipes.facts.batched import Reading, tail_logits

__all__ = ["Plain", "Untaught"]


class Plain:
    """A model as it is."""

    reading: Reading | None = None

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.wording = model, Wording(tokenizer)

    def prompt(self, question: str, raw: bool) -> list[int]:
        """Ids to answer from, of a question or of a sentence to be completed."""
        return self.wording.raw(question) if raw else self.wording.ask(self._messages(question))

    def logits(self, rows: Sequence[Sequence[int]], keep: Sequence[int]) -> list[Tensor]:
        """[keep, V] of the last positions of each text."""
        return tail_logits(self.model, rows, keep, reading=self.reading)

    def _messages(self, question: str) -> list[Message]:
        return [{"role": "user", "content": question}]


class Untaught(Plain):
    """The pretrained model: what guessing reaches."""

    summary: ClassVar[str] = "the pretrained model, taught nothing"

    def teach(self, question: str, answer: str) -> None:
        """Do nothing."""

    def num_bytes(self) -> int:
        """Nothing is kept."""
        return 0
