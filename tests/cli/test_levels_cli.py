"""`nestling levels`: table, JSON, page and errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from nestling.cli import main


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["nestling", "levels", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_digits_under_adamw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "levels"
    assert run(["digits", "--optimizer", "adamw", "--out", str(out)], monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "digits under AdamW: 2 levels, 85,002 parameters and 170,010 numbers of optimizer state"
    assert lines[-1] == f"page: {out / 'levels.html'}"
    cells = [line.split() for line in lines if line[:3].strip().isdigit()]
    assert [(row[0], row[1]) for row in cells] == [("0", "AdamW:")] * 3 + [("1", "0"), ("1", "2"), ("1", "4")]
    assert [row[-1] for row in cells] == ["6", "85,002", "85,002", "16,640", "65,792", "2,570"]
    assert all("every step" in line for line in lines if line[:3].strip().isdigit())
    assert json.loads((out / "levels.json").read_text())["num_levels"] == 2


def test_json_is_all_there_is_on_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["text", "-O", "sgd:momentum=0.9", "--json", "--out", str(tmp_path)], monkeypatch) == 0
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    assert content == json.loads((tmp_path / "levels.json").read_text())
    assert content["components"][0]["name"] == "SGD: momentum m"
    assert captured.err == f"page: {tmp_path / 'levels.html'}\n"


def test_a_function_of_the_working_folder_and_no_optimizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_own_net.py").write_text("from torch import nn\ndef build():\n    return nn.Linear(3, 2)\n")
    monkeypatch.chdir(tmp_path)
    assert run(["my_own_net:build"], monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "my_own_net:build with no optimizer: 1 level, 8 parameters"
    assert lines[-1].startswith("no optimizer: weights as they are used")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digitz"], "did you mean 'digits'"),
        (["digits", "-O", "adawm"], "did you mean 'adam"),
        (["./nowhere"], "nowhere does not exist"),
        (["digits", "--out", "/dev/null/x"], "cannot create the folder"),
    ],
)
def test_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(arguments, monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
