"""Class-incremental intents with the states of a language model, and the model's own reading of examples beside it."""

from __future__ import annotations

from nestling.recipes.intents.run import IntentsPlan, IntentsResult, run_intents
from nestling.recipes.intents.table import markdown

__all__ = ["IntentsPlan", "IntentsResult", "markdown", "run_intents"]
