"""`nestling lm-eval`: the command of lm-evaluation-harness, with our models known to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# What is not ours goes to lm_eval as it stands.
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def lm_eval(
    context: typer.Context,
    self_contained: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Only prepare this checkpoint, so that plain lm_eval loads it with trust_remote_code=True.",
        ),
    ] = None,
) -> None:
    """Run lm-evaluation-harness: what follows is what its command lm_eval takes, e.g. run --model hf --tasks NAME."""
    from nestling.recipes.suite.harness import make_self_contained, run_harness

    if self_contained is not None:
        for path in make_self_contained(self_contained):
            typer.echo(f"wrote {path}")
        return
    run_harness(context.args)
