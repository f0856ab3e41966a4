"""`nestling streams`: what can be learned."""

from __future__ import annotations

import typer


def streams() -> None:
    """List the streams and their options."""
    from nestling.streams import FOLDER, STREAMS

    for spec in (*STREAMS.values(), FOLDER):
        typer.echo(f"{spec.name}\n    {spec.summary}")
        for name, default in spec.options().items():
            typer.echo(f"    --stream-option {name}={_show(default)}")


def _show(value: object) -> str:
    if value is None:
        return "..."
    return ",".join(str(each) for each in value) if isinstance(value, tuple | list) else str(value)
