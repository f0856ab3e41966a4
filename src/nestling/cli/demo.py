"""`nestling demo`: the main job on two real inputs, in minutes."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from nestling.cli.learn import INTERRUPTED

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
    try:
        reports = [_run_part(name, question, options, out, resume, jobs) for name, question, options in PARTS]
    except KeyboardInterrupt:
        typer.echo(f"stopped; go on with: {shlex.join(['nestling', 'demo', '--out', str(out), '--resume'])}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    for report in reports:
        typer.echo(f"report: {report}")


def _run_part(name: str, question: str, options: dict[str, int], out: Path, resume: bool, jobs: int | None) -> Path:
    """Learn one part and print its table; the path of its report."""
    from nestling.cli.progress import make_listener
    from nestling.recipes import learn
    from nestling.recipes.results import REPORT

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
    return out / name / REPORT
