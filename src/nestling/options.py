"""Options that come as text, read as the type that a signature asks for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from nestling.errors import InputError

_TRUTH = {"true": True, "false": False}


def read_value(what: str, text: str, wanted: str) -> Any:
    """`text` as a value of the type `wanted`.

        Path                       a path, ~ being the home folder
        Sequence[...]              texts, separated by commas
        bool, int, float           true or false; a whole number; a finite number
        anything else              the text itself

    Args:
        what: names the option in the message of an error, e.g. "stream option length".
        text: as the user wrote it.
        wanted: the annotation as it stands in the signature, e.g. "int" or "Sequence[str] | None".
    Raises: InputError saying what was expected and what came.
    """
    if "Path" in wanted:
        return Path(text).expanduser()
    if "Sequence" in wanted:
        return [part.strip() for part in text.split(",") if part.strip()]
    kinds = [kind for kind in ("bool", "int", "float") if kind in wanted.replace("|", " ").split()]
    if not kinds:
        return text
    for kind in kinds:
        value = _number(text, kind)
        if value is not None:
            return value
    raise InputError(f"{what}: expected {' or '.join(kinds)}, got {text!r}")


def write_value(value: bool | int | float | str) -> str:
    """The shortest text that `read_value` reads as `value`: true, 18, 0.5, 100 (for 100.0 too), online."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _number(text: str, kind: str) -> bool | int | float | None:
    """None when `text` is not of that kind."""
    if kind == "bool":
        return _TRUTH.get(text.lower())
    try:
        number = int(text) if kind == "int" else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
