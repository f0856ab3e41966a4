"""The docs page of the command line is the one that the commands make."""

from __future__ import annotations

from pathlib import Path

import pytest

from nestling.cli import main
from nestling.cli.page import page
from nestling.learners import STRATEGIES
from nestling.streams import STREAMS

COMMANDS = ("demo", "learn", "report", "streams", "strategies", "levels", "bench", "pull", "chat")


def test_the_docs_page_is_current() -> None:
    path = Path(__file__).parents[2] / "docs" / "cli.md"
    assert path.read_text() == page(), "run `python -m nestling.cli.page > docs/cli.md`"


def test_the_docs_page_holds_every_command_stream_and_strategy() -> None:
    text = page()
    for name in COMMANDS:
        assert f"## nestling {name}\n" in text
        assert f"Usage: nestling {name} " in text
    for name in ("speed", "facts"):
        assert f"### nestling bench {name}\n" in text
        assert f"Usage: nestling bench {name} " in text
    for name in (*STREAMS, *STRATEGIES):
        assert f"\n{name}\n    " in text
    assert "--stream-option num_tasks=5" in text


def test_the_page_names_the_commands_that_the_top_help_lists(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["nestling", "--help"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(f" {name} " in shown for name in COMMANDS)
