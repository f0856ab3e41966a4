"""`nestling learn`: strategies learn a stream and are measured after every experience."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

INTERRUPTED = 130


def learn(
    stream: Annotated[
        str, typer.Option("--stream", "-s", help="A name ('nestling streams' lists them) or a folder of files.")
    ],
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            "-S",
            help="Names separated by commas ('nestling strategies' lists them), each with options where wanted: "
            "naive,replay:buffer_size=200.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for results.json, report.html and checkpoints.")],
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds: 3 means 0, 1 and 2.")] = 1,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the run in --out, begin if there is none; strategies and seeds may be added."
        ),
    ] = False,
    order: Annotated[
        str | None, typer.Option(help="given or shuffled (per seed).", show_default="the stream's custom")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Runs at the same time. Changes no figure.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one run.")] = 1,
    stream_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An option of the stream; can be given several times."),
    ] = None,
) -> None:
    """Learn a stream with one or more strategies and measure what is kept.

    Ctrl-C or a kill loses a few seconds at most: the same command with --resume goes on.
    """
    from nestling.cli.options import parse_options
    from nestling.cli.progress import make_listener
    from nestling.learners import parse_strategy
    from nestling.recipes import learn as run
    from nestling.recipes.results import REPORT

    names = [name.strip() for name in strategy.split(",") if name.strip()]
    options = parse_options(stream, stream_option or [])
    command = shlex.join(["nestling", *sys.argv[1:]])
    try:
        with make_listener(len({parse_strategy(name).label for name in names}) * seeds) as listener:
            result = run(
                stream=stream,
                strategies=names,
                seeds=seeds,
                order=order,
                out=out,
                resume=resume,
                jobs=jobs,
                threads=threads,
                stream_options=options,
                listener=listener,
                command=command,
            )
    except KeyboardInterrupt:
        again = command if resume else f"{command} --resume"
        typer.echo(f"stopped; go on with: {again}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(result.table())
    typer.echo(f"report: {out / REPORT}")
