"""Write a file whole or not at all, and say plainly when the machine does not let us."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from nestling.errors import ResourceError

__all__ = ["UNFINISHED", "make_folder", "plain_errors", "write_atomically"]

UNFINISHED = ".unfinished"

_WHY = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "the file would be larger than this machine allows; raise the limit (ulimit -f) or free some space",
    errno.EACCES: "permission denied; choose a folder that can be written",
    errno.EPERM: "permission denied; choose a folder that can be written",
    errno.EROFS: "the disk is read-only; choose a folder that can be written",
    errno.EEXIST: "a file of that name is in the way; choose another folder",
    errno.EISDIR: "a folder of that name is in the way; move it away",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ENOTDIR: "a part of that path is a file, not a folder; choose another folder",
}


@contextlib.contextmanager
def plain_errors(action: str, path: Path) -> Iterator[None]:
    """Turn an OSError into a ResourceError: what failed, why, and what to do."""
    try:
        yield
    except OSError as error:
        why = _WHY.get(error.errno or 0, error.strerror or str(error))
        raise ResourceError(f"cannot {action} {path}: {why}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path`: temporary file, fsync, rename, fsync of the folder.

    A kill at any moment leaves the old file or the new one, never a part. A failure leaves no temporary file.

    Raises: ResourceError when the disk is full, read-only or closed to us.
    """
    temporary = path.with_name(f".{path.name}{UNFINISHED}")
    with plain_errors("write", path):
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Create a folder and its parents. Raises ResourceError when that is not possible."""
    with plain_errors("create the folder", path):
        path.mkdir(parents=True, exist_ok=True)


def _sync_folder(path: Path) -> None:
    if os.name != "posix":  # Windows cannot open a folder; its rename is already durable
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
