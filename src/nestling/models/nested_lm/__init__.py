"""A memory in the weights of any pretrained causal language model of transformers. Needs the extra `text`."""

from __future__ import annotations

from nestling.models.nested_lm.learner import NestedLM
from nestling.models.nested_lm.lesson import Capacity, Lesson, Recall, Receipt, Snapshot
from nestling.models.nested_lm.nest import nest

__all__ = ["Capacity", "Lesson", "NestedLM", "Recall", "Receipt", "Snapshot", "nest"]
