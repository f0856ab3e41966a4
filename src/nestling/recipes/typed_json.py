"""Values read from JSON, held against the types of a dataclass, so that a damaged file is an error and no crash."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints


def read_record(kind: type[Any], content: Any) -> dict[str, Any]:
    """The fields of the dataclass `kind` from a JSON object; a file of a later version may hold more.

    Raises: ValueError naming a field that is missing or of another type.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"expected an object for {kind.__name__}, got {type(content).__name__}")
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    for name in names:
        if name not in content:
            raise ValueError(f"{name!r} is missing")
        if not fits(content[name], hints[name]):
            raise ValueError(f"{name!r} is not what it should be")
    return {name: content[name] for name in names}


def fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value has the type `hint`; records may come as objects, numbers must be finite.

    hint: bool, int, float, str, Any, list[...], dict[str, ...], unions of them, or a dataclass.
    """
    if hint is Any:
        return True
    origin, inner = get_origin(hint), get_args(hint)
    if origin is list:
        return isinstance(value, list) and all(fits(each, inner[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(each, inner[1]) for each in value.values())
    if inner:
        return any(fits(value, each) for each in inner)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    if hint in (bool, int, str, NoneType):
        return type(value) is hint
    return isinstance(value, Mapping)
