"""What `nestling train` reads from options of the form NAME=VALUE."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from nestling.errors import InputError


def read_config(given: Sequence[str]) -> dict[str, Any]:
    """{"update_periods": [64, 256]} for ["update_periods=[64, 256]"]; what is no JSON is taken as text."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or name in found:
            raise InputError(f"expected --config KEY=VALUE, each key once, got {text!r}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def read_levels(given: Sequence[str]) -> dict[str, int]:
    """{"*.mlps.3.*": 8} for ["*.mlps.3.*=8"]."""
    found: dict[str, int] = {}
    for text in given:
        pattern, equals, period = text.rpartition("=")
        if not equals or not period.isdecimal() or int(period) < 1 or pattern in found:
            raise InputError(f"expected --level PATTERN=PERIOD with a whole number of steps, each once, got {text!r}")
        found[pattern] = int(period)
    return found
