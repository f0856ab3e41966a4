"""Files are written whole or not at all, and the reason is said."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nestling.errors import ResourceError
from nestling.recipes.files import make_folder, write_atomically


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("code", "word"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission"), (errno.EDQUOT, "quota")],
)
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_failure_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, word: str, moment: str
) -> None:
    path = tmp_path / "a.bin"
    write_atomically(path, b"old")

    def fail(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, moment, fail)
    with pytest.raises(ResourceError, match=word):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match="choose another folder"):
        make_folder(tmp_path / "file" / "run")
    with pytest.raises(ResourceError, match="choose another folder"):
        make_folder(tmp_path / "file")
