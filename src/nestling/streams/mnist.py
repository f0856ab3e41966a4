"""Split-MNIST: 28x28 handwritten digits from IDX files, two new classes at a time, one output head."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nestling.errors import DataError
from nestling.streams.base import Examples, Stream, Training
from nestling.streams.class_incremental import stratified_split
from nestling.streams.digits import NUM_CLASSES, two_classes_at_a_time

TEST_SHARE = 0.2
SPLIT_SEED = 0
_TRAIN_IMAGES = "train-images-idx3-ubyte"
_TEST_IMAGES = "t10k-images-idx3-ubyte"
_ADVICE = f"put {_TEST_IMAGES}.gz and its labels file into a folder and name it (folder option or NESTLING_DATA)"


def mnist_stream(*, folder: str | Path | None = None) -> Stream:
    """Five experiences of two digits each (0-1, 2-3, ...), class-incremental; inputs [784] float32, pixels / 255.

    Where the folder holds the 60,000 training images, they and the 10,000 test images are used as they are. Where it
    holds one images file only, a fixed, stratified fifth of it is the test part (8,000 and 2,000 of the test images).
    The split is the same for every seed.

    Args:
        folder: holds the IDX files, plain or .gz, as LeCun, Cortes and Burges publish them; or one images file, whose
            labels file lies beside it. If None: $NESTLING_DATA, then ../shared/data, each itself or its `mnist10k`.

    Raises: DataError when no files are found or one is not a whole IDX file.
    """
    train, test = _parts(Path(folder)) if folder is not None else _parts(_default_folder())
    return two_classes_at_a_time("mnist", train, test, Training(epochs=5, batch_size=32))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of unsigned bytes in an IDX file, plain or .gz.

    Raises: DataError when it is not one, or truncated.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; copy the file again") from None
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise DataError(
            f"{path} is not an IDX file of bytes: expected it to begin with 00 00 08, got {raw[:3].hex(' ')}"
        )
    header = 4 + 4 * raw[3]
    shape = tuple(np.frombuffer(raw[4:header].ljust(header - 4, b"\0"), dtype=">u4").tolist())
    if len(raw) != header + math.prod(shape):
        raise DataError(f"{path} is truncated: its header says shape {shape}, it holds {len(raw)} bytes; copy it again")
    return np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(shape).copy()


def _parts(place: Path) -> tuple[Examples, Examples]:
    if place.is_file():
        return _split(_read_pair(place))
    train_images, test_images = _find(place, _TRAIN_IMAGES), _find(place, _TEST_IMAGES)
    if train_images is not None and test_images is not None:
        return _read_pair(train_images), _read_pair(test_images)
    only = train_images or test_images
    if only is None:
        raise DataError(f"no MNIST files in {place}: expected {_TEST_IMAGES}, plain or .gz; {_ADVICE}")
    return _split(_read_pair(only))


def _split(examples: Examples) -> tuple[Examples, Examples]:
    train_index, test_index = stratified_split(examples.targets, TEST_SHARE, SPLIT_SEED)
    return examples.subset(train_index), examples.subset(test_index)


def _read_pair(images_path: Path) -> Examples:
    labels_path = images_path.with_name(images_path.name.replace("images", "labels").replace("idx3", "idx1"))
    if labels_path == images_path or not labels_path.is_file():
        raise DataError(f"no labels for {images_path}: expected {labels_path.name} beside it (...images-idx3... names)")
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"expected images [N, H, W] and labels [N], got {images.shape} in {images_path.name} "
            f"and {labels.shape} in {labels_path.name}"
        )
    if set(labels.tolist()) != set(range(NUM_CLASSES)):
        raise DataError(
            f"expected labels 0 to 9, all of them, in {labels_path.name}, got {sorted(set(labels.tolist()))}"
        )
    inputs = torch.from_numpy(images).flatten(1).float() / 255
    return Examples(inputs=inputs, targets=torch.from_numpy(labels).long())


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _default_folder() -> Path:
    named = os.environ.get("NESTLING_DATA")
    roots = [*([Path(named)] if named else []), Path("../shared/data")]
    places = [place for root in roots for place in (root, root / "mnist10k")]
    for place in places:
        if _find(place, _TEST_IMAGES) is not None or _find(place, _TRAIN_IMAGES) is not None:
            return place
    raise DataError(f"MNIST is not on this machine (looked in {', '.join(map(str, places))}): {_ADVICE}")
