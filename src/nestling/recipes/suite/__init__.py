"""The evaluation suite: tasks for trained language models, and tasks that small models are trained for."""

from __future__ import annotations

from nestling.recipes.suite.reading import Reader
from nestling.recipes.suite.run import SuiteResult, evaluate, run_suite, train_and_test
from nestling.recipes.suite.synthetic import Batch, SyntheticTask, loss_of, score
from nestling.recipes.suite.synthetic_table import GROUPS, SYNTHETIC_TASKS
from nestling.recipes.suite.table import READING_GROUPS, READING_TASKS
from nestling.recipes.suite.task import ReadingTask, Settings, SuiteRow
from nestling.recipes.suite.train_synthetic import Training

__all__ = [
    "GROUPS",
    "READING_GROUPS",
    "READING_TASKS",
    "SYNTHETIC_TASKS",
    "Batch",
    "Reader",
    "ReadingTask",
    "Settings",
    "SuiteResult",
    "SuiteRow",
    "SyntheticTask",
    "Training",
    "evaluate",
    "loss_of",
    "run_suite",
    "score",
    "train_and_test",
]
