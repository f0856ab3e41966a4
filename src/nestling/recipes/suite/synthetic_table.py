"""The table of synthetic tasks: one task, one row."""

from __future__ import annotations

from nestling.recipes.suite.formal_languages import FORMAL_LANGUAGES
from nestling.recipes.suite.mad_compression import COMPRESSION
from nestling.recipes.suite.mad_copying import SELECTIVE_COPYING
from nestling.recipes.suite.mad_fuzzy import FUZZY_RECALL
from nestling.recipes.suite.mad_memorization import MEMORIZATION
from nestling.recipes.suite.mad_recall import IN_CONTEXT_RECALL, NOISY_RECALL
from nestling.recipes.suite.mqar import MQAR
from nestling.recipes.suite.synthetic import SyntheticTask

__all__ = ["GROUPS", "SYNTHETIC_TASKS"]

MAD = (IN_CONTEXT_RECALL, FUZZY_RECALL, NOISY_RECALL, SELECTIVE_COPYING, COMPRESSION, MEMORIZATION)

SYNTHETIC_TASKS: dict[str, SyntheticTask] = {task.name: task for task in (*FORMAL_LANGUAGES, MQAR, *MAD)}

# Names that stand for several tasks.
GROUPS: dict[str, tuple[str, ...]] = {
    "formal_languages": tuple(task.name for task in FORMAL_LANGUAGES),
    "mad": tuple(task.name for task in MAD),
}
