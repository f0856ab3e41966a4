"""A memory as one file: safetensors with a JSON header, written whole or not at all."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nestling.errors import CheckpointError
from nestling.files import make_folder, write_atomically
from nestling.memory.association import Association, Form, Thresholds
from nestling.models.nested_lm.frames import PARTS, Frames
from nestling.models.nested_lm.lesson import Lesson, Stored

__all__ = ["read_memory", "write_memory"]

FORMAT = "nestling memory 2"
_HEADER = "nestling"
_PARTS = ("who", "what", "about", "values.ask", "pieces.ask", "values.raw", "pieces.raw")


def write_memory(path: Path, *, model: str, frames: Frames, stored: list[Stored]) -> None:
    """Write the keys, values and facts about lessons; no text of theirs.

    Raises: ResourceError when the file cannot be written; the old one is untouched then.
    """
    tensors: dict[str, Tensor] = {f"frames.{name}": part.cpu() for name, part in frames.parts().items()}
    lessons = []
    for number, each in enumerate(stored):
        places = []
        for index, association in enumerate(each.associations):
            places.append(association.frames)
            for part, tensor in zip(_PARTS, association.tensors(), strict=True):
                tensors[f"{number}.{index}.{part}"] = tensor.cpu().half().contiguous().clone()
        lessons.append({"lesson": asdict(each.lesson), "frames": places, "hash": each.fingerprint})
    header = {"format": FORMAT, "model": model, "thresholds": asdict(frames.thresholds), "lessons": lessons}
    make_folder(path.parent)
    write_atomically(path, save(tensors, metadata={_HEADER: json.dumps(header)}))


def read_memory(path: Path, *, model: str) -> tuple[Frames, list[Stored]]:
    """What `write_memory` wrote.

    Raises: CheckpointError for a file that is missing, truncated, altered, or of another model.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: expected a memory that was saved")
    try:
        with safe_open(path, "pt") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {})[_HEADER])
            if header["format"] != FORMAT:
                raise CheckpointError(f"{path}: expected {FORMAT!r}, got {header['format']!r}")
            if header["model"] != model:
                raise CheckpointError(f"{path} belongs to another model: load it with the model it was taught to")
            frames = Frames(
                *(file.get_tensor(f"frames.{name}") for name in PARTS),
                thresholds=Thresholds(**header["thresholds"]),
            )
            stored = [_stored(file, number, row) for number, row in enumerate(header["lessons"])]
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or no memory of nestling: {error}") from error
    for each, row in zip(stored, header["lessons"], strict=True):
        if each.fingerprint != row["hash"]:
            raise CheckpointError(f"{path}: lesson {each.lesson.id} was altered: use a copy of the file")
    return frames, stored


def _stored(file: Any, number: int, row: dict[str, Any]) -> Stored:
    associations = []
    for index, frames in enumerate(row["frames"]):
        who, what, about, *rest = (file.get_tensor(f"{number}.{index}.{part}").to(torch.float32) for part in _PARTS)
        forms = Form(rest[0], rest[1]), Form(rest[2], rest[3])
        associations.append(Association(who, what, tuple(frames), about, forms))
    facts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row["lesson"].items()}
    return Stored(Lesson(**facts), tuple(associations))
