"""Everything that decides a training, frozen, and saved beside it as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from nestling.errors import DataError, InputError, UnknownNameError
from nestling.recipes.files import plain_errors
from nestling.recipes.language.models import model_named
from nestling.recipes.language.sizes import size_named
from nestling.recipes.language.tokenizer import BYTE
from nestling.recipes.typed_json import read_record

__all__ = ["RECIPE", "Recipe", "make_recipe", "read_recipe"]

RECIPE = "recipe.json"
PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training of a language model.

    data:            as the user named it; see `language.corpus`.   column: of .jsonl files and data sets.
    validation_share, test_share: of the training part, where the data has no such parts.
    model, size:     keys of the tables.   options: further keys of the model's configuration.
    tokenizer:       "byte", a folder, or a hub name.
    optimizer:       NAME or NAME:option=value,...; a row of `nestling.optim.OPTIMIZERS` or of torch.
    levels:          pattern of parameter names to update period in steps (`NestedOptimizer`); empty: all every step.
    lr:              peak learning rate.   min_lr_share: of it at the end.   warmup_share: of the steps.
    weight_decay:    of weights of linear maps and embeddings, where the optimizer has it.
    steps:           optimizer steps.   batch_size: rows of a step, over all processes.   length: tokens of a row.
    micro_batch:     rows that one process reads at once; a step gathers the gradients of several.
    clip:            largest length of the gradient of all parameters; 0 does not clip.
    precision:       "float32", or "bf16": weights and optimizer in float32, products in bfloat16 (autocast).
    checkpointing:   gradient checkpointing: less memory, a third more time.
    seed:            of weights and of the order of rows.
    evaluate_every:  steps between two looks at the validation part; 0: at the end only.
    evaluate_rows:   rows of it, at most.
    save_every:      steps between two checkpoints; 0: at the end only.
    """

    data: str
    model: str
    size: str
    lr: float
    steps: int
    batch_size: int
    length: int
    micro_batch: int
    column: str = "text"
    validation_share: float = 0.05
    test_share: float = 0.05
    tokenizer: str = BYTE
    options: dict[str, Any] = field(default_factory=dict)
    optimizer: str = "adamw"
    levels: dict[str, int] = field(default_factory=dict)
    min_lr_share: float = 0.1
    warmup_share: float = 0.05
    weight_decay: float = 0.1
    clip: float = 1.0
    precision: str = "float32"
    checkpointing: bool = False
    seed: int = 0
    evaluate_every: int = 0
    evaluate_rows: int = 64
    save_every: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        model_named(self.model)
        size_named(self.size)
        if self.precision not in PRECISIONS:
            raise UnknownNameError("precision", self.precision, PRECISIONS)
        for name in ("steps", "batch_size", "length", "micro_batch", "evaluate_rows"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected a number >= 1, got {getattr(self, name)}")
        for name in ("evaluate_every", "save_every", "clip", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: expected a number >= 0, got {getattr(self, name)}")
        for name in ("min_lr_share", "warmup_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: expected a share between 0 and 1, got {getattr(self, name)}")
        if not self.lr > 0:
            raise InputError(f"lr: expected a learning rate > 0, got {self.lr}")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return json.loads(json.dumps(asdict(self)))


def make_recipe(*, data: str, model: str, size: str, tokens: int | None = None, **changes: Any) -> Recipe:
    """The recipe of a size, with what the user changed.

    Args:
        data, model, size: as in `Recipe`.
        tokens: to train on, in place of steps; both None: as the size has it.
        changes: fields of `Recipe`; None leaves the size's own.

    Raises:
        UnknownNameError, InputError: naming what is wrong.
    """
    chosen = size_named(size)
    known = [part.name for part in fields(Recipe)]
    for name in changes:
        if name not in known:
            raise UnknownNameError("field of a recipe", name, known)
    given = {name: value for name, value in changes.items() if value is not None}
    if tokens is not None and "steps" in given:
        raise InputError("expected either steps or tokens, got both")
    batch, length = given.get("batch_size", chosen.batch_size), given.get("length", chosen.length)
    if min(batch, length) < 1:
        raise InputError(f"expected batch_size and length >= 1, got {batch} and {length}")
    wanted = chosen.tokens if tokens is None else tokens
    return Recipe(
        **{
            "data": data,
            "model": model,
            "size": size,
            "lr": chosen.lr,
            "steps": max(1, -(-wanted // (batch * length))),
            "batch_size": batch,
            "length": length,
            "micro_batch": batch,
            **given,
        }
    )


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file. Raises DataError when it is damaged."""
    try:
        with plain_errors("read", path):
            content = json.loads(path.read_text(encoding="utf-8"))
        return Recipe(**read_record(Recipe, content))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is not a recipe of this version ({error}); choose another folder") from error
