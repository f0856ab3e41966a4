"""Ours: a memory in the weights."""

from __future__ import annotations

from typing import Any, ClassVar

from nestling.models.nested_lm import Lesson, NestedLM
from nestling.recipes.facts.arms.plain import Plain

__all__ = ["Memory"]


class Memory(Plain):
    """`nestling.nest`, one lesson a fact."""

    summary: ClassVar[str] = "ours: a memory in the weights (nestling.nest)"

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(model, tokenizer)
        self.learner = self.reading = NestedLM(model, tokenizer)
        self.learner.prepare()

    def teach(self, question: str, answer: str) -> Lesson:
        """Write one lesson."""
        return self.learner.teach((question, answer))

    def num_bytes(self) -> int:
        """Keys and values of all lessons."""
        return self.learner.capacity().num_bytes
