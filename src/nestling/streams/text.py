"""Language modelling over bytes: one domain after another, scored in bits per byte."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nestling.errors import DataError, InputError, UnknownNameError
from nestling.streams.base import Examples, Experience, Predictor, Stream, Training
from nestling.streams.byte_model import BYTES, make_byte_model
from nestling.streams.text_sources import SOURCES, book_domains, drop_repeats

TRAINING = Training(epochs=4, batch_size=8, lr=2e-3)


def text_stream(
    *,
    books: str | Path | None = None,
    domains: Sequence[str] = tuple(SOURCES),
    length: int = 256,
    train_bytes: int = 200_000,
    test_bytes: int = 40_000,
    seed: int = 0,
) -> Stream:
    """Domains that every machine has, then one per language of a folder of books.

    documentation (English), code (Python), headers (C++), names (Unicode's character table), images (digits as
    tables of numbers). Whole documents are held out for the test part; nothing is fetched. The bytes depend on the
    versions of Python and of the packages, so figures compare within one machine (`source_hash` says which).

    Args:
        books: folder of `LANGUAGE_title.txt`; None for only what the machine has.
        domains: which of the machine's own domains, in order of arrival.
        length: bytes a window, > 0.
        train_bytes: at most so many a domain.
        test_bytes: at most so many a domain, and at most a fifth of it.
        seed: draws which documents are held out.
    Raises: UnknownNameError for an unknown domain, DataError for a folder without text.
    """
    documents: dict[str, Sequence[bytes]] = {name: _own_documents(name) for name in domains}
    if books is not None:
        documents.update(book_domains(Path(books)))
    experiences = tuple(
        text_experience(name, found, length=length, train_bytes=train_bytes, test_bytes=test_bytes, seed=seed)
        for name, found in documents.items()
    )
    return Stream(
        name="text",
        kind="language",
        experiences=experiences,
        num_outputs=BYTES,
        metric="bits per byte",
        higher_is_better=False,
        make_model=make_byte_model,
        evaluate=bits_per_byte,
        training=TRAINING,
    )


def text_experience(
    name: str, documents: Sequence[bytes], *, length: int, train_bytes: int, test_bytes: int, seed: int
) -> Experience:
    """One domain: documents in a seeded order, the first ones are the test part, the following ones train.

    Paragraphs that were in an earlier document are dropped before, so the test part is not quoted in training.
    Raises: DataError when there is too little text for a window in each part.
    """
    order = np.random.default_rng(seed).permutation(len(documents))
    pool = [windows(text, length=length) for text in drop_repeats([documents[i] for i in order])]
    sizes = np.cumsum([len(part) for part in pool]) * length
    total = int(sizes[-1]) if len(sizes) else 0
    wanted = min(test_bytes, total // 5)
    cut = int(np.searchsorted(sizes, wanted)) + 1
    test, train = pool[:cut], pool[cut:]
    if not any(len(part) for part in train) or not any(len(part) for part in test):
        raise DataError(
            f"domain {name!r} has {total} bytes in windows of {length}: expected at least two documents with a "
            "window each; give more text or a smaller length"
        )
    return Experience(
        name=name, train=_examples(train, train_bytes // length), test=_examples(test, test_bytes // length)
    )


def windows(text: bytes, *, length: int) -> Tensor:
    """Consecutive pieces [N, length + 1] uint8 of one document; neighbours share a byte, the rest is dropped.

    Raises: InputError when length is not positive.
    """
    if length < 1:
        raise InputError(f"expected a window length of at least 1 byte, got {length}")
    count = max(0, (len(text) - 1) // length)
    if count == 0:
        return torch.empty(0, length + 1, dtype=torch.uint8)
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return data[: count * length + 1].unfold(0, length + 1, length)


def bits_per_byte(predictor: Predictor, experience: Experience, *, batch_size: int = 64) -> float:
    """Mean surprise of the test part in bits: -sum log2 p(target) / number of targets.

    p is the softmax of the predictor's outputs [N, L, 256], so every strategy is scored as a normalised distribution.
    """
    test = experience.test
    total = 0.0
    for start in range(0, len(test), batch_size):
        logits = predictor(test.inputs[start : start + batch_size]).double()
        log_probs = torch.log_softmax(logits, dim=-1)
        total -= log_probs.gather(-1, test.targets[start : start + batch_size, :, None]).sum().item()
    return total / math.log(2) / test.targets.numel()


def _examples(parts: Sequence[Tensor], limit: int) -> Examples:
    pieces = torch.cat(list(parts))[: max(1, limit)].long()
    return Examples(inputs=pieces[:, :-1].contiguous(), targets=pieces[:, 1:].contiguous())


@functools.cache
def _own_documents(name: str) -> tuple[bytes, ...]:
    if name not in SOURCES:
        raise UnknownNameError("text domain", name, SOURCES)
    return tuple(SOURCES[name]())
