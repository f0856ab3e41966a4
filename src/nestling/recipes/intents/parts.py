"""Texts of the intent data sets, cut as the streams cut them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from nestling.streams import Stream
from nestling.streams.intents import (
    FOLD_SEED,
    NUM_FOLDS,
    Encoder,
    banking77_stream,
    clinc150_stream,
    stratified_folds,
)
from nestling.streams.intents_files import Sentences, read_banking77, read_clinc150

__all__ = ["DATA", "Parts", "parts", "stream_of", "texts_of"]


DATA = ("clinc150", "banking77")


@dataclass(frozen=True)
class Parts:
    """What is learned, and what is asked."""

    train: Sentences
    test: Sentences


def parts(name: str, seed: int, folder: Path | None, *, validate: bool) -> Parts:
    """The two parts of a seed. Args: name: of `DATA`.   validate: CLINC150's validation part in place of its test."""
    if name == "clinc150":
        data = read_clinc150(folder)
        return Parts(data.train, data.validation if validate else data.test)
    sentences = read_banking77(folder)
    fold_of = stratified_folds(torch.tensor(sentences.labels), NUM_FOLDS, FOLD_SEED)
    asked = fold_of == seed % NUM_FOLDS
    return Parts(_chosen(sentences, (~asked).nonzero().flatten()), _chosen(sentences, asked.nonzero().flatten()))


def stream_of(name: str, folder: Path | None, encoder: Encoder, *, validate: bool) -> Stream:
    """The stream of a data set on features of an encoder."""
    if name == "clinc150":
        return clinc150_stream(folder=folder, part="validation" if validate else "test", encoder=encoder)
    return banking77_stream(folder=folder, encoder=encoder)


def texts_of(name: str, folder: Path | None, *, validate: bool) -> list[list[str]]:
    """All sentences of a data set, in lists that are the same for every seed."""
    if name == "clinc150":
        data = parts(name, 0, folder, validate=validate)
        return [data.test.texts, data.train.texts]
    return [read_banking77(folder).texts]


def _chosen(sentences: Sentences, places: torch.Tensor) -> Sentences:
    wanted = places.tolist()
    texts, labels = [sentences.texts[n] for n in wanted], [sentences.labels[n] for n in wanted]
    return Sentences(texts=texts, labels=labels, classes=sentences.classes)
