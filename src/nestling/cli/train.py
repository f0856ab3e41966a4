"""`nestling train`: a language model from text."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

INTERRUPTED = 130


def train(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            help="A file or folder of .txt, .md or .jsonl, texts of this machine (documentation, code, headers, names, "
            "images), or a hub data set owner/name.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for recipe, log, checkpoints and the model.")],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="hope, hope_attention, titans, deltanet, gated_deltanet, retnet, ttt, llama, mamba2 or samba.",
        ),
    ] = "hope",
    size: Annotated[
        str, typer.Option("--size", "-s", help="tiny, mini, small, medium, 125m, 340m, 760m or 1.3b.")
    ] = "tiny",
    tokenizer: Annotated[str, typer.Option(help="byte, a folder, or a hub name.")] = "byte",
    optimizer: Annotated[
        str, typer.Option("--optimizer", "-O", help="NAME or NAME:option=value,... as of 'nestling levels'.")
    ] = "adamw",
    level: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN=PERIOD", help="Parameters that change every so many steps; several times."),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(
            "--config", "-c", metavar="KEY=VALUE", help="A key of the model's configuration, as JSON; several times."
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", show_default="of the size")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps.", show_default="of the size")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens to train on, in place of steps.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows of a step, over all processes.", show_default="of the size")
    ] = None,
    micro_batch: Annotated[
        int | None, typer.Option(min=1, help="Rows that a process reads at once; gradients are gathered.")
    ] = None,
    length: Annotated[int | None, typer.Option(min=1, help="Tokens of a row.", show_default="of the size")] = None,
    precision: Annotated[str, typer.Option(help="float32 or bf16 (autocast).")] = "float32",
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Gradient checkpointing.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and of the order of the data.")] = 0,
    column: Annotated[str, typer.Option(help="Field with the text in .jsonl files and data sets.")] = "text",
    evaluate_every: Annotated[int, typer.Option(min=0, help="Steps between looks at the validation part.")] = 200,
    save_every: Annotated[int, typer.Option(min=0, help="Steps between checkpoints; 0: at the end only.")] = 200,
    resume: Annotated[bool, typer.Option("--resume", help="Go on in --out, begin if there is nothing.")] = False,
    pause_after: Annotated[
        int | None, typer.Option(min=1, help="Save and stop after so many steps; --resume goes on.")
    ] = None,
    parallel: Annotated[str, typer.Option(help="ddp or fsdp, under torchrun.")] = "ddp",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads.", show_default="torch's own")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write for TensorBoard too.")] = False,
) -> None:
    """Train a language model and save it as a Hugging Face folder.

    All models of a size have the same number of parameters. Under 'torchrun -m nestling train ...' the rows of a step
    are shared among processes. A kill loses what came after the last checkpoint: --resume goes on, bit for bit.
    """
    import torch

    from nestling.cli.train_options import read_config, read_levels
    from nestling.cli.train_progress import make_step_listener
    from nestling.recipes.language import make_recipe
    from nestling.recipes.language import train as run
    from nestling.recipes.language.load import quiet_transformers

    recipe = make_recipe(
        data=data,
        model=model,
        size=size,
        tokens=tokens,
        steps=steps,
        tokenizer=tokenizer,
        optimizer=optimizer,
        levels=read_levels(level or []),
        options=read_config(config or []),
        lr=lr,
        batch_size=batch_size,
        micro_batch=micro_batch,
        length=length,
        precision=precision,
        checkpointing=checkpointing,
        seed=seed,
        column=column,
        evaluate_every=evaluate_every,
        save_every=save_every,
    )
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with make_step_listener(recipe) as listener, quiet_transformers():
            result = run(
                recipe,
                out,
                resume=resume,
                pause_after=pause_after,
                parallel=parallel,
                device=device,
                tensorboard=tensorboard,
                listener=listener,
            )
    except KeyboardInterrupt:
        command = shlex.join(["nestling", *sys.argv[1:]])
        again = command if resume else f"{command} --resume"
        typer.echo(f"stopped; go on from the last checkpoint with: {again}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if not result.writes:
        return
    bits = "" if result.validation_bits is None else f", validation {result.validation_bits:.4f} bits per byte"
    state = "trained" if result.finished else f"paused at step {result.step} of {recipe.steps}"
    typer.echo(f"{model}, {result.parameters:,} parameters, {state}{bits}")
    typer.echo(f"model: {result.folder}")
