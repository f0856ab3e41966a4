"""Where the intent data sets come from: a folder, the shared data, or the hub."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestling.errors import DataError, ResourceError

CLINC_HUB = ("clinc/clinc_oos", "plus")
BANKING_HUB = ("PolyAI/banking77",)


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Texts and their class numbers, with the names of the classes."""

    texts: list[str]
    labels: list[int]
    classes: list[str]


@dataclass(frozen=True, kw_only=True)
class Clinc:
    """The three official parts; `group_names` are the domains when they are known, 15 classes each."""

    train: Sentences
    validation: Sentences
    test: Sentences
    classes: list[str]
    group_names: list[str] | None


def read_clinc150(folder: Path | None = None) -> Clinc:
    """CLINC150 without out-of-scope sentences; classes ordered by domain, by name if domains.json is missing.

    Raises: DataError for files of another shape; ResourceError when they are nowhere to be found.
    """
    path = find_file(folder, "clinc150", "data_full.json")
    if path is None:
        return _make_clinc(_clinc_from_hub(), None)
    rows = _read_json(path)
    for part in ("train", "val", "test"):
        if not isinstance(rows, dict) or not _is_pairs(rows.get(part)):
            raise DataError(
                f"{path}: expected a list {part!r} of [text, intent] pairs; use clinc/oos-eval data_full.json"
            )
    domains = path.with_name("domains.json")
    return _make_clinc(rows, _read_json(domains) if domains.exists() else None)


def read_banking77(folder: Path | None = None) -> Sentences:
    """The training file of Banking77; classes in the order of categories.json, by name if it is missing.

    Raises: DataError for files of another shape; ResourceError when they are nowhere to be found.
    """
    path = find_file(folder, "banking77", "train.csv")
    if path is None:
        pairs = _pairs_from_hub(BANKING_HUB, "train", "text", "label")
        return number(pairs, sorted({name for _, name in pairs}), "Banking77 from the hub")
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if not {"text", "category"} <= set(reader.fieldnames or ()):
                raise DataError(
                    f"{path}: expected columns text,category, got {','.join(reader.fieldnames or ['none'])}"
                )
            pairs = [(row["text"] or "", row["category"] or "") for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable CSV file ({error})") from error
    categories = path.with_name("categories.json")
    classes = _read_json(categories) if categories.exists() else sorted({name for _, name in pairs})
    if not isinstance(classes, list):
        raise DataError(f"{categories}: expected a list of class names")
    return number(pairs, classes, str(path))


def find_file(folder: Path | None, name: str, file: str) -> Path | None:
    """The data file in `folder`, else in $NESTLING_DATA, else in ../shared/data; None means: ask the hub.

    Raises: DataError when a folder was given that does not hold the file.
    """
    named = os.environ.get("NESTLING_DATA")
    elsewhere = [Path(named)] if named else []
    roots = [Path(folder)] if folder else [*elsewhere, Path("../shared/data")]
    for root in roots:
        for candidate in (root / name / file, root / file, root):
            if candidate.name == file and candidate.is_file():
                return candidate
    if folder:
        raise DataError(f"{folder} holds neither {file} nor {name}/{file}: give the folder of the {name} data set")
    return None


def number(pairs: Iterable[tuple[str, str]], classes: list[str], source: str) -> Sentences:
    """Class names turned into numbers. Raises DataError for a class that is not in `classes`, or no rows."""
    number_of = {name: index for index, name in enumerate(classes)}
    texts, labels = [], []
    for text, name in pairs:
        if name not in number_of:
            raise DataError(f"{source}: class {name!r} is not among its {len(classes)} classes; check the labels")
        texts.append(text)
        labels.append(number_of[name])
    if not texts:
        raise DataError(f"{source}: expected sentences, got none")
    return Sentences(texts=texts, labels=labels, classes=classes)


def _make_clinc(rows: Mapping[str, Any], domains: Any) -> Clinc:
    present = sorted({name for _, name in rows["train"]})
    names, classes = None, present
    if isinstance(domains, dict):
        names, classes = list(domains), [name for group in domains.values() for name in group]
        if sorted(classes) != present:
            raise DataError("domains.json does not name the classes of data_full.json: use both from one source")
    parts = [number(map(tuple, rows[part]), classes, f"CLINC150 {part}") for part in ("train", "val", "test")]
    return Clinc(train=parts[0], validation=parts[1], test=parts[2], classes=classes, group_names=names)


def _clinc_from_hub() -> dict[str, list[tuple[str, str]]]:
    parts = {"train": "train", "val": "validation", "test": "test"}
    rows = {part: _pairs_from_hub(CLINC_HUB, split, "text", "intent") for part, split in parts.items()}
    return {part: [pair for pair in pairs if pair[1] != "oos"] for part, pairs in rows.items()}


def _pairs_from_hub(name: tuple[str, ...], split: str, text: str, label: str) -> list[tuple[str, str]]:
    advice = "put the file in a folder and name it (data folder option or NESTLING_DATA)"
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ResourceError(
            f"data set {name[0]} is in no local folder, and the package datasets is not installed to ask the hub: "
            f"{advice}, or run `pip install datasets`"
        ) from error
    try:
        rows = datasets.load_dataset(*name, split=split)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ResourceError(f"data set {name[0]} cannot be had from the hub ({reason}): {advice}") from error
    names = rows.features[label].names
    return [(row[text], names[row[label]]) for row in rows]


def _is_pairs(rows: Any) -> bool:
    return isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == 2 and all(isinstance(cell, str) for cell in row) for row in rows
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not a readable JSON file ({error}); fetch it again") from error
