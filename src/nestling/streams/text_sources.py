"""Documents that every machine with this package has, by domain: the raw material of the text stream."""

from __future__ import annotations

import importlib
import importlib.util
import sysconfig
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from nestling.errors import DataError, ResourceError

Source = Callable[[], list[bytes]]


def documentation() -> list[bytes]:
    """Python's own documentation topics (what `help("for")` prints), one document a topic."""
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except (ImportError, AttributeError) as error:
        raise ResourceError(
            "Python's documentation topics (pydoc_data.topics) are missing from this Python: install the full "
            "standard library (Debian: libpython3-stdlib) or leave out the domain 'documentation'"
        ) from error
    return [topics[name].encode() for name in sorted(topics)]


def code() -> list[bytes]:
    """The standard library's top-level modules, one document a file."""
    return _files(Path(sysconfig.get_path("stdlib")), "*.py", "the standard library's source")


def headers() -> list[bytes]:
    """PyTorch's own C++ headers (c10), one document a file."""
    return _files(_package("torch") / "include" / "c10", "**/*.h", "PyTorch's C++ headers")


def names() -> list[bytes]:
    """The Unicode character table, a line a character `code;NAME;category;width`, one document for 128 codes.

    Ideographs and others whose name only repeats the code are left out.
    """
    documents = []
    for start in range(0x20, 0x20000, 128):
        lines = [_character_line(code) for code in range(start, start + 128)]
        text = "".join(line for line in lines if line)
        if text:
            documents.append(text.encode())
    return documents


def images() -> list[bytes]:
    """scikit-learn's handwritten digits written as tables of numbers, one document for 8 images."""
    from sklearn.datasets import load_digits  # here, because importing it takes seconds

    data = load_digits(return_X_y=True)[0].astype(int).reshape(-1, 8, 8)
    rendered = ["\n".join(" ".join(str(value) for value in row) for row in image) + "\n\n" for image in data]
    return ["".join(rendered[start : start + 8]).encode() for start in range(0, len(rendered), 8)]


SOURCES: dict[str, Source] = {
    "documentation": documentation,
    "code": code,
    "headers": headers,
    "names": names,
    "images": images,
}


def book_domains(folder: Path, *, section_bytes: int = 4096) -> dict[str, list[bytes]]:
    """Further domains from a folder of `.txt` files.

    Files are named `LANGUAGE_title.txt`; those of one language make one domain, other files are left alone.
    A document is a run of whole paragraphs of about `section_bytes`.

    Raises: DataError when the folder is missing or holds no such file.
    """
    if not folder.is_dir():
        raise DataError(f"expected a folder of .txt books, got {str(folder)!r}, which is not a folder")
    domains: dict[str, list[bytes]] = {}
    for path in sorted(folder.glob("*_*.txt")):
        domain = path.stem.split("_", 1)[0]
        domains.setdefault(domain, []).extend(_sections(path.read_bytes(), section_bytes))
    if not domains:
        raise DataError(f"folder {str(folder)!r} has no books: expected files named LANGUAGE_title.txt")
    return domains


def drop_repeats(documents: Sequence[bytes], *, min_bytes: int = 40) -> list[bytes]:
    """The documents without paragraphs that an earlier document already had (licences, quoted sections).

    A paragraph ends at an empty line; two are equal when their words are. Paragraphs shorter than `min_bytes` stay.
    """
    seen: set[bytes] = set()
    kept = []
    for document in documents:
        fresh = []
        for paragraph in document.replace(b"\r\n", b"\n").split(b"\n\n"):
            words = b" ".join(paragraph.split())
            if len(words) < min_bytes or words not in seen:
                fresh.append(paragraph)
                seen.add(words)
        kept.append(b"\n\n".join(fresh))
    return kept


def _files(folder: Path, pattern: str, what: str) -> list[bytes]:
    documents = [path.read_bytes() for path in sorted(folder.glob(pattern))]
    if not documents:
        raise ResourceError(f"{what} is not on this machine: expected files {pattern} in {folder}")
    return documents


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ResourceError(f"the package {name} is not installed: pip install {name}")
    return Path(spec.submodule_search_locations[0])


def _character_line(code: int) -> str:
    character = chr(code)
    name = unicodedata.name(character, "")
    if not name or name.endswith(f"{code:X}") or name.startswith("HANGUL SYLLABLE"):
        return ""
    return f"{code:04X};{name};{unicodedata.category(character)};{unicodedata.east_asian_width(character)}\n"


def _sections(book: bytes, size: int) -> list[bytes]:
    sections: list[bytes] = []
    current = b""
    for paragraph in book.replace(b"\r\n", b"\n").split(b"\n\n"):
        current += paragraph + b"\n\n"
        if len(current) >= size:
            sections.append(current)
            current = b""
    return [*sections, current] if current.strip() else sections
