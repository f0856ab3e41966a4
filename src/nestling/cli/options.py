"""Options of a stream from the command line: NAME=VALUE, read as the type that the stream asks for."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from nestling.errors import InputError
from nestling.options import read_value
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
        options[name] = read_value(f"stream option {name}", value.strip(), wanted)
    return options
