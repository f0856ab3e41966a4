"""Any model and optimizer as a nested system: what is remembered where, by which rule, and how often it changes."""

from __future__ import annotations

from nestling.recipes.levels.analyse import levels
from nestling.recipes.levels.load import load_module
from nestling.recipes.levels.system import Component, Frequency, NestedSystem

__all__ = ["Component", "Frequency", "NestedSystem", "levels", "load_module"]
