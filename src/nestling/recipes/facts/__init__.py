"""Invented facts taught one at a time: what is known afterwards, at once and in the end, and what else has changed."""

from __future__ import annotations

from nestling.recipes.facts.arms import ARMS, Arm
from nestling.recipes.facts.forgetting import Forgetting
from nestling.recipes.facts.invented import Fact, invent
from nestling.recipes.facts.picture import draw_recall
from nestling.recipes.facts.relations import RELATIONS, Hop, Relation
from nestling.recipes.facts.result import FactsPlan, FactsResult
from nestling.recipes.facts.run import measure_arm, run_facts
from nestling.recipes.facts.table import markdown

__all__ = [
    "ARMS",
    "RELATIONS",
    "Arm",
    "Fact",
    "FactsPlan",
    "FactsResult",
    "Forgetting",
    "Hop",
    "Relation",
    "draw_recall",
    "invent",
    "markdown",
    "measure_arm",
    "run_facts",
]
