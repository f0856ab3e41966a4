"""How well a model predicts a text: bits per byte, and perplexity by position in the context."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from nestling.errors import DataError, InputError
from nestling.recipes.files import make_folder, write_atomically
from nestling.recipes.language.load import quiet_transformers

__all__ = ["Evaluation", "Position", "Text", "evaluate_text", "read_tokens", "save_evaluations"]

_PIECE = 4096  # tokens that a Hope model reads at once; the state goes on from piece to piece
_ROW_TOKENS = 16384  # tokens of a batch
_FIRST = 16


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text as tokens.

    ids:   [N] int64.   bytes: [N] int64, bytes of the text that each token stands for.
    """

    ids: Tensor
    bytes: Tensor


@dataclass(frozen=True, kw_only=True)
class Position:
    """Tokens first to last of a context, counted from 1: their mean loss.

    bits_per_byte: over them.   perplexity: exp of the mean loss per token.
    """

    first: int
    last: int
    bits_per_byte: float
    perplexity: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How well contexts of one length are predicted.

    length: tokens of a context.   contexts: read.   tokens: predicted.   memory: "frozen" or "learning".
    bits_per_byte, perplexity: over all.   positions: by place in the context.
    """

    length: int
    memory: str
    contexts: int
    tokens: int
    bits_per_byte: float
    perplexity: float
    positions: tuple[Position, ...]


def read_tokens(documents: Sequence[bytes], tokenizer: Any) -> Text:
    """Documents as tokens, with the bytes of each.

    Raises:
        InputError: a tokenizer that cannot say where its tokens lie in the text.
    """
    ids: list[int] = []
    counts: list[int] = []
    for document in documents:
        text = document.decode("utf-8", errors="replace")
        try:
            found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        except NotImplementedError as error:
            raise InputError("the tokenizer has no offsets: a fast tokenizer of transformers is needed") from error
        ends = [end for _, end in found["offset_mapping"]]
        ids += found["input_ids"]
        counts += _byte_counts(text, ends)
    return Text(ids=torch.tensor(ids, dtype=torch.int64), bytes=torch.tensor(counts, dtype=torch.int64))


def _byte_counts(text: str, ends: list[int]) -> list[int]:
    """Bytes of every token: those between the end of the one before and its own, in characters; together all."""
    widths = np.array([len(letter.encode()) for letter in text], dtype=np.int64)
    until = np.concatenate([[0], np.cumsum(widths)])
    places = until[np.maximum.accumulate(np.array(ends, dtype=np.int64))] if ends else np.empty(0, dtype=np.int64)
    return np.diff(places, prepend=0).tolist()


def evaluate_text(model: Any, text: Text, *, length: int, memory: str, most_tokens: int | None = None) -> Evaluation:
    """Cut a text into contexts of `length` tokens, each read from the initial state, and predict every next token.

    frozen    levels stand still.
    learning  the levels of a Hope model move while it reads, from its weights at the beginning of every context.
              Every token is predicted before anything is learned from it.

    Args:
        model: a causal language model; for "learning" one that `load_model` made so.
        text: of `read_tokens`.
        length: tokens of a context that are predicted, >= 1; the token before the first is read too.
        memory: "frozen" or "learning".
        most_tokens: of the text, from its beginning; None is all.

    Raises:
        DataError: the text is shorter than a context.
        InputError: a length below 1, or levels that are to move and would not move before a context ends.
    """
    if length < 1:
        raise InputError(f"length: expected a number >= 1, got {length}")
    if memory == "learning" and length <= min(model.config.update_periods):
        raise InputError(
            f"length: expected more than {min(model.config.update_periods)} tokens, which the first level reads before "
            f"it moves, got {length}: choose longer contexts or shorter periods (--period, once for every level)"
        )
    total = len(text.ids) if most_tokens is None else min(len(text.ids), most_tokens + 1)
    count = (total - 1) // length
    if count < 1:
        raise DataError(f"the text has {total} tokens: expected at least {length + 1} for a context of {length}")
    windows = text.ids[: count * length + 1].unfold(0, length + 1, length)
    weights = text.bytes[1 : count * length + 1].view(count, length)
    rows = max(1, _ROW_TOKENS // length)
    device = next(model.parameters()).device
    with quiet_transformers():
        parts = [_losses(model, part.to(device), memory == "learning").cpu() for part in windows.split(rows)]
    losses = torch.cat(parts).double()
    return Evaluation(
        length=length,
        memory=memory,
        contexts=count,
        tokens=losses.numel(),
        bits_per_byte=losses.sum().item() / math.log(2) / weights.sum().item(),
        perplexity=losses.mean().exp().item(),
        positions=_positions(losses, weights),
    )


def _losses(model: Any, windows: Tensor, learning: bool) -> Tensor:
    """Loss [B, T] in nats of every token of windows [B, T + 1] but the first."""
    if learning:
        from nestling.models.hope import read

        return read(model, windows)[0]
    # The state of a Hope model goes on from piece to piece; others read a context at once.
    piece = _PIECE if model.config.model_type == "hope" else windows.shape[1]
    cache, found = None, []
    for ids in windows[:, :-1].split(piece, dim=1):
        with torch.no_grad():
            outputs = (
                model(ids, past_key_values=cache, use_cache=True) if piece == _PIECE else model(ids, use_cache=False)
            )
        cache, first = outputs.get("past_key_values"), sum(part.shape[1] for part in found)
        labels = windows[:, first + 1 : first + 1 + ids.shape[1]]
        found.append(F.cross_entropy(outputs.logits.float().mT, labels, reduction="none"))
    return torch.cat(found, dim=1)


def _positions(losses: Tensor, weights: Tensor) -> tuple[Position, ...]:
    """Means over places 1 to 16, 17 to 32, 33 to 64 and so on."""
    found, first, length = [], 0, losses.shape[1]
    while first < length:
        last = min(length, max(_FIRST, 2 * first))
        part, size = losses[:, first:last], weights[:, first:last].sum().item()
        found.append(
            Position(
                first=first + 1,
                last=last,
                bits_per_byte=part.sum().item() / math.log(2) / max(1, size),
                perplexity=part.mean().exp().item(),
            )
        )
        first = last
    return tuple(found)


def save_evaluations(evaluations: Sequence[Evaluation], out: Path, about: dict[str, Any]) -> Path:
    """Write `evaluation.json` and `evaluation.png` into a folder; returns the first."""
    make_folder(out)
    content = {**about, "evaluations": [asdict(each) for each in evaluations]}
    write_atomically(out / "evaluation.json", json.dumps(content, indent=1).encode())
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes: Any = figure.subplots()
        for each in evaluations:
            edges = [1, *(position.last for position in each.positions)]
            heights = [position.perplexity for position in each.positions]
            label = f"{each.memory}, contexts of {each.length:,}: {each.bits_per_byte:.3f} bits per byte"
            axes.step(edges, [heights[0], *heights], where="pre", label=label)
        axes.set(xscale="log", yscale="log", xlabel="position in the context [tokens]", ylabel="perplexity per token")
        axes.legend(frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
    write_atomically(out / "evaluation.png", buffer.getvalue())
    return out / "evaluation.json"
