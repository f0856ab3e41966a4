"""Read `.npz` files of examples: `x` [N, ...] numbers, `y` [N] classes (integers) or [N] or [N, D] targets (floats)."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestling.errors import DataError


@dataclass(frozen=True)
class Arrays:
    """One file. inputs [N, ...] float32; targets [N] int64 (classes) or [N, D] float32."""

    path: Path
    inputs: NDArray[np.float32]
    targets: NDArray[Any]

    @property
    def has_classes(self) -> bool:
        """Whether targets are classes, not numbers to predict."""
        return self.targets.dtype == np.int64


def read_npz(path: Path) -> Arrays:
    """The arrays `x` and `y`; no code from the file is run. Raises DataError naming file, array and row."""
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty: write it with numpy.savez(path, x=..., y=...)")
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} is not an .npz archive: write it with numpy.savez(path, x=..., y=...)")
            if not {"x", "y"} <= set(archive.files):
                raise DataError(f"{path}: expected the arrays x and y, got {', '.join(archive.files) or 'none'}")
            inputs, targets = archive["x"], archive["y"]
    except DataError:
        raise
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read as .npz ({_first_line(error)}); it is damaged or something else"
        ) from error
    return Arrays(path, _inputs(path, inputs), _targets(path, targets, len(inputs) if inputs.ndim else 0))


def _inputs(path: Path, inputs: NDArray[Any]) -> NDArray[np.float32]:
    if inputs.ndim < 2 or len(inputs) == 0 or inputs.dtype.kind not in "biuf":
        raise DataError(f"{path}: expected x of numbers with shape [N, ...], got {inputs.dtype} {inputs.shape}")
    _check_finite(path, "x", inputs)
    return np.ascontiguousarray(inputs, dtype=np.float32)


def _targets(path: Path, targets: NDArray[Any], count: int) -> NDArray[Any]:
    if targets.ndim not in (1, 2) or len(targets) != count or targets.dtype.kind not in "biuf":
        raise DataError(
            f"{path}: expected y of {count} numbers, integers [N] for classes or floats [N] or [N, D] for regression, "
            f"got {targets.dtype} {targets.shape}"
        )
    if targets.dtype.kind == "f":
        _check_finite(path, "y", targets)
        return np.ascontiguousarray(targets.reshape(count, -1), dtype=np.float32)
    if targets.ndim != 1:
        raise DataError(
            f"{path}: expected integer y with shape [N] (one class each), got "
            f"{targets.shape}; use floats for regression"
        )
    return targets.astype(np.int64)


def _check_finite(path: Path, name: str, values: NDArray[Any]) -> None:
    if values.dtype.kind != "f":
        return
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(np.float32)).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{path}: {name} has NaN, infinity or numbers too large for float32 in {int((~finite).sum())} row(s), "
            f"first in row {int(finite.argmin())}; fill them in or drop those rows"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
