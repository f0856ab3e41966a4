"""What was read on disk: beside the memory file, whole or not at all, and never another model's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from test_reading import DIGITS, FACT, LETTERS, ids_of, logits, nested

from nestling.errors import CheckpointError, ResourceError
from nestling.models.nested_lm.conversation import Conversation
from nestling.models.nested_lm.level_saving import levels_path


def test_what_was_read_is_there_after_loading_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "memory.safetensors"
    learner = nested(memory=path)
    learner.read(LETTERS)
    assert not path.exists()
    learner.teach(FACT)
    other = nested(memory=path)
    assert other.hash() == learner.hash()
    assert torch.equal(logits(other, ids_of(LETTERS)), logits(learner, ids_of(LETTERS)))
    other.sleep(60.0)
    slept = nested(memory=path)
    assert slept.hash() == other.hash()
    for context in slept.contexts():
        slept.forget_context(context)
    assert nested(memory=path).contexts() == []


def test_a_memory_without_levels_is_read_as_before_and_a_copy_takes_them_along(tmp_path: Path) -> None:
    learner = nested()
    learner.teach(FACT)
    learner.save(tmp_path / "old")
    assert not levels_path(tmp_path / "old").exists()
    other = nested()
    other.load(tmp_path / "old")
    assert other.contexts() == []
    learner.read(LETTERS)
    learner.save(tmp_path / "new")
    other.load(tmp_path / "new")
    assert other.hash() == learner.hash()
    other.load(tmp_path / "old")
    assert other.contexts() == []


def test_what_cannot_be_written_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "memory"
    learner = nested(memory=path)
    learner.read(LETTERS)
    before, answer, content = learner.hash(), logits(learner, ids_of(LETTERS)), levels_path(path).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ResourceError, match="disk is full"):
        learner.read(DIGITS)
    assert learner.hash() == before
    assert torch.equal(logits(learner, ids_of(LETTERS)), answer)
    assert levels_path(path).read_bytes() == content


def test_damaged_levels_and_those_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    nested(memory=path).read(LETTERS)
    file = levels_path(path)
    content = file.read_bytes()
    with pytest.raises(CheckpointError, match="another model"):
        nested("gpt2", memory=path)
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        nested(memory=path)
    changed = bytearray(content)
    changed[-7] ^= 1
    file.write_bytes(bytes(changed))
    with pytest.raises(CheckpointError, match="altered"):
        nested(memory=path)


def test_a_kill_while_reading_leaves_what_was_there_before(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    code = f"""
        import sys
        sys.path[:0] = {[str(Path(__file__).parent)]!r}
        from test_reading import DIGITS, LETTERS, nested
        learner = nested(memory={str(path)!r})
        learner.read(LETTERS)
        print(learner.hash(), flush=True)
        learner.read(DIGITS * 100, progress=lambda count: print(count, flush=True))
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        first = child.stdout.readline().strip()
        assert child.stdout.readline().strip() == "256"
        os.kill(child.pid, signal.SIGKILL)
    assert nested(memory=path).hash() == first


def test_a_conversation_reads_sleeps_and_takes_back(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(LETTERS, encoding="utf-8")
    talk = Conversation(nested(), max_new_tokens=4)
    before = talk.learner.hash()
    assert " 1052 tokens, " in talk.say(f"/read {text}")
    assert "c1  1052 tokens read" in talk.say("/lessons")
    assert "lessons: nothing was released: lessons stay fast" in talk.say("/sleep 20")
    assert talk.say("/sleep soon").startswith("error: expected a number of seconds")
    assert talk.say("/undo") == "taken back; 0 lessons"
    assert talk.say("/undo") == "taken back; 0 lessons"
    assert talk.learner.hash() == before
    assert talk.say("/read nowhere.txt").startswith("error: nowhere.txt: expected a text file")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0\1")
    assert "expected a text file in UTF-8" in talk.say(f"/read {tmp_path / 'binary'}")
