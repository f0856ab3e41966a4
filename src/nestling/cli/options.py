"""Options of a stream from the command line: NAME=VALUE, read as the type that the stream asks for."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nestling.errors import InputError
from nestling.streams import find_stream


def parse_options(stream: str, given: Sequence[str]) -> dict[str, Any]:
    """{"num_tasks": 3} for ["num_tasks=3"]. Raises InputError for what is not NAME=VALUE or has the wrong type."""
    parameters = inspect.signature(find_stream(stream).build).parameters
    options: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name or name in options:
            raise InputError(f"expected --stream-option NAME=VALUE, each name once, got {text!r}")
        wanted = str(parameters[name].annotation) if name in parameters else "str"
        options[name] = _read(name, value.strip(), wanted)
    return options


def _read(name: str, value: str, wanted: str) -> Any:
    """`wanted` is the annotation as it is written in the builder, e.g. "int" or "Sequence[str] | None"."""
    if "Path" in wanted:
        return Path(value).expanduser()
    if "Sequence" in wanted:
        return [part.strip() for part in value.split(",") if part.strip()]
    kinds = [kind for kind in ("bool", "int", "float") if kind in wanted.replace("|", " ").split()]
    if not kinds:
        return value
    try:
        parsed = json.loads(value.lower())
    except ValueError:
        parsed = value
    fits = {"bool": isinstance(parsed, bool), "int": type(parsed) is int, "float": type(parsed) in (int, float)}
    if not any(fits[kind] for kind in kinds):
        raise InputError(f"stream option {name}: expected {' or '.join(kinds)}, got {value!r}")
    return parsed
