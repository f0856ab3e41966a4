"""`nestling report`: make the page of a run again, also of one that is not finished."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The --out folder of 'nestling learn'.")],
) -> None:
    """Print the table of a run and write its report.html again."""
    from nestling.recipes.results import load_results

    result = load_results(folder)
    path = result.save_report(folder)
    typer.echo(result.table())
    typer.echo(f"report: {path}")
