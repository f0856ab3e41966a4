"""Language models: what to train on, which model at which size, training, and what came of it."""

from __future__ import annotations

from nestling.recipes.language.models import LANGUAGE_MODELS
from nestling.recipes.language.recipe import Recipe, make_recipe
from nestling.recipes.language.sizes import SIZES
from nestling.recipes.language.train import StepListener, TrainResult, train

__all__ = ["LANGUAGE_MODELS", "SIZES", "Recipe", "StepListener", "TrainResult", "make_recipe", "train"]
