"""The command `nestling`. One command = one file: parse, call, print."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import nestling
from nestling.cli.bench import bench
from nestling.cli.chat import chat
from nestling.cli.demo import demo
from nestling.cli.eval import evaluate
from nestling.cli.generate import generate
from nestling.cli.learn import learn
from nestling.cli.levels import levels
from nestling.cli.lm_eval import PASS_ON, lm_eval
from nestling.cli.pull import pull
from nestling.cli.report import report
from nestling.cli.strategies import strategies
from nestling.cli.streams import streams
from nestling.cli.suite import suite
from nestling.cli.train import train
from nestling.errors import NestlingError

EXIT_USER_ERROR = 2

app = typer.Typer(
    help="Learn one thing after another and forget nothing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, learn, report, streams, strategies, levels, pull, chat):
    app.command()(command)
app.add_typer(bench, name="bench")
for name, command in {"train": train, "generate": generate, "eval": evaluate}.items():
    app.command(name)(command)
app.command()(suite)
app.command(context_settings=PASS_ON)(lm_eval)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nestling {nestling.__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; an error the user can mend is one line on stderr and exit code 2."""
    try:
        app()
    except NestlingError as error:
        message = " ".join(str(error).split())
        typer.echo(f"error: {message}", err=True)
        sys.exit(EXIT_USER_ERROR)
