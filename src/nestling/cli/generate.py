"""`nestling generate`: a language model continues a text."""

from __future__ import annotations

from typing import Annotated

import typer


def generate(
    model: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="Folder of a model or of a training, or a hub name.")
    ],
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="Text to continue.")] = "",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="Tokens at most.")] = 200,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 takes the likeliest token, else tokens are drawn.")
    ] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", help="Share of the probability that is drawn from.")] = 1.0,
    beams: Annotated[int, typer.Option(min=1, help="Beams of a beam search.")] = 1,
    stream: Annotated[bool, typer.Option("--stream", help="Print while the text is written.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
) -> None:
    """Continue a text with any causal language model of transformers, ours included."""
    from nestling.recipes.language.generate import continue_text
    from nestling.recipes.language.load import load_model

    loaded, tokenizer = load_model(model)

    def show(text: str) -> None:
        typer.echo(text, nl=False)

    if stream:
        typer.echo(prompt, nl=False)
    text = continue_text(
        loaded,
        tokenizer,
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        beams=beams,
        seed=seed,
        receive=show if stream else None,
    )
    typer.echo("" if stream else prompt + text)
