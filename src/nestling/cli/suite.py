"""`nestling suite`: score a trained language model on many tasks, or train small models on synthetic ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def suite(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Folder or hub name of a trained model; or a small model to train: hope, hope_attention, llama, "
            "titans, deltanet, gated_delta, mamba2.",
        ),
    ] = "",
    task: Annotated[
        list[str] | None, typer.Option("--task", "-t", help="Name of a task or a group, may be repeated; else all.")
    ] = None,
    lengths: Annotated[str, typer.Option(help="Context lengths in tokens, with commas.")] = "1024,2048,4096",
    samples: Annotated[int, typer.Option(min=1, help="Examples per task and length.")] = 20,
    limit: Annotated[
        int | None, typer.Option(min=1, help="LAMBADA passages, thousands of WikiText tokens; else all.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Step of WikiText's window, of the largest length; else half of it.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Text file or folder of texts; else $NESTLING_DATA, then ../shared/data.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of a small model.")] = 2000,
    optimizer: Annotated[
        str, typer.Option(help="Of a small model: NAME or NAME:option=value,..., as `nestling train` takes it.")
    ] = "adam",
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for suite.json and suite.md.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Show the tasks and exit.")] = False,
) -> None:
    """Score a language model: needles, bAbI in books, LAMBADA, WikiText-2; or formal languages, MQAR and MAD."""
    if show or not model:
        _print_tasks()
        return
    from nestling.errors import InputError
    from nestling.recipes.suite import Settings, Training, run_suite

    parts = lengths.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise InputError(f"--lengths: expected numbers with commas, got {lengths!r}")
    settings = Settings(
        data=data, lengths=[int(part) for part in parts], samples=samples, limit=limit, stride=stride, seed=seed
    )
    training = Training(steps=steps, trial_steps=max(1, steps // 8), optimizer=optimizer)
    result = run_suite(
        model, task, settings=settings, training=training, out=out, report=lambda line: typer.echo(line, err=True)
    )
    typer.echo(result.markdown())


def _print_tasks() -> None:
    from nestling.recipes.suite import GROUPS, READING_GROUPS, READING_TASKS, SYNTHETIC_TASKS

    typer.echo("For a trained model:")
    for task in READING_TASKS.values():
        typer.echo(f"  {task.name:<20} {task.summary} (needs {task.needs})")
    typer.echo("For a small model that is trained first:")
    for task in SYNTHETIC_TASKS.values():
        typer.echo(f"  {task.name:<20} {task.summary}")
    for name, tasks in {**READING_GROUPS, **GROUPS}.items():
        typer.echo(f"  {name:<20} = {', '.join(tasks)}")
