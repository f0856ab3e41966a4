"""Strategies for tasks that arrive in order. Adding one = one file here and one line in `STRATEGIES` of `table.py`."""

from __future__ import annotations

from nestling.learners.base import Progress, Strategy
from nestling.learners.spec import StrategySpec, file_name, name_of, options_of, parse_strategy
from nestling.learners.table import STRATEGIES, find_strategy

__all__ = [
    "STRATEGIES",
    "Progress",
    "Strategy",
    "StrategySpec",
    "file_name",
    "find_strategy",
    "name_of",
    "options_of",
    "parse_strategy",
]
