"""Read `.csv` and `.jsonl` files of examples: `text,label`, or numeric columns and `label`."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestling.errors import DataError

TEXT, LABEL = "text", "label"
Label = str | int | float
_EXPECTED = "expected the columns text,label, or numeric columns and label"


@dataclass(frozen=True)
class Table:
    """One file. `values` [N][C] are numbers in the order of `columns`, or texts [N][1] where columns is (text,)."""

    path: Path
    columns: tuple[str, ...]
    values: list[list[Any]]
    labels: list[Label]
    lines: list[int]

    @property
    def has_text(self) -> bool:
        """Whether the examples are texts, not numbers."""
        return self.columns == (TEXT,)


def read_csv(path: Path) -> Table:
    """A comma-separated file with a header. Raises DataError naming file, line and column."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = tuple(name.strip() for name in next(reader, []))
        columns = _check_columns(path, 1, header)
        rows = ((reader.line_num, row) for row in reader if row)
        return _read_rows(path, columns, _csv_rows(path, header, rows))
    except csv.Error as error:
        raise DataError(
            f'{path} line {reader.line_num}: not readable as CSV ({error}); quote texts with "..."'
        ) from error


def read_jsonl(path: Path) -> Table:
    """One JSON object a line. Raises DataError naming file, line and key."""
    columns: tuple[str, ...] = ()
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} line {number}: not a JSON object ({error})") from error
        if not isinstance(row, dict):
            raise DataError(
                f'{path} line {number}: expected an object such as {{"text": ..., "label": ...}}, got {line[:40]!r}'
            )
        columns = columns or _check_columns(path, number, tuple(row))
        if row.keys() != {*columns, LABEL}:
            raise DataError(f"{path} line {number}: expected the keys {_list((*columns, LABEL))}, got {_list(row)}")
        rows.append((number, row))
    return _read_rows(path, columns, iter(rows))


def read_text(path: Path) -> str:
    """A whole text file in UTF-8, a byte order mark removed. Raises DataError when it is empty or something else."""
    content = path.read_bytes()
    if not content.strip():
        raise DataError(f"{path} is empty: give it examples or take it out of the folder")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path} line {line}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if "\0" in text:
        raise DataError(f"{path} holds zero bytes: it is not a text file; take it out of the folder")
    return text


def _csv_rows(
    path: Path, header: Sequence[str], rows: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"{path} line {line}: expected {len(header)} columns ({_list(header)}), got {len(row)}; "
                'quote texts that contain commas with "..."'
            )
        yield line, dict(zip(header, row, strict=True))


def _check_columns(path: Path, line: int, names: Sequence[str]) -> tuple[str, ...]:
    """The columns besides the label."""
    if LABEL not in names:
        raise DataError(f"{path} line {line}: {_EXPECTED}; there is no column 'label' among {_list(names)}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path} line {line}: column {twice[0]!r} is there twice; rename one")
    others = tuple(name for name in names if name != LABEL)
    if not others:
        raise DataError(f"{path} line {line}: {_EXPECTED}; there is only 'label'")
    if TEXT in others and len(others) > 1:
        extra = [name for name in others if name != TEXT]
        raise DataError(f"{path} line {line}: {_EXPECTED}; take out {_list(extra)} beside 'text'")
    return others


def _read_rows(path: Path, columns: tuple[str, ...], rows: Iterator[tuple[int, dict[str, Any]]]) -> Table:
    values: list[list[Any]] = []
    labels: list[Label] = []
    lines: list[int] = []
    for line, row in rows:
        labels.append(_label(path, line, row[LABEL]))
        values.append(
            [_text(path, line, row[TEXT])] if columns == (TEXT,) else [_number(path, line, c, row[c]) for c in columns]
        )
        lines.append(line)
    if not values:
        raise DataError(f"{path} has a header but no examples: add some or take it out of the folder")
    return Table(path, columns, values, labels, lines)


def _text(path: Path, line: int, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{path} line {line}, column 'text': expected a text, got {value!r}")
    return value


def _number(path: Path, line: int, column: str, value: Any) -> float:
    try:
        number = float("" if isinstance(value, bool | None) else value)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path} line {line}, column {column!r}: expected a number, got {value!r}") from error
    if not abs(number) <= _LARGEST_FLOAT32:
        raise DataError(
            f"{path} line {line}, column {column!r}: expected a finite number, got {value}; fill it in or drop the line"
        )
    return number


def _label(path: Path, line: int, value: Any) -> Label:
    if isinstance(value, str):
        value = _parse(value.strip())
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        raise DataError(f"{path} line {line}, column 'label': expected a class or a number, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{path} line {line}, column 'label': got {value}; fill it in or drop the line")
    return value


def _parse(text: str) -> Label:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _list(names: Any) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")


_LARGEST_FLOAT32 = 3.4e38
