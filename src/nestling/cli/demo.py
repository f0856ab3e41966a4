"""`nestling demo`: the main job on two real inputs, in minutes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

PARTS = (
    ("robot", "A robot arm learns to pull a mug, then to push a ball. Can it still pull the mug?", {"num_tasks": 2}),
    ("digits", "A classifier learns digits two at a time. Does it still know the first ones?", {}),
)
STRATEGIES = ("naive", "replay", "joint", "continuum")


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; a folder in it for each part.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted demo in --out.")] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Runs at once; all cores if left out.")
    ] = None,
) -> None:
    """Forgetting and its solution on a robot and on digits; the same as `nestling learn` with these arguments."""
    from nestling.cli.progress import make_listener
    from nestling.recipes import learn
    from nestling.recipes.results import REPORT

    reports = []
    for name, question, options in PARTS:
        typer.echo(f"\n{question}")
        with make_listener(len(STRATEGIES)) as listener:
            result = learn(
                stream=name,
                strategies=STRATEGIES,
                out=out / name,
                resume=resume,
                jobs=jobs or len(os.sched_getaffinity(0)),
                stream_options=options,
                listener=listener,
                command=f"nestling demo --out {out}",
            )
        typer.echo(result.table())
        reports.append(out / name / REPORT)
    for report in reports:
        typer.echo(f"report: {report}")
