"""Targets of a folder's files: one numbering of the classes for all files, or numbers to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nestling.errors import DataError
from nestling.streams.array_files import Arrays
from nestling.streams.table_files import Label, Table


@dataclass(frozen=True)
class Targets:
    """Per file pair (train, test where there is one): [N] int64 below len(classes), or [N, D] float32.

    classes: names in the order of their numbers; None for numbers to predict.
    """

    parts: list[list[Tensor]]
    classes: tuple[Label, ...] | None


def code_labels(tables: Sequence[Sequence[Table]]) -> Targets:
    """Targets of tables: texts or whole numbers are classes, fractions are numbers to predict.

    Raises: DataError for labels of mixed types, a class without training examples, or a single class.
    """
    every = [table for pair in tables for table in pair]
    _check_one_type(every)
    if any(isinstance(label, float) and not label.is_integer() for table in every for label in table.labels):
        return Targets([[_numbers(table.labels) for table in pair] for pair in tables], None)
    labels = [[[_whole(label) for label in table.labels] for table in pair] for pair in tables]
    return _classes([[table.path for table in pair] for pair in tables], labels)


def code_arrays(arrays: Sequence[Sequence[Arrays]]) -> Targets:
    """Targets of arrays: integers are classes, floats are numbers to predict. Raises DataError as `code_labels`."""
    every = [part for pair in arrays for part in pair]
    first = every[0]
    for part in every:
        if part.has_classes != first.has_classes:
            raise DataError(
                f"labels of mixed types: y is {first.targets.dtype} in {first.path} and {part.targets.dtype} in "
                f"{part.path}; use integers everywhere (classes) or floats everywhere (numbers to predict)"
            )
        if part.targets.shape[1:] != first.targets.shape[1:]:
            raise DataError(
                f"y is {first.targets.shape} in {first.path} and {part.targets.shape} in {part.path}; "
                "give every file the same number of target columns"
            )
    if not first.has_classes:
        return Targets([[torch.from_numpy(part.targets) for part in pair] for pair in arrays], None)
    labels: list[list[list[Label]]] = [[part.targets.tolist() for part in pair] for pair in arrays]
    return _classes([[part.path for part in pair] for pair in arrays], labels)


def _classes(paths: Sequence[Sequence[Path]], labels: list[list[list[Label]]]) -> Targets:
    known: list[Label] = sorted({label for pair in labels for label in pair[0]})  # pyright: ignore[reportAssignmentType]
    numbers = {label: number for number, label in enumerate(known)}
    for files, pair in zip(paths, labels, strict=True):
        unknown = sorted(set(pair[-1]) - numbers.keys(), key=str)
        if unknown:
            raise DataError(
                f"{files[-1]}: class {unknown[0]!r} appears only in the test part; "
                "add training examples of it or take it out of the test part"
            )
    if len(known) < 2:
        raise DataError(f"{paths[0][0].parent}: every label is {known[0]!r}; expected at least two classes")
    coded = [[torch.tensor([numbers[label] for label in part]) for part in pair] for pair in labels]
    return Targets(coded, tuple(known))


def _check_one_type(tables: Sequence[Table]) -> None:
    first: tuple[Table, int] | None = None
    for table in tables:
        for row, label in enumerate(table.labels):
            if first is None:
                first = (table, row)
            before, at = first
            if isinstance(label, str) != isinstance(before.labels[at], str):
                raise DataError(
                    f"labels of mixed types: {_where(before, at)} and {_where(table, row)}; "
                    "make all of them texts or all of them numbers"
                )


def _where(table: Table, row: int) -> str:
    label = table.labels[row]
    kind = "a text" if isinstance(label, str) else "a number"
    return f"{label!r} ({kind}, {table.path} line {table.lines[row]})"


def _whole(label: Label) -> Label:
    return int(label) if isinstance(label, float) else label


def _numbers(labels: Sequence[Label]) -> Tensor:
    return torch.tensor([[float(label)] for label in labels], dtype=torch.float32)
