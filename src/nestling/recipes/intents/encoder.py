"""Features of a language model, each sentence read once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nestling.models.pretrained.echo import echo_features
from nestling.streams.intents import Encoder

__all__ = ["EchoEncoder"]

_SAY_EVERY = 30.0  # seconds


class EchoEncoder:
    """`echo_features` of a frozen model, remembered by sentence.

    Args: model, tokenizer: of transformers.   name: of the model, for the record.   report: told how far it is.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, report: Callable[[str], None]) -> None:
        self.model, self.tokenizer, self.name, self.report = model, tokenizer, name, report
        self._known: dict[str, Tensor] = {}

    def prepare(self, texts: Sequence[str]) -> None:
        """Read sentences (from the cache where they are); what was read before must come in the same lists again."""
        said = [time.monotonic()]

        def tell(done: int, total: int) -> None:
            if time.monotonic() - said[0] > _SAY_EVERY:
                said[0] = time.monotonic()
                self.report(f"features: {done} of {total} sentences")

        features = echo_features(self.model, self.tokenizer, texts, progress=tell)
        self._known.update(zip(texts, features, strict=True))

    def read(self, texts: Sequence[str]) -> Tensor:
        """[N, D] float32."""
        if unknown := [text for text in dict.fromkeys(texts) if text not in self._known]:
            self.prepare(unknown)
        return torch.stack([self._known[text] for text in texts])

    def for_streams(self, identity: Mapping[str, str]) -> Encoder:
        """What the streams take. Args: identity: for the record of a run, which goes on only where it is the same."""
        features = f"{self.name}, frozen; mean state at the second of two readings, five layers"
        details = {"features": features, **identity}
        return Encoder(read=lambda texts, _: self.read(texts), details=details)
