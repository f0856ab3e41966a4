"""Invented facts taught one at a time: what is known afterwards, at once and in the end, and what else has changed."""

from __future__ import annotations

from nestling.recipes.facts.arms import ARMS, Arm
from nestling.recipes.facts.invented import RELATIONS, Fact, Relation, invent
from nestling.recipes.facts.run import FactsPlan, FactsResult, run_facts
from nestling.recipes.facts.table import markdown

__all__ = [
    "ARMS",
    "RELATIONS",
    "Arm",
    "Fact",
    "FactsPlan",
    "FactsResult",
    "Relation",
    "invent",
    "markdown",
    "run_facts",
]
