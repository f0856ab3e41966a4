"""Any folder as a stream: its files, in name order, are the experiences."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from nestling.errors import DataError, InputError, UnknownNameError
from nestling.streams.array_files import read_npz
from nestling.streams.base import Examples, Experience, Predictor, Stream, Training
from nestling.streams.byte_model import BYTES, make_byte_model
from nestling.streams.class_incremental import accuracy, stratified_split
from nestling.streams.folder_labels import Targets, code_arrays, code_labels
from nestling.streams.sentence_features import MINILM_PACKAGE, hashed_ngrams, sentence_features
from nestling.streams.table_files import Table, read_csv, read_jsonl
from nestling.streams.text import TRAINING as TEXT_TRAINING
from nestling.streams.text import bits_per_byte, windows

EXTENSIONS = (".csv", ".jsonl", ".npz", ".txt")
FEATURES = ("minilm", "hashed")
TEST_SHARE = 0.2
TRAINING = Training(epochs=10, min_steps=300, batch_size=32)
_WIDTH = 256

Report = Callable[[str, int, int], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Files:
    """One experience on disk. test is None where a part of train is to be held out."""

    name: str
    train: Path
    test: Path | None

    @property
    def paths(self) -> list[Path]:
        """Train, then test where there is one."""
        return [self.train, self.test] if self.test else [self.train]


def folder_stream(
    place: str | Path,
    *,
    features: str | None = None,
    length: int = 256,
    seed: int = 0,
    test_share: float = TEST_SHARE,
    report: Report | None = None,
) -> Stream:
    """The files of a folder in natural name order (2 before 10), one experience each.

    .csv, .jsonl: columns text,label, or numeric columns and label. Labels that are texts or whole numbers are
                  classes, fractions are numbers to predict.
    .npz:         x [N, ...] and y: integers [N] are classes, floats [N] or [N, D] are numbers to predict.
    .txt:         language modelling, byte by byte.
    NAME.test.EXT is the test part of NAME.EXT; without it a seeded share is held out, of every class alike.

    Scores: accuracy; explained variance 1 - MSE / Var, Var over the training targets of all experiences; bits per byte.

    Args:
        place: the folder; hidden files and other extensions are left alone.
        features: of texts: "minilm" (frozen sentence encoder, extra `minilm`) or "hashed" (letter and word n-grams,
            nothing to install); None takes minilm where it is installed. The choice is in `details`.
        length: window of .txt files [bytes].
        seed: draws what is held out.
        test_share: held out where there is no test file, in (0, 1).
        report: receives (file, done, total) while features are computed.
    Raises: DataError naming file, line and column; InputError for options out of range.
    """
    folder = Path(place)
    if not 0 < test_share < 1:
        raise InputError(f"expected test_share between 0 and 1, got {test_share}")
    found = find_files(folder)
    ext = found[0].train.suffix
    details: dict[str, Any] = {"files": len(found), "held_out": _describe_split(found, test_share, seed)}
    split = _Splitter(test_share, seed)
    if ext == ".txt":
        experiences = [split(files, [_windows(path, length) for path in files.paths], False) for files in found]
        return _language_stream(folder, experiences, {**details, "window_bytes": length})
    if ext == ".npz":
        arrays = _read_all(found, read_npz)
        inputs = [[torch.from_numpy(part.inputs) for part in pair] for pair in arrays]
        targets = code_arrays(arrays)
    else:
        tables = _read_all(found, read_csv if ext == ".csv" else read_jsonl)
        _check_same_columns([table for pair in tables for table in pair])
        chosen = choose_features(features) if tables[0][0].has_text else None
        details.update({"features": chosen} if chosen else {})
        targets = code_labels(tables)
        inputs = [[_table_inputs(table, chosen, report) for table in pair] for pair in tables]
    _check_same_shape(found, inputs)
    parts = [[Examples(inputs=x, targets=y) for x, y in zip(*pair)] for pair in zip(inputs, targets.parts)]
    stratified = targets.classes is not None
    return _vector_stream(folder, [split(*pair, stratified) for pair in zip(found, parts)], targets, details)


def find_files(folder: Path) -> list[Files]:
    """The experiences of a folder in natural name order (2 before 10).

    Raises: DataError for a missing folder, no usable files, files of several kinds, or a test file alone.
    """
    if not os.path.isdir(folder):  # unlike Path.is_dir, no error for a name that is too long
        what = "is a file" if os.path.exists(folder) else "does not exist"
        raise DataError(f"{folder} {what}: expected a folder of {', '.join(EXTENSIONS)} files")
    entries = _opened(lambda place: list(place.iterdir()), folder)
    paths = [path for path in entries if path.suffix in EXTENSIONS and not path.name.startswith(".")]
    if not paths:
        raise DataError(f"{folder} has no {', '.join(EXTENSIONS)} files: put one file per task into it")
    paths.sort(key=lambda path: natural_order(path.name))
    others = [path for path in paths if path.suffix != paths[0].suffix]
    if others:
        raise DataError(
            f"{folder} mixes kinds of files ({paths[0].name}, {others[0].name}): expected one kind; "
            "put the others into a folder of their own"
        )
    tests = {path.name: path for path in paths if path.stem.endswith(".test")}
    trains = [path for path in paths if path.name not in tests]
    found = [Files(path.stem, path, tests.pop(f"{path.stem}.test{path.suffix}", None)) for path in trains]
    if tests:
        alone = next(iter(tests.values()))
        raise DataError(
            f"{alone} has no training part: expected {alone.stem.removesuffix('.test')}{alone.suffix} beside it"
        )
    if len(found) < 2:
        raise DataError(
            f"{folder} has one experience only ({found[0].train.name}): expected at least two files that arrive one "
            "after another; split the file or add another"
        )
    return found


def natural_order(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorting key by which task2 comes before task10."""
    pieces = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces)


def choose_features(wanted: str | None) -> str:
    """The features of texts: as wanted, else minilm where it is installed, else hashed."""
    if wanted is None:
        installed = all(importlib.util.find_spec(name) for name in (MINILM_PACKAGE, "transformers"))
        return "minilm" if installed else "hashed"
    if wanted not in FEATURES:
        raise UnknownNameError("text features", wanted, FEATURES)
    return wanted


@dataclass(frozen=True)
class _Splitter:
    """Makes an experience of a train part and a test part, or holds out a seeded share of the train part."""

    share: float
    seed: int

    def __call__(self, files: Files, parts: Sequence[Examples], stratified: bool) -> Experience:
        if len(parts) == 2:
            return Experience(name=files.name, train=parts[0], test=parts[1])
        whole = parts[0]
        if stratified:
            train, test = stratified_split(whole.targets, self.share, self.seed)
        else:
            order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(self.seed))
            count = max(1, round(len(whole) * self.share))
            train, test = order[count:].sort().values, order[:count].sort().values
        if not len(train) or not len(test):
            raise DataError(
                f"{files.train}: {len(whole)} example(s) are too few to hold out {self.share:.0%} for testing; "
                f"add examples or give {files.name}.test{files.train.suffix}"
            )
        return Experience(name=files.name, train=whole.subset(train), test=whole.subset(test))


def _describe_split(found: Sequence[Files], share: float, seed: int) -> str:
    own = sum(files.test is not None for files in found)
    drawn = f"{share:.0%} of each file, drawn with seed {seed}"
    if own == 0:
        return drawn
    return "test files" if own == len(found) else f"test files for {own} of {len(found)}, else {drawn}"


def _read_all(found: Sequence[Files], read: Callable[[Path], T]) -> list[list[T]]:
    return [[_opened(read, path) for path in files.paths] for files in found]


def _opened(read: Callable[[Path], T], path: Path) -> T:
    try:
        return read(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _windows(path: Path, length: int) -> Examples:
    content = _opened(Path.read_bytes, path)
    if not content.strip():
        raise DataError(f"{path} is empty: give it text or take it out of the folder")
    if b"\0" in content:
        raise DataError(f"{path} holds zero bytes: it is not a text file; take it out of the folder")
    pieces = windows(content, length=length).long()
    if not len(pieces):
        raise DataError(f"{path} has {len(content)} bytes, fewer than one window of {length}; add text or set length=")
    return Examples(inputs=pieces[:, :-1].contiguous(), targets=pieces[:, 1:].contiguous())


def _table_inputs(table: Table, features: str | None, report: Report | None) -> Tensor:
    if not table.has_text:
        return torch.tensor(table.values, dtype=torch.float32)
    texts = [row[0] for row in table.values]
    if features == "hashed":
        return hashed_ngrams(texts)
    return sentence_features(texts, progress=partial(report, table.path.name) if report else None)


def _check_same_columns(tables: Sequence[Table]) -> None:
    first = tables[0]
    for table in tables:
        if table.columns != first.columns:
            raise DataError(
                f"{table.path} has other columns than {first.path}: {', '.join(table.columns[:8])} instead of "
                f"{', '.join(first.columns[:8])}; give all files the same columns in the same order"
            )


def _check_same_shape(found: Sequence[Files], inputs: Sequence[Sequence[Tensor]]) -> None:
    first = inputs[0][0].shape[1:]
    for files, pair in zip(found, inputs, strict=True):
        for path, part in zip(files.paths, pair, strict=True):
            if part.shape[1:] != first:
                raise DataError(
                    f"{path}: an example has shape {tuple(part.shape[1:])}, in {found[0].train} it has {tuple(first)}; "
                    "give all files the same shape"
                )


def _language_stream(folder: Path, experiences: Sequence[Experience], details: dict[str, Any]) -> Stream:
    return Stream(
        name=folder.resolve().name,
        kind="language",
        experiences=tuple(experiences),
        num_outputs=BYTES,
        metric="bits per byte",
        higher_is_better=False,
        make_model=make_byte_model,
        evaluate=bits_per_byte,
        training=TEXT_TRAINING,
        details=details,
    )


def _vector_stream(
    folder: Path, experiences: Sequence[Experience], targets: Targets, details: dict[str, Any]
) -> Stream:
    width = experiences[0].train.inputs[0].numel()
    classes = targets.classes
    outputs = len(classes) if classes else targets.parts[0][0].shape[1]

    def make_model() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(width, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _WIDTH), nn.ReLU(),
            nn.Linear(_WIDTH, outputs),
        )  # fmt: skip

    return Stream(
        name=folder.resolve().name,
        kind="classification" if classes else "regression",
        experiences=tuple(experiences),
        num_outputs=outputs,
        metric="accuracy" if classes else "explained variance",
        higher_is_better=True,
        make_model=make_model,
        evaluate=accuracy if classes else _explained_variance(experiences),
        training=TRAINING,
        details={**details, "classes": [str(name) for name in classes]} if classes else details,
    )


def _explained_variance(experiences: Sequence[Experience]) -> Callable[[Predictor, Experience], float]:
    """1 - MSE / Var, with Var over the training targets of all experiences, so that one scale holds for all."""
    every = torch.cat([experience.train.targets for experience in experiences]).double()
    variance = every.var(dim=0, unbiased=False).sum().item()
    if variance <= 0:
        raise DataError("all targets are the same number: there is nothing to predict; check y")

    def evaluate(predict: Predictor, experience: Experience) -> float:
        wrong = predict(experience.test.inputs).double() - experience.test.targets.double()
        return 1.0 - wrong.square().sum(dim=1).mean().item() / variance

    return evaluate
