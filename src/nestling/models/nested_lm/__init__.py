"""A memory in the weights of any pretrained causal language model of transformers. Needs the extra `text`."""

from __future__ import annotations

from nestling.models.nested_lm.learner import NestedLM
from nestling.models.nested_lm.lesson import Capacity, Lesson, Recall, Receipt, Snapshot
from nestling.models.nested_lm.nest import nest
from nestling.models.nested_lm.reading import Reading
from nestling.models.nested_lm.sleeping import Sleep

__all__ = ["Capacity", "Lesson", "NestedLM", "Reading", "Recall", "Receipt", "Sleep", "Snapshot", "nest"]
