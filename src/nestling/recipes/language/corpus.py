"""Texts to train on: a file, a folder, a domain that every machine has, or a data set of the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nestling.errors import DataError, InputError, ResourceError
from nestling.recipes.files import plain_errors
from nestling.streams.folder import natural_order
from nestling.streams.text_sources import SOURCES

__all__ = ["PARTS", "Corpus", "find_corpus", "read_text", "split_corpus"]

PARTS = ("train", "validation", "test")
# Documents by part; a part that the data does not have is missing.
Corpus = dict[str, list[bytes]]

_ENDINGS = (".txt", ".md", ".jsonl")
_PART_NAMES = {"train": "train", "valid": "validation", "validation": "validation", "dev": "validation", "test": "test"}
_MANY = 20  # from so many documents on, whole ones are held out


def find_corpus(data: str, *, column: str = "text") -> Corpus:
    """The documents that a user names.

        FILE                 one document; of a .jsonl file one a line, in the field `column`
        FOLDER               its .txt, .md and .jsonl files, subfolders too; files called train, valid, validation, dev
                             or test are those parts
        FOLDER/en_*.txt      the files of that pattern, as one folder of documents
        documentation ...    texts that come with Python (`nestling.streams.text_sources`)
        owner/name[:config]  a data set of the Hugging Face hub, with the package `datasets`

    Raises:
        DataError: nothing of that name, no text in it, or no UTF-8.
        ResourceError: the hub is out of reach, or `datasets` is not installed.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        return _folder(path, column)
    if path.exists():
        return {"train": read_text(path, column=column)}
    if any(letter in path.name for letter in "*?["):
        return _pattern(path, column)
    if data in SOURCES:
        return {"train": list(SOURCES[data]())}
    if data.partition(":")[0].count("/") == 1 and not data.startswith((".", "/", "~")) and not path.suffix:
        return _hub(data, column)
    raise DataError(
        f"no data at {data!r}: expected a file, a folder, one of {', '.join(SOURCES)}, or a hub name owner/name"
    )


def split_corpus(corpus: Mapping[str, list[bytes]], *, validation: float, test: float, seed: int) -> Corpus:
    """All three parts; those that are missing are taken from the training part.

    From 20 documents on, whole documents are held out, drawn with the seed. Fewer are cut, each, by position: training
    comes first, then validation, then test, at ends of lines where there are some.

    Args:
        corpus: of `find_corpus`.
        validation, test: shares of the training part, in [0, 1); used where the part is missing.
        seed: draws documents.

    Raises:
        InputError: shares out of range.
    """
    if min(validation, test) < 0 or validation + test >= 1:
        raise InputError(f"expected shares of validation and test >= 0 and together below 1, got {validation}, {test}")
    shares = {"validation": validation, "test": test}
    wanted = {part: share for part, share in shares.items() if part not in corpus}
    found = {part: list(documents) for part, documents in corpus.items()}
    documents, found["train"] = found["train"], []
    cut = _by_document(documents, wanted, seed) if len(documents) >= _MANY else _by_position(documents, wanted)
    for part, pieces in cut.items():
        found.setdefault(part, []).extend(pieces)
    return {part: found.get(part, []) for part in PARTS}


def read_text(path: Path, *, column: str = "text") -> list[bytes]:
    """The documents of a file. Raises DataError for a file without text or with bytes that are no UTF-8."""
    with plain_errors("read", path):
        content = path.read_bytes()
    if not content.strip():
        raise DataError(f"{path} is empty: give it text or take it out")
    if path.suffix == ".jsonl":
        return _json_lines(path, content, column)
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8 text") from error
    if b"\0" in content:
        raise DataError(f"{path} holds zero bytes: it is not a text file")
    return [content]


def _folder(folder: Path, column: str) -> Corpus:
    with plain_errors("read", folder):
        paths = [path for path in folder.rglob("*") if path.suffix in _ENDINGS and not path.name.startswith(".")]
    named = [path for path in paths if path.stem in _PART_NAMES]
    chosen = named if any(_PART_NAMES[path.stem] == "train" for path in named) else paths
    if not chosen:
        raise DataError(f"{folder} has no {', '.join(_ENDINGS)} files: put text into it")
    corpus: Corpus = {}
    for path in sorted(chosen, key=lambda each: natural_order(str(each.relative_to(folder)))):
        part = _PART_NAMES[path.stem] if chosen is named else "train"
        corpus.setdefault(part, []).extend(read_text(path, column=column))
    return corpus


def _pattern(pattern: Path, column: str) -> Corpus:
    with plain_errors("read", pattern.parent):
        paths = sorted(pattern.parent.glob(pattern.name), key=lambda each: natural_order(each.name))
    if not paths:
        raise DataError(f"no file fits {pattern}: expected texts of that pattern")
    return {"train": [document for path in paths for document in read_text(path, column=column)]}


def _json_lines(path: Path, content: bytes, column: str) -> list[bytes]:
    documents = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            documents.append(_text_of(json.loads(line), column).encode())
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{path}, line {number}: expected a JSON object with a text in {column!r} ({error}); "
                "give the field with --column"
            ) from error
    return documents


def _text_of(row: Any, column: str) -> str:
    text = row[column]
    if not isinstance(text, str):
        raise TypeError(f"{column!r} holds {type(text).__name__}")
    return text


def _hub(data: str, column: str) -> Corpus:
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]  an extra
    except ImportError as error:
        raise ResourceError(
            f"{data!r} is no file or folder here; data sets of the hub need: pip install 'nestling[train]'"
        ) from error
    name, _, config = data.partition(":")
    try:
        found: Any = load_dataset(name, config or None)
    except Exception as error:  # datasets raises many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ResourceError(f"cannot load the data set {data!r} from the hub: {reason}") from error
    corpus: Corpus = {}
    for split, rows in found.items():
        if column not in rows.column_names:
            raise DataError(f"{data} has no column {column!r}: there are {', '.join(rows.column_names)}; use --column")
        part = _PART_NAMES.get(split)
        if part:
            corpus.setdefault(part, []).extend(text.encode() for text in rows[column] if text)
    if "train" not in corpus:
        raise DataError(f"{data} has no split 'train': there are {', '.join(found)}")
    return corpus


def _by_document(documents: Sequence[bytes], shares: Mapping[str, float], seed: int) -> Corpus:
    order = np.random.default_rng(seed).permutation(len(documents)).tolist()
    found: Corpus = {}
    for part, share in shares.items():
        count = max(1, round(share * len(documents))) if share else 0
        found[part], order = [documents[place] for place in sorted(order[:count])], order[count:]
    found["train"] = [documents[place] for place in sorted(order)]
    return found


def _by_position(documents: Sequence[bytes], shares: Mapping[str, float]) -> Corpus:
    found: Corpus = {part: [] for part in ("train", *shares)}
    for document in documents:
        left = 1 - sum(shares.values())
        first, begin = "train", 0
        for part, share in shares.items():
            end = _line_end(document, round(left * len(document)))
            found[first].append(document[begin:end])
            first, begin, left = part, end, left + share
        found[first].append(document[begin:])
    return {part: [piece for piece in pieces if piece] for part, pieces in found.items()}


def _line_end(document: bytes, place: int, *, reach: int = 4096) -> int:
    """The end of the line at `place`, or where a character begins if the line is long."""
    found = document.find(b"\n", place, place + reach)
    if found >= 0:
        return found + 1
    while place < len(document) and document[place] & 0xC0 == 0x80:
        place += 1
    return place
