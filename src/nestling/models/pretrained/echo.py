"""Sentences as vectors of a causal language model: its states while it reads the sentence a second time."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional

from nestling.errors import DataError, InputError, ResourceError
from nestling.files import make_folder, write_atomically
from nestling.models.nested_lm.calibration_texts import PROSE, asked
from nestling.models.nested_lm.measured import model_hash
from nestling.streams.sentence_features import cache_folder, check_texts

__all__ = ["DEPTHS", "echo_features", "echo_states"]

FIRST, SECOND = "The request: ", "\nThe same request: "
DEPTHS = (0.1, 0.3, 0.8, 0.9, 1.0)
MAX_TOKENS = 256
BLOCK, BATCH = 256, 32

Report = Callable[[int, int], None]


def echo_features(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    depths: Sequence[float] = DEPTHS,
    progress: Report | None = None,
    cache: bool = True,
) -> Tensor:
    """Standardised echo states of several layers, unit length per layer, side by side.

        x = [z_l / |z_l| for l in layers] / sqrt(number of layers),   z_l = (m_l - mean_l) / std_l

    with m_l of `echo_states`; mean and standard deviation are those of `NEUTRAL` sentences in the package, so that the
    features of a sentence depend on no other sentence of the user.

    Args: as of `echo_states`.
    Returns: [N, number of depths * D] float32.
    Raises: what `echo_states` raises.
    """
    neutral = echo_states(model, tokenizer, NEUTRAL, depths=depths, cache=cache)
    states = echo_states(model, tokenizer, texts, depths=depths, progress=progress, cache=cache)
    scores = (states - neutral.mean(0)) / neutral.std(0).clamp_min(1e-6)
    return functional.normalize(scores, dim=-1).flatten(1) / len(depths) ** 0.5


def echo_states(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    depths: Sequence[float] = DEPTHS,
    progress: Report | None = None,
    cache: bool = True,
) -> Tensor:
    """Mean state of a sentence's tokens when the model reads it for the second time.

    A causal model knows nothing of a sentence's end while it reads its beginning; at the second reading every token
    has seen all of it. The model is frozen and nothing is fitted.

    Source: Springer et al., Repetition Improves Language Model Embeddings, ICLR 2025.

    Args:
        model: a causal language model of transformers, with its tokenizer.
        texts: sentences; tokens beyond `MAX_TOKENS` of each are not read.
        depths: layers, 0 the embeddings, 1 the last; a share is rounded to the nearest layer.
        progress: called with (sentences done, sentences in all).
        cache: keep the result in the user's cache folder, 256 sentences at a time: a second start goes on. A file that
            is damaged or cannot be written costs the time of reading again and nothing else.
    Returns: [N, number of depths, D] float32, rounded to bfloat16.
    Raises: DataError for no texts or an empty one; InputError for depths out of range.
    """
    check_texts(texts)
    if not depths or min(depths) < 0 or max(depths) > 1:
        raise InputError(f"depths {list(depths)}: expected shares from 0 (embeddings) to 1 (the last layer)")
    number = model.config.num_hidden_layers
    layers = [round(depth * number) for depth in depths]
    reader = _Reader(model, tokenizer, layers)
    found = []
    for start in range(0, len(texts), BLOCK):
        rows = [reader.row(text) for text in texts[start : start + BLOCK]]
        found.append(reader.kept(rows) if cache else reader.read(rows))
        if progress:
            progress(start + len(rows), len(texts))
    return torch.cat(found).float()


class _Reader:
    def __init__(self, model: Any, tokenizer: Any, layers: Sequence[int]) -> None:
        self.model, self.tokenizer, self.layers = model, tokenizer, tuple(layers)
        self.begin = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
        self.first, self.second = self._ids(FIRST), self._ids(SECOND)
        self.hash = model_hash(model)

    def row(self, text: str) -> tuple[list[int], int]:
        """Ids of a sentence said twice, and how many last ones are the second time."""
        said = self._ids(text)[:MAX_TOKENS]
        if not said:
            raise DataError(f"text {text!r}: the tokenizer finds nothing in it")
        return [*self.begin, *self.first, *said, *self.second, *said], len(said)

    def kept(self, rows: Sequence[tuple[list[int], int]]) -> Tensor:
        """From the cache, or read and then kept; a damaged file is made again."""
        key = hashlib.sha256(json.dumps([self.hash, self.layers, rows]).encode()).hexdigest()[:32]
        path = cache_folder() / "echo" / f"{key}.safetensors"
        if (states := _load(path)) is not None:
            return states
        states = self.read(rows)
        with contextlib.suppress(ResourceError):
            make_folder(path.parent)
            write_atomically(path, save({"states": states}))
        return states

    @torch.no_grad()
    def read(self, rows: Sequence[tuple[list[int], int]]) -> Tensor:
        """Mean states [N, layers, D] bfloat16, in batches of like length, padded behind the end."""
        order = sorted(range(len(rows)), key=lambda n: len(rows[n][0]))
        found: dict[int, Tensor] = {}
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            ids = torch.zeros(len(batch), len(rows[batch[-1]][0]), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for place, n in enumerate(batch):
                row = rows[n][0]
                ids[place, : len(row)], mask[place, : len(row)] = torch.tensor(row), 1
            device = next(self.model.parameters()).device
            states = self.model.base_model(
                input_ids=ids.to(device), attention_mask=mask.to(device), output_hidden_states=True, use_cache=False
            ).hidden_states
            for place, n in enumerate(batch):
                end, said = len(rows[n][0]), rows[n][1]
                means = [states[layer][place, end - said : end].float().mean(0) for layer in self.layers]
                found[n] = torch.stack(means).bfloat16().cpu()
        return torch.stack([found[n] for n in range(len(rows))])

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _load(path: Path) -> Tensor | None:
    try:
        return load_file(path)["states"]
    except (OSError, SafetensorError, KeyError):
        return None


NEUTRAL = (
    *(text for _, _, text in asked()),
    *(sentence for text in PROSE for sentence in text.split(". ")),
)
