"""`nestling bench intents`: class-incremental intents with a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def intents(
    model: Annotated[
        str, typer.Option(help="smollm2-135m (after `nestling pull`), a folder, or a hub id.")
    ] = "smollm2-135m",
    data: Annotated[str, typer.Option(help="Separated by commas: clinc150, banking77.")] = "clinc150,banking77",
    arms: Annotated[
        str,
        typer.Option(
            help="Separated by commas: in_context (an example of each class in the prompt), in_context_nearest (the "
            "20 nearest), or strategies (`nestling strategies`) on the model's states."
        ),
    ] = "continuum,klda,slda,ridge,replay,ewc,naive,joint,in_context,in_context_nearest",
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds: 3 means 0, 1 and 2.")] = 3,
    queries: Annotated[int, typer.Option(min=1, help="Test sentences asked of the in-context arms.")] = 200,
    validation: Annotated[
        bool, typer.Option("--validation", help="Ask for CLINC150's validation part, to choose settings on.")
    ] = False,
    folder: Annotated[Path | None, typer.Option(help="Of the data sets; NESTLING_DATA or the hub when absent.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for results; finished arms are not run again.")] = Path(
        "runs/intents"
    ),
) -> None:
    """Learn intents that arrive a group at a time on a language model's states; beside it, examples in its prompt."""
    import torch

    from nestling.recipes.intents import IntentsPlan, markdown, run_intents

    torch.set_num_threads(threads)
    plan = IntentsPlan(
        model=model,
        data=tuple(name.strip() for name in data.split(",") if name.strip()),
        arms=tuple(name.strip() for name in arms.split(",") if name.strip()),
        seeds=seeds,
        queries=queries,
        folder=folder,
        validate=validation,
    )
    table = markdown(run_intents(plan, out, lambda line: typer.echo(line, err=True)))
    (out / "intents.md").write_text(table + "\n")
    typer.echo(table)
