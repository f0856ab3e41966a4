"""The docs page of the command line, made from the commands themselves: `python -m nestling.cli.page > docs/cli.md`."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from typing import Any

from typer.main import get_command

from nestling.cli import app
from nestling.cli.strategies import strategies
from nestling.cli.streams import streams

WIDTH = 100
LISTS: dict[str, Callable[[], None]] = {"streams": streams, "strategies": strategies}

INTRODUCTION = """\
<!-- Made by `python -m nestling.cli.page`; do not edit. -->
# The command line

Results go to standard output, progress and messages to standard error. Exit codes: 0 done, 2 something the user can
mend (one line says what was expected, what came and what to do), 130 stopped by Ctrl-C. `python -m nestling` is the
same command. How to use it for learning: [main-job.md](main-job.md).
"""


def page() -> str:
    """The whole page as Markdown: the help of every command, and what the commands that list things print."""
    group: Any = get_command(app)
    top = _context(group, info_name="nestling", terminal_width=WIDTH, **group.context_settings)
    parts = [INTRODUCTION, _block(group.get_help(top))]
    for name, command in group.commands.items():
        parts += [f"## nestling {name}\n", _block(command.get_help(_context(command, info_name=name, parent=top)))]
        if name in LISTS:
            parts += ["It prints:\n", _block(_printed(LISTS[name]))]
        within = _context(command, info_name=name, parent=top)
        for part, inner in getattr(command, "commands", {}).items():
            help_ = inner.get_help(_context(inner, info_name=part, parent=within))
            parts += [f"### nestling {name} {part}\n", _block(help_)]
    return "\n".join(parts)


def _context(command: Any, **settings: Any) -> Any:
    command.rich_markup_mode = None  # plain text in place of boxes that depend on the terminal
    return command.context_class(command, **settings)


def _printed(call: Callable[[], None]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        call()
    return printed.getvalue()


def _block(text: str) -> str:
    lines = [line.rstrip() for line in text.strip().splitlines()]
    return "\n".join(["```text", *lines, "```\n"])


if __name__ == "__main__":
    sys.stdout.write(page())
