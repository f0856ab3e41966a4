"""`nestling eval`: how well a language model predicts a text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from nestling.recipes.language.evaluate import Evaluation


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="Folder of a model or of a training, or a hub name.")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            "--data", "-d", help="A file or folder of texts, one of the texts of this machine, or a hub data set."
        ),
    ] = None,
    memory: Annotated[
        str,
        typer.Option(
            help="frozen: levels stand still; learning: levels of Hope move while it reads; both: one by one."
        ),
    ] = "frozen",
    length: Annotated[
        list[int] | None, typer.Option("--length", "-l", min=1, help="Tokens of a context; can be given several times.")
    ] = None,
    inner_rate: Annotated[
        float | None, typer.Option(min=0.0, help="Inner learning rate of moving levels.", show_default="the model's")
    ] = None,
    period: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Tokens between two moves of a level; once for every level, the first one first.",
            show_default="the model's",
        ),
    ] = None,
    retention: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of what a level has learned that is kept at each of its moves.",
            show_default="the model's",
        ),
    ] = None,
    most_tokens: Annotated[int | None, typer.Option(min=1, help="Only so many tokens from the beginning.")] = None,
    part: Annotated[
        str | None, typer.Option(help="train, validation or test, where the data has such parts.", show_default="all")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for evaluation.json and .png.")] = None,
    suite: Annotated[
        bool, typer.Option("--suite", help="Every task of `nestling suite` that reads a trained model, instead.")
    ] = False,
) -> None:
    """Measure bits per byte of a text, and perplexity by position in the context; or the whole suite."""
    if suite:
        _suite(model, data, length, out)
        return
    if data is None:
        from nestling.errors import InputError

        raise InputError("expected --data with a text to predict, or --suite for the tasks of `nestling suite`")
    modes, documents = _modes(memory), _documents(data, part)
    moves = {"inner_rate": inner_rate, "periods": period, "retention": retention}
    found = []
    for mode in modes:
        found += _read(model, documents, mode, length or [1024], moves=moves, most_tokens=most_tokens)
    _print_tables(found)
    if out is not None:
        from nestling.recipes.language.evaluate import save_evaluations

        typer.echo(f"written: {save_evaluations(found, out, {'model': model, 'data': data})}", err=True)


def _modes(memory: str) -> tuple[str, ...]:
    from nestling.errors import UnknownNameError

    modes = {"frozen": ("frozen",), "learning": ("learning",), "both": ("frozen", "learning")}
    if memory not in modes:
        raise UnknownNameError("--memory", memory, modes)
    return modes[memory]


def _documents(data: str, part: str | None) -> list[bytes]:
    from nestling.errors import DataError
    from nestling.recipes.language.corpus import find_corpus

    corpus = find_corpus(data)
    if part is not None and part not in corpus:
        raise DataError(f"{data} has no part {part!r}: there are {', '.join(corpus)}")
    return corpus[part] if part else [each for documents in corpus.values() for each in documents]


def _read(
    model: str,
    documents: list[bytes],
    mode: str,
    lengths: list[int],
    *,
    moves: dict[str, Any],
    most_tokens: int | None,
) -> list[Evaluation]:
    from nestling.recipes.language.evaluate import evaluate_text, read_tokens
    from nestling.recipes.language.load import load_model

    loaded, tokenizer = load_model(model, learning=mode == "learning", **moves)
    text = read_tokens(documents, tokenizer)
    return [evaluate_text(loaded, text, length=each, memory=mode, most_tokens=most_tokens) for each in lengths]


def _suite(model: str, data: str | None, lengths: list[int] | None, out: Path | None) -> None:
    from nestling.recipes.suite import Settings, run_suite

    settings = Settings(data=None if data is None else Path(data))
    if lengths:
        settings = replace(settings, lengths=lengths)
    result = run_suite(model, None, settings=settings, out=out, report=lambda line: typer.echo(line, err=True))
    typer.echo(result.markdown())


def _print_tables(found: list[Evaluation]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for each in found:
        console.print(
            f"{each.bits_per_byte:.4f} bits per byte, perplexity {each.perplexity:.3f}: {each.contexts} contexts of "
            f"{each.length} tokens, memory {each.memory}",
            soft_wrap=True,
        )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("position", justify="right")
    longest = max(found, key=lambda each: len(each.positions))
    for each in found:
        table.add_column(f"perplexity, {each.memory} {each.length}", justify="right")
    for place, position in enumerate(longest.positions):
        cells = [f"{each.positions[place].perplexity:.3f}" if place < len(each.positions) else "" for each in found]
        table.add_row(f"{position.first}-{position.last}", *cells)
    console.print(table)
