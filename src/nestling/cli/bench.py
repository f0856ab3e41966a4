"""`nestling bench`: speed of memories, and what a taught language model knows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nestling.cli.bench_domains import domains
from nestling.cli.bench_intents import intents

bench = typer.Typer(help="Benchmarks: speed, facts, domains, intents.", no_args_is_help=True)


@bench.command()
def speed(
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


@bench.command()
def facts(
    model: Annotated[
        str, typer.Option(help="smollm2-135m (after `nestling pull`), a folder, or a hub id.")
    ] = "smollm2-135m",
    arms: Annotated[
        str,
        typer.Option(
            help="Separated by commas: memory (ours), untaught, notes, retrieval, finetuning, lora, ewc, replay."
        ),
    ] = "memory,untaught,notes,retrieval,finetuning,lora,ewc,replay",
    count: Annotated[int, typer.Option("--facts", min=1, help="How many facts are taught, one at a time.")] = 200,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds: 3 means 0, 1 and 2.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="50 facts, whatever --facts says.")] = False,
    text: Annotated[Path | None, typer.Option(help="Ordinary text for the drift (UTF-8).")] = None,
    book: Annotated[Path | None, typer.Option(help="A second text for the drift, a book (UTF-8).")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for results; finished arms are not run again.")] = Path(
        "runs/facts"
    ),
) -> None:
    """Teach invented facts to a language model one at a time; measure what it knows and what else changed."""
    import torch

    from nestling.recipes.facts import FactsPlan, draw_recall, markdown, run_facts

    torch.set_num_threads(threads)
    plan = FactsPlan(
        model=model,
        arms=tuple(name.strip() for name in arms.split(",") if name.strip()),
        num_facts=50 if quick else count,
        seeds=seeds,
        text=None if text is None else str(text),
        book=None if book is None else str(book),
    )
    results = run_facts(plan, out, lambda line: typer.echo(line, err=True))
    table = markdown(results)
    draw_recall(results, out / "facts.png")
    (out / "facts.md").write_text(table + "\n")
    typer.echo(table)


bench.command()(domains)
bench.command()(intents)
