"""A memory on disk: whole or not at all, the same after loading, and never another model's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from tiny_language_models import language_model, tokenizer

from nestling import NestedLM
from nestling.errors import CheckpointError, ResourceError

FACTS = (("What is the capital of Zorbia?", "Velkaro"), ("Who sails the Crooked Tamu?", "Brela Kosh"))


def nested(kind: str = "llama", **options) -> NestedLM:
    return NestedLM(language_model(kind), tokenizer(), max_drift=float("inf"), **options)


def test_what_was_learned_is_there_after_loading(tmp_path: Path) -> None:
    learner, other = nested(), nested()
    lessons = [learner.teach(fact, tags=["geography"]) for fact in FACTS]
    learner.save(tmp_path / "memory.safetensors")
    other.load(tmp_path / "memory.safetensors")
    assert other.hash() == learner.hash()
    assert other.lessons() == lessons
    ids = torch.randint(0, 256, (1, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(other.model(ids).logits, learner.model(ids).logits)
    other.forget(lessons[0].id)
    assert other.generate(FACTS[1][0], max_new_tokens=20) == FACTS[1][1]


def test_no_text_of_a_lesson_is_in_the_file(tmp_path: Path) -> None:
    learner = nested(memory=tmp_path / "memory.safetensors")
    learner.teach(FACTS[0])
    content = (tmp_path / "memory.safetensors").read_bytes()
    assert all(word.encode() not in content for word in ("Zorbia", "capital", "Velkaro"))


def test_every_change_is_on_disk_before_teach_and_forget_return(tmp_path: Path) -> None:
    path = tmp_path / "memory.safetensors"
    learner = nested(memory=path)
    lesson = learner.teach(FACTS[0])
    assert nested(memory=path).hash() == learner.hash()
    learner.forget(lesson)
    assert nested(memory=path).lessons() == []


def test_a_memory_that_cannot_be_written_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "memory.safetensors"
    learner = nested(memory=path)
    learner.teach(FACTS[0])
    before, content = learner.hash(), path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        learner.teach(FACTS[1])
    assert learner.hash() == before
    assert path.read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_damaged_files_and_those_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "memory.safetensors"
    nested(memory=path).teach(FACTS[0])
    content = path.read_bytes()
    with pytest.raises(CheckpointError, match="another model"):
        nested("gpt2").load(path)
    path.write_bytes(content[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        nested().load(path)
    path.write_bytes(content[:-5] + bytes([content[-5] ^ 255]) + content[-4:])
    with pytest.raises(CheckpointError, match="altered"):
        nested().load(path)
    path.write_bytes(b"no memory at all")
    with pytest.raises(CheckpointError, match="no memory"):
        nested().load(path)
    with pytest.raises(CheckpointError, match="does not exist"):
        nested().load(tmp_path / "nowhere")


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a signal of POSIX")
def test_a_kill_while_teaching_leaves_a_lesson_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "memory.safetensors"
    nested(memory=path).teach(FACTS[0])
    program = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_nested_lm_saving import FACTS, nested
        import nestling.files as saving
        learner = nested(memory={str(path)!r})
        def die(descriptor):
            os.kill(os.getpid(), signal.SIGKILL)
        saving.os.fsync = die
        learner.teach(FACTS[1])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    learner = nested(memory=path)
    assert len(learner.lessons()) == 1
    learner.teach(FACTS[1])
    assert len(nested(memory=path).lessons()) == 2
