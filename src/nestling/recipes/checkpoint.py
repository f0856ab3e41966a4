"""Saved states that survive a kill at any moment: atomic, with a checksum, the last two kept."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nestling.errors import CheckpointError
from nestling.recipes.files import make_folder, plain_errors, write_atomically

MAGIC = b"nestling checkpoint 1\n"
KEEP = 2
_NAME = re.compile(r"(\d{8})\.ckpt")
_DIGEST_BYTES = hashlib.sha256().digest_size


def pack(state: dict[str, Any]) -> bytes:
    """magic + sha256 of the payload + payload, the payload being `torch.save` of `state`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    return MAGIC + hashlib.sha256(payload).digest() + payload


def unpack(content: bytes) -> dict[str, Any]:
    """The state that `pack` wrote. Raises CheckpointError when it is not whole; runs no code from the file."""
    head = len(MAGIC) + _DIGEST_BYTES
    if not content.startswith(MAGIC):
        raise CheckpointError("it does not begin like a checkpoint of this version")
    if hashlib.sha256(content[head:]).digest() != content[len(MAGIC) : head]:
        raise CheckpointError("it is truncated or altered (its checksum differs)")
    try:
        return torch.load(io.BytesIO(content[head:]), weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise CheckpointError("it holds something other than tensors, numbers and text") from error


class CheckpointFolder:
    """The last two states of one run, as numbered files in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: dict[str, Any]) -> None:
        """Write the next state and drop all but the newest two. Raises ResourceError when it cannot be written."""
        make_folder(self.folder)
        numbers = self._numbers()
        following = numbers[-1] + 1 if numbers else 1
        write_atomically(self._path(following), pack(state))
        with plain_errors("delete old checkpoints in", self.folder):
            for number in [*numbers, following][:-KEEP]:
                self._path(number).unlink(missing_ok=True)

    def load(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        """The newest whole state, None when nothing was saved yet.

        Args:
            say: receives one line for every damaged file that is passed over.
        Raises: CheckpointError when there are files but none is whole.
        """
        numbers = self._numbers()
        for number in reversed(numbers):
            path = self._path(number)
            try:
                with plain_errors("read", path):
                    content = path.read_bytes()
                return unpack(content)
            except CheckpointError as error:
                say(f"checkpoint {path} cannot be used: {error}; trying the one before it")
        if numbers:
            raise CheckpointError(
                f"none of the {len(numbers)} checkpoint(s) in {self.folder} is whole; "
                "delete that folder to start this run again, or copy the files back"
            )
        return None

    def _numbers(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        matches = [_NAME.fullmatch(path.name) for path in self.folder.iterdir()]
        return sorted(int(match.group(1)) for match in matches if match)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.ckpt"
