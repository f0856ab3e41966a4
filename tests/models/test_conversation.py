"""Lines in, replies out: teaching, forgetting and taking back within a conversation."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from tiny_language_models import language_model, tokenizer

from nestling import NestedLM
from nestling.cli import main
from nestling.models.nested_lm.conversation import Conversation

QUESTION, ANSWER = "What is the capital of Zorbia?", "Velkaro"


def conversation() -> Conversation:
    return Conversation(NestedLM(language_model(), tokenizer(), max_drift=float("inf")), max_new_tokens=12)


def test_it_is_taught_answers_forgets_and_takes_back() -> None:
    talk = conversation()
    assert talk.say("/lessons") == "nothing was taught yet"
    learned = talk.say(f"/teach {QUESTION} => {ANSWER} #place #east")
    assert learned.startswith("learned ")
    lesson = talk.learner.lessons()[0]
    assert lesson.tags == ("place", "east")
    assert talk.say(QUESTION) == ANSWER
    assert talk.say("/why").startswith(lesson.id)
    assert f"{lesson.id}  surprise" in talk.say("/lessons")
    assert "0 left" in talk.say(f"/forget {lesson.id}")
    assert talk.say(QUESTION) != ANSWER
    assert talk.say("/undo") == "taken back; 1 lessons"
    assert talk.say(QUESTION) == ANSWER
    assert talk.say("/undo") == "taken back; 0 lessons"


def test_errors_are_replies() -> None:
    talk = conversation()
    assert talk.say("/undo").startswith("error: there is nothing")
    assert talk.say("/forget nothing").startswith("error: there is no lesson")
    assert talk.say("/teach => Velkaro").startswith("error: the question is empty")
    assert talk.say("/sing").startswith("there is no /sing:\n/teach")
    assert talk.say("   ") == ""


def test_what_was_taught_in_the_terminal_is_there_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    language_model().save_pretrained(tmp_path / "tiny")
    tokenizer().save_pretrained(tmp_path / "tiny")
    monkeypatch.setattr("nestling.models.nested_lm.guard.Guard.check", lambda self, draft, frames: None)
    shell = [
        "nestling",
        "chat",
        "--model",
        str(tmp_path / "tiny"),
        "--memory",
        str(tmp_path / "memory"),
        "--tokens",
        "12",
    ]
    replies = []
    for said in (f"/teach {QUESTION} => {ANSWER}\n/quit\n", f"{QUESTION}\n"):
        monkeypatch.setattr("sys.argv", shell)
        monkeypatch.setattr("sys.stdin", io.StringIO(said))
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 0
        replies.append(capsys.readouterr())
    assert replies[0].out.startswith("learned ")
    assert "1 lessons" in replies[1].err
    assert replies[1].out == f"{ANSWER}\n"
