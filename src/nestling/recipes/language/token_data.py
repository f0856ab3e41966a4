"""Tokens on disk, and rows of them in an order that a seed and a step decide alone."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nestling.errors import DataError
from nestling.recipes.files import make_folder, plain_errors, write_atomically
from nestling.recipes.language.corpus import PARTS, Corpus
from nestling.recipes.language.tokenizer import BYTE
from nestling.recipes.typed_json import read_record

__all__ = ["Rows", "TokenData", "encode", "prepare_tokens"]

ABOUT = "about.json"
Tokens = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, kw_only=True)
class PartSize:
    """What a part holds. sha256: of its tokens."""

    documents: int
    bytes: int
    tokens: int
    sha256: str


class TokenData:
    """The tokens of a folder that `prepare_tokens` wrote, read from disk as needed.

    Raises:
        DataError: the folder is not whole.
    """

    def __init__(self, folder: Path) -> None:
        try:
            with plain_errors("read", folder):
                content = json.loads((folder / ABOUT).read_text())
                self.sizes = {part: PartSize(**read_record(PartSize, content[part])) for part in PARTS}
                self.parts: dict[str, Tokens] = {
                    part: np.load(folder / f"{part}.npy", mmap_mode="r" if size.tokens else None)
                    for part, size in self.sizes.items()
                }
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"the tokens in {folder} cannot be read ({error}); choose another folder") from error

    def bytes_per_token(self, part: str) -> float:
        """Bytes of text for one token."""
        size = self.sizes[part]
        return size.bytes / max(1, size.tokens)


def encode(documents: Sequence[bytes], tokenizer: Any, name: str) -> Tokens:
    """All documents as tokens, each with the end token after it; the smallest unsigned type that holds the ids."""
    dtype = np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    pieces: list[Tokens] = []
    for document in documents:
        if name == BYTE:
            ids = np.frombuffer(document, dtype=np.uint8).astype(dtype)
        else:
            ids = np.asarray(tokenizer(document.decode("utf-8"), add_special_tokens=False).input_ids, dtype=dtype)
        pieces += [ids, np.asarray(end, dtype=dtype)]
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=dtype)


def prepare_tokens(folder: Path, corpus: Corpus, tokenizer: Any, name: str) -> TokenData:
    """Write the tokens of every part and what they are; the description comes last, so a kill leaves none."""
    make_folder(folder)
    about = {}
    for part in PARTS:
        tokens = encode(corpus[part], tokenizer, name)
        buffer = io.BytesIO()
        np.save(buffer, tokens)
        write_atomically(folder / f"{part}.npy", buffer.getvalue())
        about[part] = asdict(
            PartSize(
                documents=len(corpus[part]),
                bytes=sum(map(len, corpus[part])),
                tokens=len(tokens),
                sha256=hashlib.sha256(tokens.tobytes()).hexdigest(),
            )
        )
    write_atomically(folder / ABOUT, json.dumps(about, indent=1).encode())
    return TokenData(folder)


class Rows:
    """Training rows by number, the same for every number of processes.

    An epoch cuts the tokens into windows of `length` + 1 that share a token with their neighbours, from a start drawn
    per epoch, and shuffles them. Row n is window n mod N of epoch n div N: nothing but n has to be remembered.

    Args:
        tokens: of the training part.
        length: tokens that are predicted in a row, >= 1.
        seed: of starts and order.

    Raises:
        DataError: fewer tokens than a row needs.
    """

    def __init__(self, tokens: Tokens, length: int, seed: int) -> None:
        self.tokens, self.length, self.seed = tokens, length, seed
        spare = min(length, len(tokens) - length)  # starts that leave room for a window
        if spare < 1:
            raise DataError(
                f"the training part has {len(tokens)} tokens, a row needs {length + 1}: give more text or less --length"
            )
        self.starts, self.count = spare, (len(tokens) - spare) // length
        self._epoch = lru_cache(maxsize=2)(self._draw)

    def take(self, first: int, count: int) -> Tensor:
        """Rows first to first + count - 1 as [count, length + 1] int64."""
        windows = []
        for number in range(first, first + count):
            start, order = self._epoch(number // self.count)
            begin = start + int(order[number % self.count]) * self.length
            windows.append(torch.from_numpy(self.tokens[begin : begin + self.length + 1].astype(np.int64)))
        return torch.stack(windows)

    def _draw(self, epoch: int) -> tuple[int, NDArray[np.int64]]:
        generator = np.random.default_rng([self.seed, epoch])
        return int(generator.integers(self.starts)), generator.permutation(self.count)
