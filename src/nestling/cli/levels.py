"""`nestling levels`: a model and its optimizer as memories at levels of their own frequency."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_WIDTH = 160  # where standard output is no terminal


def levels(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A stream's module (digits, robot, text), a Hugging Face folder, config.json or hub id, or "
            "package.module:function.",
        ),
    ],
    optimizer: Annotated[
        str, typer.Option("--optimizer", "-O", help="NAME or NAME:option=value,...; without it weights do not change.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Folder for levels.json and levels.html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of the table.")] = False,
) -> None:
    """Show what learns in a model, by which rule, and how often it changes: the levels of a nested system."""
    import json

    from nestling.recipes.levels import levels as analyse
    from nestling.recipes.levels import load_module

    system = analyse(load_module(model), optimizer or None, name=model)
    if as_json:
        typer.echo(json.dumps(system.to_json(), indent=2, ensure_ascii=False))
    else:
        _print_table(system)
        if not optimizer:
            typer.echo("no optimizer: weights as they are used, not as they are trained; add --optimizer adamw")
    if out is not None:
        path = system.save(out)
        typer.echo(f"page: {path}", err=as_json)


def _print_table(system: object) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from nestling.recipes.levels import NestedSystem
    from nestling.recipes.levels.texts import HEADS, cells, headline

    assert isinstance(system, NestedSystem)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown = [index for index, head in enumerate(HEADS) if head != "source"]  # that one is on the page
    for head in (HEADS[index] for index in shown):
        number = head in ("parameters", "state")
        least = 26 if head == "component" else None
        whole = number or head in ("level", "updates")
        table.add_column(head, justify="right" if number else "left", no_wrap=whole, min_width=least)
    last = 0
    for component in system.components:
        if component.level != last:
            table.add_section()
            last = component.level
        row = cells(component)
        table.add_row(*(Text(row[index]) for index in shown))
    console.print(Text(headline(system), style="bold"))
    console.print(table)
