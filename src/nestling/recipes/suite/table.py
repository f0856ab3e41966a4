"""The table of tasks for trained models: one task, one row."""

from __future__ import annotations

from nestling.recipes.suite.babi import BABI_TASKS
from nestling.recipes.suite.lambada import LAMBADA
from nestling.recipes.suite.needle import NEEDLE_TASKS
from nestling.recipes.suite.task import ReadingTask
from nestling.recipes.suite.wikitext import WIKITEXT

__all__ = ["READING_GROUPS", "READING_TASKS"]

READING_TASKS: dict[str, ReadingTask] = {task.name: task for task in (*NEEDLE_TASKS, *BABI_TASKS, LAMBADA, WIKITEXT)}

# Names that stand for several tasks.
READING_GROUPS: dict[str, tuple[str, ...]] = {
    "needle": tuple(task.name for task in NEEDLE_TASKS),
    "babi": tuple(task.name for task in BABI_TASKS),
}
