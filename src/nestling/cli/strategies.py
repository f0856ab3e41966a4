"""`nestling strategies`: ways of learning."""

from __future__ import annotations

import typer


def strategies() -> None:
    """List the strategies and the kinds of streams they learn."""
    from nestling.learners import STRATEGIES

    for strategy in STRATEGIES.values():
        typer.echo(f"{strategy.name}\n    {strategy.summary}\n    for {', '.join(sorted(strategy.kinds))}")
