"""`nestling strategies`: ways of learning."""

from __future__ import annotations

from collections.abc import Iterator

import typer


def strategies() -> None:
    """List the strategies, the kinds of streams they learn, and their options."""
    from nestling.learners import STRATEGIES

    for strategy in STRATEGIES.values():
        typer.echo(f"{strategy.name}\n    {strategy.summary}\n    for {', '.join(sorted(strategy.kinds))}")
        for line in _option_lines(strategy.name):
            typer.echo(f"    --strategy {line}")


def _option_lines(name: str) -> Iterator[str]:
    """NAME:option=default of every option that can be written so; with its kind of stream where kinds differ."""
    from nestling.learners import find_strategy, options_of
    from nestling.options import write_value

    strategy = find_strategy(name)
    for kind in strategy.parts or sorted(strategy.kinds)[:1]:
        note = f"  ({kind})" if strategy.parts else ""
        for option, each in options_of(strategy, kind).items():
            if each.settable:
                default = "..." if each.default is None else write_value(each.default)
                yield f"{name}:{option}={default}{note}"
