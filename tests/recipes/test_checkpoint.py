"""A damaged checkpoint is noticed and the one before it is used."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path

import pytest
import torch

from nestling.errors import CheckpointError
from nestling.recipes.checkpoint import MAGIC, CheckpointFolder, pack, unpack


def nobody(message: str) -> None:
    raise AssertionError(f"nothing was to be said, got {message}")


def test_what_was_packed_comes_back() -> None:
    state = {"weights": torch.arange(6.0).reshape(2, 3), "step": 3, "names": ["a", "b"], "deep": {"none": None}}
    back = unpack(pack(state))
    assert torch.equal(back.pop("weights"), state.pop("weights"))
    assert back == state


def test_every_truncation_is_noticed() -> None:
    content = pack({"weights": torch.ones(50)})
    for length in [*range(80), *range(80, len(content), 37), len(content) - 1]:
        with pytest.raises(CheckpointError):
            unpack(content[:length])


def test_every_altered_byte_is_noticed() -> None:
    content = pack({"weights": torch.ones(50)})
    for place in [*range(80), *range(80, len(content), 37)]:
        altered = bytearray(content)
        altered[place] ^= 1
        with pytest.raises(CheckpointError):
            unpack(bytes(altered))


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("touched-by-checkpoint"),))  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("save", [torch.save, lambda value, file: pickle.dump(value, file, protocol=2)])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    save({"weights": Hostile()}, buffer)
    payload = buffer.getvalue()
    with pytest.raises(CheckpointError, match="other than tensors"):
        unpack(MAGIC + hashlib.sha256(payload).digest() + payload)
    assert not list(tmp_path.iterdir())


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "run")
    assert folder.load(nobody) is None
    for step in range(5):
        folder.save({"step": step})
    assert folder.load(nobody) == {"step": 4}
    assert len(list((tmp_path / "run").iterdir())) == 2


def test_a_truncated_one_is_passed_over_with_a_message(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for step in range(3):
        folder.save({"step": step})
    newest = max(tmp_path.iterdir())
    newest.write_bytes(newest.read_bytes()[:-10])
    said: list[str] = []
    assert folder.load(said.append) == {"step": 1}
    assert len(said) == 1
    assert newest.name in said[0]
    assert "truncated" in said[0]
    folder.save({"step": 9})
    assert folder.load(nobody) == {"step": 9}


def test_none_whole_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save({"step": 1})
    folder.save({"step": 2})
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="delete that folder"):
        folder.load(lambda message: None)
