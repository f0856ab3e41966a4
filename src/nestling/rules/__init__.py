"""Learning rules: one small file per rule, and the table from which tests, docs and commands are made.

A new rule is a new file with its row, and one line here.
"""

from __future__ import annotations

from nestling.errors import UnknownNameError
from nestling.rules import (
    attention,
    deep_table,
    delta,
    dgd,
    gated_delta,
    hebbian,
    huber,
    lp,
    momentum,
    oja,
    omega,
    recursive,
)
from nestling.rules.rule import Rule

__all__ = ["RULES", "Rule", "rule_named"]

_ROWS = (
    hebbian.RULE,
    delta.RULE,
    gated_delta.RULE,
    oja.RULE,
    omega.RULE,
    lp.RULE,
    huber.RULE,
    momentum.RULE,
    dgd.RULE,
    dgd.EXPLICIT,
    recursive.RULE,
    attention.RULE,
    attention.SLIDING_WINDOW,
    deep_table.DEEP,
    deep_table.DEEP_MOMENTUM,
    deep_table.DEEP_DGD,
)

RULES: dict[str, Rule] = {row.name: row for row in _ROWS}


def rule_named(name: str) -> Rule:
    """The rule of this name.

    Raises:
        UnknownNameError: with the nearest known name.
    """
    if name not in RULES:
        raise UnknownNameError("rule", name, RULES)
    return RULES[name]
