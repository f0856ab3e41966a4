"""`nestling bench domains`: texts of several languages read one after another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def domains(
    model: Annotated[
        str, typer.Option(help="smollm2-135m (after `nestling pull`), a folder, or a hub id.")
    ] = "smollm2-135m",
    arms: Annotated[
        str, typer.Option(help="Separated by commas: untouched, levels (ours), finetuning, replay.")
    ] = "levels,finetuning,replay",
    read: Annotated[int, typer.Option(min=32, help="Tokens read of each domain.")] = 2049,
    held_out: Annotated[int, typer.Option(min=32, help="Tokens asked for of each domain.")] = 512,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds: 3 means 0, 1 and 2.")] = 1,
    number: Annotated[
        int, typer.Option("--domains", min=1, max=5, help="How many domains, drawn and put in order by the seed.")
    ] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Three domains, 769 tokens of each, one seed.")] = False,
    validation: Annotated[
        bool, typer.Option("--validation", help="Ask for the parts that settings are chosen on.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="Folder with books/ and languages; NESTLING_DATA when absent.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for results; finished arms are not run again.")] = Path(
        "runs/domains"
    ),
) -> None:
    """Read books and sentences of several languages one after another; what is gained on each, and what is lost."""
    import torch

    from nestling.recipes.domains import DomainsPlan, draw, markdown, run_domains

    torch.set_num_threads(threads)
    plan = DomainsPlan(
        model=model,
        arms=tuple(name.strip() for name in arms.split(",") if name.strip()),
        read=769 if quick else read,
        held_out=held_out,
        seeds=1 if quick else seeds,
        validate=validation,
        data=None if data is None else str(data),
        num_domains=3 if quick else number,
    )
    results = run_domains(plan, out, lambda line: typer.echo(line, err=True))
    table = markdown(results)
    draw(results, out / "domains.png")
    (out / "domains.md").write_text(table + "\n")
    typer.echo(table)
