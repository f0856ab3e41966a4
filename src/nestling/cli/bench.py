"""`nestling bench`: time our memories against attention and installed peers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench(
    out: Annotated[Path, typer.Option(help="Folder for speed.md, speed.json and speed.png.")] = Path("runs/speed"),
    repeats: Annotated[int, typer.Option(min=1, help="Rounds after the warm-up; figures are medians.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="Two small sizes only, no memory: about 10 seconds.")] = False,
) -> None:
    """Time memories, attention and installed peers in one run; write a table, a plot and JSON."""
    import torch

    from nestling.recipes.bench import SUBJECTS, Case, Plan, run_cases, write_report
    from nestling.recipes.bench.report import markdown

    torch.set_num_threads(threads)
    plan = Plan(repeats=repeats)
    if quick:
        cases = (Case(batch=1, tokens=256, width=128), Case(batch=1, tokens=1, width=128, cache=256))
        ours = tuple(name for name, row in SUBJECTS.items() if not row.package)
        plan = Plan(repeats=repeats, cases=cases, with_memory=False, subjects=ours)
    measured = list(run_cases(plan, lambda line: typer.echo(line, err=True)))
    for path in write_report(measured, out):
        typer.echo(f"wrote {path}", err=True)
    typer.echo(markdown(measured))
