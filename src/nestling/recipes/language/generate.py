"""Text that a model continues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nestling.errors import InputError
from nestling.recipes.language.load import quiet_transformers

__all__ = ["continue_text"]


def continue_text(
    model: Any,
    tokenizer: Any,
    prompt: str,
    *,
    max_new_tokens: int = 200,
    temperature: float = 0.0,
    top_p: float = 1.0,
    beams: int = 1,
    seed: int = 0,
    receive: Callable[[str], None] | None = None,
) -> str:
    """What the model writes after a prompt, by transformers' `generate`.

    Args:
        model, tokenizer: of `load_model`.
        prompt: text; may not be empty, unless the tokenizer has a token for the beginning.
        max_new_tokens: at most, >= 1.
        temperature: 0 takes the likeliest token; above it tokens are drawn.
        top_p: share of the probability that is drawn from, in (0, 1].
        beams: of a beam search; 1 is none.
        seed: of what is drawn.
        receive: is handed the text piece by piece as it comes (not with beams).

    Returns:
        the new text, without the prompt.

    Raises:
        InputError: values out of range, or nothing to begin with.
    """
    if max_new_tokens < 1 or beams < 1 or temperature < 0 or not 0 < top_p <= 1:
        raise InputError(
            "expected max_new_tokens and beams >= 1, temperature >= 0 and top_p in (0, 1], got "
            f"{max_new_tokens}, {beams}, {temperature}, {top_p}"
        )
    if receive is not None and beams > 1:
        raise InputError("text of a beam search is known at its end: leave out --stream or --beams")
    begin = [] if prompt or tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = [*begin, *tokenizer(prompt, add_special_tokens=not begin).input_ids]
    if not ids:
        raise InputError("the prompt is empty, and this tokenizer has no token for the beginning: give --prompt")
    given = torch.tensor([ids], device=model.device)
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "num_beams": beams, "do_sample": temperature > 0}
    if temperature > 0:
        options |= {"temperature": temperature, "top_p": top_p, "top_k": 0}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if pad is not None:
        options["pad_token_id"] = pad
    if receive is not None:
        options["streamer"] = _streamer(tokenizer, receive)
    torch.manual_seed(seed)
    with quiet_transformers(), torch.no_grad():
        found = model.generate(given, attention_mask=torch.ones_like(given), **options)
    return tokenizer.decode(found[0, len(ids) :], skip_special_tokens=True)


def _streamer(tokenizer: Any, receive: Callable[[str], None]) -> Any:
    from transformers import TextStreamer

    class Receiver(TextStreamer):
        """Hands finalized text over instead of printing it."""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            del stream_end
            receive(text)

    return Receiver(tokenizer, skip_prompt=True, skip_special_tokens=True)
