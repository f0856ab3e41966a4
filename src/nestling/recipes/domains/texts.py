"""Domains from books and from sentences of small languages; which part is read and which is held out."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nestling.errors import DataError, ResourceError

__all__ = ["Domain", "find_domains", "parts"]

BOOKS = ("es_don_quijote", "fr_candide", "en_moby_dick")
LANGUAGES = ("kalamang", "daakaka")
UNREAD = "en_war_and_peace"
_BYTES_PER_TOKEN = 6  # more than any of these texts has, so that a cut-out is long enough
_HELD_OUT_FROM = 0.75  # of a text; validation lies in [0.6, 0.75)
_VALIDATE_FROM = 0.6


@dataclass(frozen=True)
class Domain:
    """One text. Args: name.   text: all of it."""

    name: str
    text: str


def find_domains(folder: str | Path | None) -> tuple[list[Domain], Domain]:
    """Domains that are read, and one that never is.

    Args: folder: with books/LANGUAGE_title.txt and LANGUAGE/sentences.tsv; the environment's NESTLING_DATA when None.
    Raises: ResourceError when there is no such folder; DataError naming the file that is missing or unreadable.
    """
    folder = folder or os.environ.get("NESTLING_DATA")
    if not folder:
        raise ResourceError("set NESTLING_DATA to a folder with books/LANGUAGE_title.txt and LANGUAGE/sentences.tsv")
    place = Path(folder).expanduser()
    books = [Domain(name, _read(place / "books" / f"{name}.txt")) for name in BOOKS]
    small = [Domain(name, _sentences(place / name / "sentences.tsv")) for name in LANGUAGES]
    return [*books, *small], Domain(UNREAD, _read(place / "books" / f"{UNREAD}.txt"))


def parts(
    domain: Domain, encode: Callable[[str], list[int]], *, read: int, held_out: int, seed: int
) -> tuple[list[int], list[list[int]], list[list[int]]]:
    """Tokens to read (one run from the first three fifths), and windows of validation and held-out text.

    Where the run begins depends on the seed; the windows are the same for all seeds, spread over their parts.

    Args: read, held_out: numbers of tokens; validation is as long as the held-out part.
    """
    size = len(domain.text)
    wanted = _BYTES_PER_TOKEN * read
    last = max(0, int(_VALIDATE_FROM * size) - wanted)
    start = int(torch.randint(last + 1, (), generator=torch.Generator().manual_seed(seed)))
    run = encode(domain.text[_line(domain.text, start) : min(start + wanted, int(_VALIDATE_FROM * size))])[:read]
    bounds = (int(_VALIDATE_FROM * size), int(_HELD_OUT_FROM * size), size)
    validation, test = (_windows(domain.text[a:b], encode, held_out) for a, b in itertools.pairwise(bounds))
    return run, validation, test


def _windows(text: str, encode: Callable[[str], list[int]], count: int, length: int = 256) -> list[list[int]]:
    number = max(1, count // length)
    starts = [_line(text, int((n + 0.5) * len(text) / number)) for n in range(number)]
    return [encode(text[start : start + _BYTES_PER_TOKEN * length])[:length] for start in starts]


def _line(text: str, start: int) -> int:
    """The beginning of the next line."""
    found = text.find("\n", start)
    return start if found < 0 or found > start + 2000 else found + 1


def _sentences(path: Path) -> str:
    rows = [line.split("\t") for line in _read(path).splitlines()[1:]]
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        raise DataError(f"{path}: expected lines of a sentence, a tab and its English translation")
    return "\n".join(f"{row[0]} = {row[1]}" for row in rows) + "\n"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a text in UTF-8: {error}") from error


def num_bytes(windows: Sequence[list[int]], decode: Callable[[list[int]], str]) -> int:
    """UTF-8 bytes of what is predicted in windows: all but the first token of each."""
    return sum(len(decode(window[1:]).encode()) for window in windows)
