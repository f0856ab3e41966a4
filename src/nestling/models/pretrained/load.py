"""A causal language model and its tokenizer from what a user names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nestling.errors import DataError, ResourceError, UnknownNameError
from nestling.models.pretrained.offline import OFFLINE, cached_folder
from nestling.models.pretrained.pull import check_hub

__all__ = ["load_language_model"]


def load_language_model(name: str | Path) -> tuple[Any, Any]:
    """Model (float32, evaluation mode) and tokenizer.

    Args: name: a folder as save_pretrained writes it, an offline copy that was pulled, or a hub id owner/name.
    Raises: UnknownNameError, DataError, InputError naming what is wrong; ResourceError when it is not on this machine
        and cannot be fetched, or transformers is missing.
    """
    place = _place(name)
    try:
        import transformers
    except ImportError as error:
        raise ResourceError("transformers is not installed: pip install 'nestling[text]'") from error
    show = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        model = transformers.AutoModelForCausalLM.from_pretrained(place)
    except Exception as error:  # transformers raises many kinds for a folder it cannot read
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{name}: transformers cannot read this model: {reason}") from error
    finally:
        if show:
            transformers.utils.logging.enable_progress_bar()
    return model.eval(), tokenizer


def _place(name: str | Path) -> str:
    text = str(name)
    if text in OFFLINE:
        if (folder := cached_folder(text)) is None:
            raise ResourceError(f"{text} is not on this machine yet: run `nestling pull {text}`")
        return str(folder)
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise DataError(f"{path}: expected a folder with config.json, as save_pretrained of transformers writes it")
        return str(path)
    if text.count("/") != 1 or text.startswith((".", "~", os.sep)) or path.exists():
        raise UnknownNameError("model (nor is it a folder or a hub id owner/name)", text, OFFLINE)
    _check_on_machine_or_hub(text)
    return text


def _check_on_machine_or_hub(name: str) -> None:
    from huggingface_hub import try_to_load_from_cache  # which transformers brings

    if not isinstance(try_to_load_from_cache(name, "config.json"), str):
        check_hub(name)
