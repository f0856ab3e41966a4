"""Layers that mix tokens, and the table of all mixers that a model can choose from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nestling.layers.continuum_memory import ContinuumMemory
from nestling.layers.continuum_state import ContinuumState
from nestling.layers.neural_memory import NeuralMemory
from nestling.layers.self_modifying import SelfModifyingTitans
from nestling.layers.self_modifying_state import SelfModifyingState
from nestling.layers.titans import MemoryAsContext, MemoryAsGate, MemoryAsLayer, TitansState
from nestling.memory import MEMORIES, Memory
from nestling.memory.short_convolution import ShortConvolution

__all__ = [
    "MIXERS",
    "ContinuumMemory",
    "ContinuumState",
    "MemoryAsContext",
    "MemoryAsGate",
    "MemoryAsLayer",
    "NeuralMemory",
    "SelfModifyingState",
    "SelfModifyingTitans",
    "ShortConvolution",
    "TitansState",
]

# Every mixer is made as MIXERS[name](dim=..., num_heads=..., ...) and called as y, state = mixer(x, state).
MIXERS: dict[str, Callable[..., Memory[Any]]] = {
    **MEMORIES,
    "self_modifying": SelfModifyingTitans,
    "titans": NeuralMemory,
    "titans_mac": MemoryAsContext,
    "titans_mag": MemoryAsGate,
    "titans_mal": MemoryAsLayer,
}
