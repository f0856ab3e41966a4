"""Language models from a folder, a training, or the hub, with their tokenizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nestling.errors import DataError, InputError, ResourceError
from nestling.recipes.language.checkpoints import MODEL, newest_checkpoint
from nestling.recipes.language.recipe import RECIPE

__all__ = ["find_model", "load_model", "quiet_transformers"]


def find_model(place: str) -> str:
    """The folder that holds the model: itself, or of a training its `model`, else its newest checkpoint.

    Raises:
        DataError: a training without a checkpoint, or a folder without a model.
    """
    path = Path(place).expanduser()
    if not path.is_dir():
        return place
    if (path / "config.json").is_file():
        return str(path)
    found = path / MODEL if (path / MODEL / "config.json").is_file() else newest_checkpoint(path)
    if found is not None:
        return str(found)
    if (path / RECIPE).is_file():
        raise DataError(f"the training in {path} has no checkpoint yet: wait, or give it --save-every")
    raise DataError(f"{path} holds no model: expected config.json, as save_pretrained of transformers writes it")


def load_model(
    place: str,
    *,
    learning: bool = False,
    inner_rate: float | None = None,
    periods: Sequence[int] | None = None,
    retention: float | None = None,
) -> tuple[Any, Any]:
    """A causal language model, ready to be read with, and its tokenizer.

    Args:
        place: a folder with a Hugging Face model, the folder of a training, or a name on the hub.
        learning: whether the levels of a Hope model move while it reads, by next-token loss (where it was trained
            with levels that move by an objective of their own: by that).
        inner_rate: of these moves; None: as the model has it.
        periods: tokens between two moves of each level, the first one first; None: as the model has it.
        retention: share of what a level has learned that is kept at each of its moves, in [0, 1]; None: as the model
            has it.

    Raises:
        InputError: a model without levels cannot learn while it reads, or not one period per level.
        DataError, ResourceError: nothing that can be loaded.
    """
    try:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise ResourceError("transformers is not installed: pip install 'nestling[text]'") from error
    found = find_model(place)
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(found)
            options = _learning(config, place, inner_rate, periods, retention) if learning else _still(config)
            model = AutoModelForCausalLM.from_pretrained(found, **options).eval()
            tokenizer = AutoTokenizer.from_pretrained(found)
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, InputError):
                raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DataError(f"cannot load a language model from {place!r}: {reason}") from error
    return model, tokenizer


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' progress bars and hints inside; errors are shown."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _learning(
    config: Any, place: str, inner_rate: float | None, periods: Sequence[int] | None, retention: float | None
) -> dict[str, Any]:
    if config.model_type != "hope":
        raise InputError(
            f"{place} is a {config.model_type!r} model without levels: only Hope models learn while they read; "
            "use --memory frozen"
        )
    options: dict[str, Any] = {}
    if config.continuum_mode == "static":
        options |= {"continuum_mode": "online", "continuum_objective": "next_token"}
    if periods:
        levels = len(config.update_periods)
        if len(periods) != levels:
            raise InputError(f"periods: expected one for each of the {levels} levels of {place}, got {[*periods]}")
        options["update_periods"] = list(periods)
    if inner_rate is not None:
        options["continuum_inner_rate"] = inner_rate
    if retention is not None:
        options["continuum_retention"] = retention
    return options


def _still(config: Any) -> dict[str, Any]:
    """Levels stand still where they would move."""
    if config.model_type != "hope" or config.continuum_mode == "static":
        return {}
    return {"continuum_inner_rate": 0.0}
