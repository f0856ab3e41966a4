"""Ways to make a language model know facts, one after another. One arm = one class."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from nestling.models.nested_lm import NestedLM
from nestling.models.nested_lm.wording import Message, Wording

__all__ = ["ARMS", "Arm", "FineTuning", "Memory", "Notes", "Untaught"]


class Arm(Protocol):
    """What the benchmark needs of an arm."""

    summary: ClassVar[str]
    wording: Wording

    def teach(self, question: str, answer: str) -> None:
        """Learn one fact."""
        ...

    def prompt(self, question: str, raw: bool) -> list[int]:
        """Ids to answer from."""
        ...

    def logits(self, ids: list[int]) -> Tensor:
        """[T, V] of one text."""
        ...

    def num_bytes(self) -> int:
        """Kept beside the pretrained model."""
        ...


class _Plain:
    """A model as it is."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.wording = model, Wording(tokenizer)

    def prompt(self, question: str, raw: bool) -> list[int]:
        return self.wording.raw(question) if raw else self.wording.ask(self._messages(question))

    @torch.no_grad()
    def logits(self, ids: list[int]) -> Tensor:
        return self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]

    def _messages(self, question: str) -> list[Message]:
        return [{"role": "user", "content": question}]


class Untaught(_Plain):
    """The pretrained model: what guessing reaches."""

    summary: ClassVar[str] = "the pretrained model, taught nothing"

    def teach(self, question: str, answer: str) -> None:
        """Do nothing."""

    def num_bytes(self) -> int:
        """Nothing is kept."""
        return 0


class Memory(_Plain):
    """Ours: `nestling.nest`."""

    summary: ClassVar[str] = "ours: a memory in the weights (nestling.nest)"

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(model, tokenizer)
        self.learner = NestedLM(model, tokenizer)

    def teach(self, question: str, answer: str) -> None:
        """Write one lesson."""
        self.learner.teach((question, answer))

    def num_bytes(self) -> int:
        """Keys and values of all lessons."""
        return self.learner.capacity().num_bytes


class Notes(_Plain):
    """The text-memory chatbot: every fact is a line of the system message, and the prompt grows."""

    summary: ClassVar[str] = "notes in the prompt"

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(model, tokenizer)
        self.notes: list[str] = []

    def teach(self, question: str, answer: str) -> None:
        """Write a note."""
        self.notes.append(f"{question} {answer}")

    def prompt(self, question: str, raw: bool) -> list[int]:
        """The notes and the question; a sentence to be completed follows the notes as text."""
        if raw:
            return self.wording.raw("\n".join([*self.notes, question]))
        return super().prompt(question, raw)

    def _messages(self, question: str) -> list[Message]:
        if not self.notes:
            return super()._messages(question)
        notes = {"role": "system", "content": "\n".join(["Use these notes to answer.", *self.notes])}
        return [notes, *super()._messages(question)]

    def num_bytes(self) -> int:
        """The notes as UTF-8."""
        return sum(len(each.encode()) + 1 for each in self.notes)


class FineTuning(_Plain):
    """AdamW on all weights, on each fact alone until its loss is small: what is done without continual learning."""

    summary: ClassVar[str] = "full fine-tuning, AdamW 5e-5, each fact until its loss is below 0.1, at most 12 steps"
    LR, GOAL, STEPS = 5e-5, 0.1, 12

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(copy.deepcopy(model), tokenizer)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.LR, weight_decay=0.0)

    def teach(self, question: str, answer: str) -> None:
        """Take steps on this fact."""
        prompt = self.prompt(question, raw=False)
        ids = self.wording.answer(answer)
        target = torch.tensor(ids)
        for _ in range(self.STEPS):
            logits = self.model(input_ids=torch.tensor([prompt + ids[:-1]]), use_cache=False).logits[0, -len(ids) :]
            loss = torch.nn.functional.cross_entropy(logits.float(), target)
            if float(loss.detach()) < self.GOAL:
                break
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def num_bytes(self) -> int:
        """A whole copy of the weights."""
        return sum(each.numel() * each.element_size() for each in self.model.parameters())


ARMS: dict[str, Callable[[Any, Any], Arm]] = {
    "memory": Memory,
    "untaught": Untaught,
    "notes": Notes,
    "finetuning": FineTuning,
}
