"""Chatbots that keep text: all that was taught in the prompt, or what is nearest to the question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from nestling.models.nested_lm.wording import Message
from nestling.recipes.facts.arms.plain import Plain
from nestling.streams.sentence_features import load_encoder, mean_unit

__all__ = ["Notes", "Retrieval"]

Note = tuple[str, str]


class Notes(Plain):
    """The text-memory chatbot: every fact is an earlier turn of the conversation, and the prompt grows.

    A small model uses turns of question and answer better than lines of a system message: of 20 development facts with
    the right note alone, it answered 11 with turns and 2 with lines in the taught wording, 6 and 0 in another one.
    """

    summary: ClassVar[str] = "notes in the prompt, as earlier turns"

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(model, tokenizer)
        self.notes: list[Note] = []

    def teach(self, question: str, answer: str) -> None:
        """Write a note."""
        self.notes.append((question, answer))

    def chosen(self, question: str) -> Sequence[Note]:
        """Notes for the prompt."""
        del question
        return self.notes

    def prompt(self, question: str, raw: bool) -> list[int]:
        """The notes and the question; a sentence to be completed follows the notes as text."""
        if raw:
            return self.wording.raw("\n".join([*map(" ".join, self.chosen(question)), question]))
        return super().prompt(question, raw)

    def num_bytes(self) -> int:
        """The notes as UTF-8."""
        return sum(len(part.encode()) + 1 for each in self.notes for part in each)

    def _messages(self, question: str) -> list[Message]:
        turns: list[Message] = []
        for asked, answer in self.chosen(question):
            turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        return [*turns, *super()._messages(question)]


class Retrieval(Notes):
    """The note nearest to a question by MiniLM features is put in the prompt, if it is near enough.

    LEAST lies between the likeness of a fact's note to other wordings of its question (0.66 at the 5th percentile of
    240, development relations) and to other questions about its subject (0.73 at the 95th of 60).
    """

    summary: ClassVar[str] = "retrieval: the nearest note by MiniLM, if near enough, in the prompt"
    LEAST: ClassVar[float] = 0.68

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(model, tokenizer)
        self._tokenizer, self._encoder = load_encoder()
        self._kept: list[Tensor] = []
        self._known: dict[str, Tensor] = {}

    def teach(self, question: str, answer: str) -> None:
        """Write a note and its vector."""
        super().teach(question, answer)
        self._kept.append(self._encode(f"{question} {answer}"))

    def chosen(self, question: str) -> Sequence[Note]:
        """The nearest note, or none."""
        if not self._kept:
            return []
        likeness = torch.stack(self._kept) @ self._encode(question)
        best = int(likeness.argmax())
        return [self.notes[best]] if float(likeness[best]) >= self.LEAST else []

    def num_bytes(self) -> int:
        """The notes and a float32 vector each."""
        return super().num_bytes() + sum(4 * each.numel() for each in self._kept)

    @torch.no_grad()
    def _encode(self, text: str) -> Tensor:
        if text not in self._known:
            batch = self._tokenizer([text], return_tensors="pt", truncation=True)
            states = self._encoder(**batch).last_hidden_state
            self._known[text] = mean_unit(states, batch["attention_mask"])[0]
        return self._known[text]
