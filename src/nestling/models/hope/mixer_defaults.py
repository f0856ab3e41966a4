"""What a mixer of a Hope model has unless a configuration says otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nestling.memory import DEEP_RULES, MATRIX_RULES

__all__ = ["completed"]

# What language models of these names have beside the rule: short convolutions on q, k and v (but RetNet), norm and gate
# of answers (DeltaNet: the norm alone), and places in attention.
AS_PUBLISHED: dict[str, dict[str, Any]] = {
    **{name: {"conv_width": 4, "output": "gated"} for name in MATRIX_RULES},
    **{f"deep_{name}": {"conv_width": 4, "output": "gated"} for name in DEEP_RULES},
    "hebbian": {"output": "gated"},
    "delta": {"conv_width": 4, "output": "normed"},
    "titans": {"conv_width": 4, "output": "gated"},
    "self_modifying": {"output": "gated"},
    **{name: {"rope_theta": 10_000.0} for name in ("attention", "sliding_window")},
}
# Matrix memories of self-modifying Titans may forget, for what decays is the deviation from their start.
FORGETTING: dict[str, Any] = {"decay_to": "initial", "span": 8.0, "span_ratio": 1024.0, "gate": 0.1}


def completed(names: Iterable[str], given: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Options by the name of a mixer: what was given, and what this file sets, so that a saved model names both.

    Args:
        names: of the mixers of a model.
        given: options by name.
    """
    return {
        name: {**_defaults(name, given.get(name, {})), **given.get(name, {})}
        for name in {**dict.fromkeys(names), **given}
    }


def _defaults(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    options = AS_PUBLISHED.get(name, {})
    asked = (given.get("kind", "matrix"), given.get("decay_to", "initial"))
    return options | FORGETTING if name == "self_modifying" and asked == ("matrix", "initial") else options
