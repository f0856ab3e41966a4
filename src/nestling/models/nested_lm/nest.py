"""The entry: put a memory on a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from nestling.errors import InputError
from nestling.models.nested_lm.learner import NestedLM
from nestling.models.pretrained import load_language_model

__all__ = ["nest"]


def nest(model: nn.Module | str | Path, tokenizer: Any = None, **options: Any) -> NestedLM:
    """Give a pretrained causal language model a memory that can be taught.

    Until something is taught the model's outputs are what they were, bit for bit.

    Args:
        model: a model of transformers with its tokenizer, or a name: a folder, a hub id, an offline copy that was
            pulled (`nestling pull smollm2-135m`).
        tokenizer: of a model that is given as a module.
        options: of `NestedLM`: memory (a file), max_associations, max_drift.
    Raises: InputError, DataError, ResourceError: what is missing and what to do.
    """
    if isinstance(model, str | Path):
        loaded, own = load_language_model(model)
        return NestedLM(loaded, tokenizer or own, **options)
    if tokenizer is None:
        raise InputError("a model that is given as a module needs its tokenizer: nest(model, tokenizer)")
    return NestedLM(model.eval(), tokenizer, **options)
