"""`nestling chat`: a conversation in the terminal with a language model that learns."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def chat(
    model: Annotated[
        str, typer.Option(help="smollm2-135m (after `nestling pull`), a folder, or a hub id.")
    ] = "smollm2-135m",
    memory: Annotated[Path, typer.Option(help="File of what it learned; made when something is taught.")] = Path(
        "memory.safetensors"
    ),
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 64,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all")] = None,
) -> None:
    """Talk with a language model and teach it; what it learned is there after a restart. /help lists commands."""
    import torch

    from nestling.models.nested_lm import nest
    from nestling.models.nested_lm.conversation import HELP, Conversation

    if threads is not None:
        torch.set_num_threads(threads)
    learner = nest(model, memory=memory)
    talk = Conversation(learner, max_new_tokens=tokens)
    interactive = sys.stdin.isatty()
    typer.echo(f"{model}, {len(learner.lessons())} lessons in {memory}\n{HELP}", err=True)
    while True:
        try:
            line = input("> " if interactive else "")
        except (EOFError, KeyboardInterrupt):
            return
        if line.strip() in ("/quit", "/exit"):
            return
        if reply := talk.say(line):
            typer.echo(reply)
