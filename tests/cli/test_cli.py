"""The command line: what it prints, its exit codes, and faults of the machine around it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import nestling
from nestling.cli import main
from nestling.cli.options import parse_options
from nestling.errors import InputError
from nestling.learners import STRATEGIES
from nestling.streams import STREAMS

LIMIT_BYTES = 4000


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["nestling", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "tasks"
    place.mkdir()
    for task in range(3):
        draw = np.random.default_rng(task)
        y = np.repeat([2 * task, 2 * task + 1], 15)
        np.savez(place / f"task{task}.npz", x=draw.normal(size=(30, 3)) + y[:, None], y=y)
    return place


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "nestling", *(str(argument) for argument in arguments)]


def test_learn_ends_with_a_table_and_the_path_of_the_report(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["learn", "--stream", str(folder), "--strategy", "ridge, slda", "--seeds", "2", "--out", str(out)]
    assert run([*arguments, "--stream-option", "seed=3", "--order", "shuffled"], monkeypatch) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("strategy")
    assert [line.split()[0] for line in lines[2:4]] == ["ridge", "slda"]
    assert lines[4] == f"report: {out / 'report.html'}"
    assert "ridge seed 1: learned" in captured.err
    content = json.loads((out / "results.json").read_text())
    assert content["config"]["stream_options"]["seed"] == 3
    assert content["config"]["order"] == "shuffled"
    assert content["command"].startswith(f"nestling learn --stream {folder} --strategy 'ridge, slda'")

    (out / "report.html").unlink()
    assert run(["report", str(out)], monkeypatch) == 0
    assert capsys.readouterr().out == captured.out
    assert (out / "report.html").is_file()

    assert run([*arguments, "--stream-option", "seed=3", "--order", "shuffled"], monkeypatch) == 2
    assert "add --resume" in capsys.readouterr().err
    assert run([*arguments, "--resume", "--order", "shuffled"], monkeypatch) == 2
    assert "cannot resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["learn", "-s", "digits", "-S", "niave", "-o", "OUT"], "did you mean 'naive'"),
        (["learn", "-s", "digitz", "-S", "naive", "-o", "OUT"], "did you mean 'digits'"),
        (["learn", "-s", "./nowhere", "-S", "naive", "-o", "OUT"], "nowhere does not exist"),
        (["learn", "-s", "digits", "-S", ",", "-o", "OUT"], "no strategy was given"),
        (["learn", "-s", "digits", "-S", "naive", "-o", "OUT", "--order", "up"], "'given' or 'shuffled'"),
        (["learn", "-s", "text", "-S", "naive", "-o", "OUT", "--stream-option", "length"], "NAME=VALUE"),
        (["learn", "-s", "text", "-S", "naive", "-o", "OUT", "--stream-option", "length=x"], "expected int, got 'x'"),
        (["learn", "-s", "text", "-S", "naive", "-o", "OUT", "--stream-option", "lenght=9"], "did you mean 'length'"),
        (["learn", "-s", "digits", "-S", "naive:num_copy=2", "-o", "OUT"], "did you mean 'num_copies'"),
        (["learn", "-s", "digits", "-S", "naive:num_copies=two", "-o", "OUT"], "expected int, got 'two'"),
        (["learn", "-s", "digits", "-S", "replay:buffer_size=0", "-o", "OUT"], "expected buffer_size >= 1"),
        (["learn", "-s", f"./{'x' * 300}", "-S", "naive", "-o", "OUT"], "does not exist"),
        (["report", "OUT"], "expected the --out folder"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    out = tmp_path / "run"
    assert run([str(out) if argument == "OUT" else argument for argument in arguments], monkeypatch) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert captured.out == ""
    assert not out.exists()


def test_usage_errors_are_exit_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["learn", "--stream", "digits"], monkeypatch) == 2
    assert "--strategy" in capsys.readouterr().err
    assert run(["forget"], monkeypatch) == 2


def test_lists_and_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"], monkeypatch) == 0
    assert capsys.readouterr().out == f"nestling {nestling.__version__}\n"
    assert run(["streams"], monkeypatch) == 0
    listed = capsys.readouterr().out.splitlines()
    assert set(STREAMS) <= set(listed)
    assert "    --stream-option num_tasks=5" in listed
    assert run(["strategies"], monkeypatch) == 0
    listed = capsys.readouterr().out.splitlines()
    assert set(STRATEGIES) <= set(listed)
    assert "    --strategy replay:buffer_size=50" in listed
    assert "    --strategy continuum:dreams=0.5  (language)" in listed
    assert run(["--help"], monkeypatch) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("learn", "report", "streams", "strategies"))


def test_options_are_read_as_the_builder_wants_them() -> None:
    given = ["num-tasks=3", "tasks=coffee-pull-v3, soccer-v3", "cache_dir=7", "starts=validation"]
    options = parse_options("robot", given)
    assert options["num_tasks"] == 3
    assert options["tasks"] == ["coffee-pull-v3", "soccer-v3"]
    assert str(options["cache_dir"]) == "7"
    assert options["starts"] == "validation"
    assert parse_options("./x", ["test_share=0.5"]) == {"test_share": 0.5}
    with pytest.raises(InputError, match="each name once"):
        parse_options("robot", ["num_tasks=3", "num_tasks=4"])


def test_importing_the_package_is_light() -> None:
    code = "import sys, nestling, nestling.cli; print(sorted({'torch', 'metaworld', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_full_disk_is_one_line_and_nothing_is_half_written(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = subprocess.run(
        command("learn", "-s", folder, "-S", "naive", "-o", out),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, LIMIT_BYTES)),
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "error: cannot write" in done.stderr
    assert "larger than this machine allows" in done.stderr
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["config.json"]
    json.loads((out / "config.json").read_text())


def hear_ctrl_c() -> None:
    """A background job of a shell inherits SIGINT ignored; the program under test must not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_while_processes_start_is_one_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = command("learn", "-s", folder, "-S", "naive,joint", "--jobs", 2, "-o", out)
    with subprocess.Popen(
        arguments, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=hear_ctrl_c
    ) as process:
        while not (out / "config.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.3)  # the others load their libraries now
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.startswith("stopped; go on with: nestling learn -s ")
    assert said.count("\n") == 1
    assert sorted(path.name for path in out.iterdir()) == ["config.json"]


def test_strategies_with_options(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["learn", "-s", str(folder), "-o", str(out), "--stream-option", "test_share=0.3"]
    assert run([*arguments, "-S", "ridge,klda:num-features=9"], monkeypatch) == 0
    assert "klda:num_features=9 seed 0: learned task2" in capsys.readouterr().err
    assert run([*arguments, "-S", "ridge,klda:num_features=9,klda", "--seeds", "2", "--resume"], monkeypatch) == 0
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()[2:5]] == ["ridge", "klda:num_features=9", "klda"]
    assert "ridge seed 0: learned" not in captured.err
    content = json.loads((out / "results.json").read_text())
    assert content["complete"] is True
    assert content["command"].endswith("--resume")
    assert content["config"]["strategy_options"]["klda:num_features=9"]["num_features"] == 9
    assert run([*arguments, "-S", "ridge", "--resume"], monkeypatch) == 2
    assert "it also holds strategy klda:num_features=9, klda; " in capsys.readouterr().err


def test_ctrl_c_leaves_a_run_that_can_be_resumed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["learn", "-s", str(folder), "-S", "naive", "--seeds", "2", "-o", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command(*arguments, "--jobs", 2), stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=hear_ctrl_c
    ) as process:
        assert process.stderr
        assert "learned task0" in process.stderr.readline()
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        *_, last = process.stderr.read().splitlines()
    assert process.returncode == 130
    assert last.startswith("stopped; go on with: nestling learn -s ")
    assert last.endswith("--resume")
    assert run([*arguments, "--resume"], monkeypatch) == 0
    assert capsys.readouterr().err.count("learned task0") < 2
    assert json.loads((out / "results.json").read_text())["complete"] is True
