"""Where the tasks find their texts."""

from __future__ import annotations

import os
from pathlib import Path

from nestling.errors import DataError

__all__ = ["books", "find_file", "read_text"]


def find_file(data: Path | None, names: tuple[str, ...], what: str) -> Path:
    """The first of `names` (paths below a data folder) that exists.

    Looked for in `data`, else in $NESTLING_DATA, else in ../shared/data. `data` may be the file itself.

    Raises:
        DataError: none is there; the message says where it was looked for.
    """
    if data is not None and data.is_file():
        return data
    places = _places(data)
    for place in places:
        for name in (*names, *(Path(name).name for name in names)):
            for found in sorted(place.glob(name)):
                return found
    looked = ", ".join(str(place) for place in places)
    raise DataError(
        f"{what}: expected {' or '.join(names)} in {looked}: put the file there, or name its folder with --data or "
        "NESTLING_DATA"
    )


def books(data: Path | None) -> str:
    """Real text as haystack, whitespace as single spaces: a .txt file, or the .txt files of a folder one after another.

    A folder with a folder `books` inside stands for that. English books (`en_*.txt`) come first.

    Raises:
        DataError: no such text.
    """
    if data is not None and data.is_file():
        return " ".join(read_text(data).split())
    places = _places(data)
    for place in places:
        for folder in (place / "books", place):
            files = sorted(folder.glob("*.txt"), key=lambda path: (not path.name.startswith("en_"), path.name))
            files = [path for path in files if path.name != "ORIGIN.txt"]
            if files:
                return " ".join(word for path in files for word in read_text(path).split())
    raise DataError(
        f"real text as haystack: expected .txt files in {', '.join(map(str, places))} (or in `books` there): name a "
        "file or folder with --data or NESTLING_DATA, or take a task with noise (needle_single_1)"
    )


def read_text(path: Path) -> str:
    """A UTF-8 file. Raises DataError when it cannot be read as such."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a text file in UTF-8: {error}") from error


def _places(data: Path | None) -> list[Path]:
    if data is not None:
        return [data]
    named = os.environ.get("NESTLING_DATA")
    return [Path(named)] if named else [Path("../shared/data")]
