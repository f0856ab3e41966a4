"""Memories with a state, ready to stand in a model: one file per kind, and the table of all kinds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from nestling.memory.attention import AttentionMemory
from nestling.memory.base import Memory
from nestling.memory.deep import DEEP_RULES, DeepMemory
from nestling.memory.matrix import MatrixMemory
from nestling.memory.matrix_rules import MATRIX_RULES
from nestling.memory.state import PairState, State, WeightState

__all__ = [
    "DEEP_RULES",
    "MATRIX_RULES",
    "MEMORIES",
    "AttentionMemory",
    "DeepMemory",
    "MatrixMemory",
    "Memory",
    "PairState",
    "State",
    "WeightState",
]

MEMORIES: dict[str, Callable[..., Memory[Any]]] = {
    **{rule: partial(MatrixMemory, rule) for rule in MATRIX_RULES},
    **{f"deep_{rule}": partial(DeepMemory, rule) for rule in DEEP_RULES},
    "attention": AttentionMemory,
    "sliding_window": partial(AttentionMemory, window=64),
}
