"""The whole job from Python: results, configuration, resuming, refusing."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_runs import KillAt, KilledError, Recorder, toy_model, toy_stream, wide_model

import nestling
from nestling.errors import InputError, ResourceError, ShapeError, UnknownNameError
from nestling.recipes import load_results
from nestling.recipes import run as run_module

RUN_KEYS = {
    "strategy", "seed", "matrix", "average_accuracy", "forgetting", "backward_transfer", "forward_transfer",
    "stored_bytes", "state_bytes", "num_parameters", "seconds", "peak_memory_bytes",
}  # fmt: skip
SUMMARY_KEYS = {"strategy", "average_accuracy_mean", "average_accuracy_std", "forgetting_mean", "forgetting_std"}


def figures(path: Path) -> dict[str, object]:
    """The content of results.json but time, memory and the command."""
    content = json.loads(path.read_text())
    content.pop("command")
    for run in content["runs"]:
        for key in ("seconds", "evaluation_seconds", "peak_memory_bytes"):
            run.pop(key)
    for row in content["summary"]:
        for key in ("seconds_mean", "peak_memory_bytes_mean"):
            row.pop(key)
    return content


def runs_of(path: Path) -> dict[tuple[str, int], object]:
    """Runs by strategy and seed, without time and memory."""
    runs = figures(path)["runs"]
    assert isinstance(runs, list)
    return {(run["strategy"], run["seed"]): run for run in runs}


class Bare(torch.nn.Linear):
    """A layer that cannot draw its weights anew."""

    def __init__(self) -> None:
        super().__init__(4, 6)
        self.reset_parameters = None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three small files, two classes each."""
    place = tmp_path / "tasks"
    place.mkdir()
    for task in range(3):
        generator = np.random.default_rng(task)
        y = np.repeat([2 * task, 2 * task + 1], 15)
        np.savez(place / f"task{task}.npz", x=generator.normal(size=(30, 3)) + y[:, None], y=y)
    return place


def test_results_json_has_the_agreed_keys(tmp_path: Path) -> None:
    stream = toy_stream()
    result = nestling.learn(stream=stream, strategies="naive, ridge", seeds=2, out=tmp_path / "run")
    content = json.loads((tmp_path / "run" / "results.json").read_text())
    assert content["stream"] == {"name": "toy", "experiences": ["0-1", "2-3", "4-5"], "hash": stream.source_hash}
    assert len(content["runs"]) == 4
    assert all(run.keys() >= RUN_KEYS for run in content["runs"])
    assert all(row.keys() >= SUMMARY_KEYS for row in content["summary"])
    assert content["config"]["seeds"] == [0, 1]
    assert content["config"]["training"]["epochs"] == 3
    assert content["complete"] is True
    assert load_results(tmp_path / "run") == result
    means = np.mean([run["average_accuracy"] for run in content["runs"][:2]])
    assert content["summary"][0]["average_accuracy_mean"] == pytest.approx(means)
    spread = np.std([run["forgetting"] for run in content["runs"][:2]], ddof=1)
    assert content["summary"][0]["forgetting_std"] == pytest.approx(spread)
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


def test_the_callers_random_state_and_threads_are_left_alone() -> None:
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    nestling.learn(stream=toy_stream(), strategies=["naive"])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_several_processes_give_the_same_figures(tmp_path: Path) -> None:
    job = partial(nestling.learn, stream=toy_stream(), strategies=["naive", "replay"], seeds=2, order="shuffled")
    job(out=tmp_path / "one")
    job(out=tmp_path / "two", jobs=2)
    assert figures(tmp_path / "one" / "results.json") == figures(tmp_path / "two" / "results.json")


def test_an_error_in_another_process_arrives_here(tmp_path: Path, folder: Path) -> None:
    blocked = tmp_path / "run"
    (blocked / "checkpoints").mkdir(parents=True)
    (blocked / "checkpoints" / "ridge-seed1").write_text("a file in the way")
    config = tmp_path / "other"
    nestling.learn(stream=folder, strategies=["ridge"], seeds=2, out=config)
    (blocked / "config.json").write_bytes((config / "config.json").read_bytes())
    with pytest.raises(ResourceError, match="ridge-seed1"):
        nestling.learn(stream=folder, strategies=["ridge"], seeds=2, out=blocked, resume=True, jobs=2)


def test_shuffled_orders_differ_between_seeds_and_say_so(folder: Path) -> None:
    result = nestling.learn(stream=folder, strategies=["ridge"], seeds=4, order="shuffled")
    orders = {tuple(run.experiences) for run in result.runs}
    assert len(orders) > 1
    assert all(sorted(order) == ["task0", "task1", "task2"] for order in orders)
    assert result.stream.experiences == ["task0", "task1", "task2"]


def test_ended_and_resumed_gives_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    job = partial(nestling.learn, stream=toy_stream(), strategies=["naive", "replay"], seeds=2)
    job(out=tmp_path / "whole")
    with pytest.raises(KilledError):
        job(out=tmp_path / "parts", listener=KillAt(40))
    partial_result = load_results(tmp_path / "parts")
    assert not partial_result.complete
    assert [run.strategy for run in partial_result.runs] == ["naive"]
    job(out=tmp_path / "parts", resume=True)
    assert figures(tmp_path / "parts" / "results.json") == figures(tmp_path / "whole" / "results.json")


def test_a_used_folder_is_refused_without_resume(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty; add --resume"):
        nestling.learn(stream=toy_stream(), strategies=["ridge"], out=tmp_path)
    with pytest.raises(InputError, match="holds no run"):
        nestling.learn(stream=toy_stream(), strategies=["ridge"], out=tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("order", {"order": "shuffled"}),
        ("model", {"model": toy_model}),
        ("threads", {"threads": 2}),
        ("training", {"stream": toy_stream(epochs=4)}),
    ],
)
def test_resuming_something_else_names_the_difference(tmp_path: Path, key: str, change: dict[str, object]) -> None:
    given = {"stream": toy_stream(), "strategies": ["ridge"], "seeds": 1, "out": tmp_path}
    nestling.learn(**given)
    with pytest.raises(InputError, match=f"cannot resume .*: {key} was"):
        nestling.learn(**{**given, "resume": True, **change})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seeds": 1}, "seed 1"),
        ({"seeds": [0, 2]}, "seed 1"),
        ({"strategies": ["ridge"]}, "strategy slda, replay:buffer_size=9"),
        ({"strategies": ["ridge", "slda", "replay"]}, "strategy replay:buffer_size=9"),
    ],
)
def test_a_resumed_run_cannot_lose_a_strategy_or_seed(tmp_path: Path, change: dict[str, object], what: str) -> None:
    given = {"stream": toy_stream(), "strategies": "ridge,slda,replay:buffer_size=9", "seeds": 2, "out": tmp_path}
    nestling.learn(**given)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=f"it also holds {what}; .*added to a run, not left out"):
        nestling.learn(**{**given, "resume": True, **change})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_with_seeds_and_strategies_added_is_the_run_with_all_of_them(tmp_path: Path, jobs: int) -> None:
    job = partial(nestling.learn, stream=toy_stream(), order="shuffled", jobs=jobs)
    job(strategies="replay:buffer_size=9,ridge", seeds=2, out=tmp_path / "whole")
    job(strategies="ridge", seeds=[1], out=tmp_path / "grown")
    first = json.loads((tmp_path / "grown" / "results.json").read_text())["runs"]
    result = job(strategies="replay:buffer_size=9,ridge", seeds=2, out=tmp_path / "grown", resume=True)
    assert result.config["strategies"] == ["ridge", "replay:buffer_size=9"]
    assert result.config["seeds"] == [1, 0]
    assert result.config == json.loads((tmp_path / "grown" / "config.json").read_text())["config"]
    kept = next(asdict(run) for run in result.runs if (run.strategy, run.seed) == ("ridge", 1))
    assert kept["seconds"] == first[0]["seconds"]
    grown, whole = (runs_of(tmp_path / name / "results.json") for name in ("grown", "whole"))
    assert grown == whole
    assert len(whole) == 4

    job(strategies="replay:buffer_size=9,ridge", seeds=2, out=tmp_path / "in order", resume=True)
    job(strategies="replay:buffer_size=9,ridge", seeds=3, out=tmp_path / "in order", resume=True)
    job(strategies="replay:buffer_size=9,ridge,slda", seeds=3, out=tmp_path / "in order", resume=True)
    job(strategies="replay:buffer_size=9,ridge,slda", seeds=3, out=tmp_path / "at once")
    assert figures(tmp_path / "in order" / "results.json") == figures(tmp_path / "at once" / "results.json")


def test_a_killed_extension_still_shows_what_was_there(tmp_path: Path) -> None:
    job = partial(nestling.learn, stream=toy_stream(), out=tmp_path)
    job(strategies="ridge,slda")
    with pytest.raises(KilledError):
        job(strategies="ridge,slda,naive", seeds=2, resume=True, listener=KillAt(20))
    shown = load_results(tmp_path)
    assert not shown.complete
    assert {("ridge", 0), ("slda", 0)} <= {(run.strategy, run.seed) for run in shown.runs}
    (tmp_path / "results.json").write_text("{")
    recorder = Recorder()
    assert job(strategies="ridge,slda,naive", seeds=2, resume=True, listener=recorder).complete
    assert "is made again from the checkpoints" in recorder.messages[0]


def test_specs_of_one_strategy_stand_side_by_side(tmp_path: Path) -> None:
    given = "replay, replay : buffer-size = 6, ewc:strength=1e2:mode=per_task"
    result = nestling.learn(stream=toy_stream(epochs=1), strategies=given, out=tmp_path)
    labels = ["replay", "replay:buffer_size=6", "ewc:mode=per_task:strength=100"]
    assert [run.strategy for run in result.runs] == labels
    assert [row.strategy for row in result.summary] == labels
    assert [run.stored_bytes for run in result.runs] == [50 * 24, 6 * 24, 0]
    assert result.config["strategy_options"]["replay"] == {"buffer_size": 50, "num_copies": 1}
    assert result.config["strategy_options"][labels[2]]["strength"] == 100.0
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert "replay-seed0" in names
    assert all(re.fullmatch(r"[A-Za-z0-9._=-]+", name) for name in names)
    assert all(label in (tmp_path / "report.html").read_text() for label in labels)
    again = nestling.learn(stream=toy_stream(epochs=1), strategies=labels, out=tmp_path, resume=True)
    assert [run.seconds for run in again.runs] == [run.seconds for run in result.runs]


def test_a_changed_default_is_seen_when_resuming(tmp_path: Path) -> None:
    job = partial(nestling.learn, stream=toy_stream(epochs=1), strategies="replay", out=tmp_path)
    job()
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"buffer_size": 50', '"buffer_size": 40'))
    with pytest.raises(InputError, match=r"options of 'replay' was \{.*40.*\} and is now .*50"):
        job(resume=True)


def test_resuming_on_changed_data_is_refused(folder: Path, tmp_path: Path) -> None:
    nestling.learn(stream=folder, strategies=["ridge"], out=tmp_path / "run")
    np.savez(folder / "task1.npz", x=np.zeros((30, 3)), y=np.repeat([2, 3], 15))
    with pytest.raises(InputError, match="stream_hash was"):
        nestling.learn(stream=folder, strategies=["ridge"], out=tmp_path / "run", resume=True)


def test_resuming_nothing_begins(tmp_path: Path) -> None:
    (tmp_path / ".config.json.unfinished").write_text("{")
    result = nestling.learn(stream=toy_stream(), strategies=["ridge"], out=tmp_path, resume=True)
    assert result.complete


def test_a_model_of_ones_own_is_used() -> None:
    result = nestling.learn(stream=toy_stream(), strategies=["naive"], model=lambda: torch.nn.Linear(4, 6))
    assert result.runs[0].num_parameters == 30


def test_a_model_of_the_wrong_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"set its last layer to 6 outputs"):
        nestling.learn(stream=toy_stream(), strategies=["naive"], model=wide_model, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ShapeError, match=r"does not accept inputs of shape \(2, 4\)"):
        nestling.learn(stream=toy_stream(), strategies=["naive"], model=lambda: torch.nn.Linear(5, 6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategies": ["naiv"]}, "did you mean 'naive'"),
        ({"strategies": []}, "no strategy"),
        ({"strategies": ["naive:num_copy=2"]}, "did you mean 'num_copies'"),
        ({"strategies": ["naive:num_copies"]}, "expected naive:option=value"),
        ({"strategies": ["naive:num_copies=2:num_copies=3"]}, "each option once"),
        ({"strategies": ["naive:num_copies=2.5"]}, "expected int, got '2.5'"),
        ({"strategies": ["naive:num_copies=0"]}, "expected num_copies >= 1"),
        ({"strategies": ["ewc:strength=nan"]}, "expected float, got 'nan'"),
        ({"strategies": ["ewc:mode=offline"]}, "expected online or per_task, got 'offline'"),
        ({"strategies": ["ridge:strength=1"]}, "'ridge' has no options, got 'strength'"),
        ({"strategies": ["continuum:dreams=1"]}, "'continuum' on a stream of classification 'dreams'"),
        ({"strategies": ["klda:num_features=-1"]}, "num_features and num_members >= 1"),
        ({"strategies": ["naive:num_copies=2"], "model": Bare}, "cannot: Bare has weights and no reset_parameters"),
        ({"seeds": 0}, "at least one seed"),
        ({"seeds": [-1]}, "none below 0"),
        ({"order": "sorted"}, "'given' or 'shuffled'"),
        ({"jobs": 0}, "at least 1 job"),
        ({"threads": 0}, "at least 1 thread"),
        ({"resume": True}, "give out="),
        ({"stream": "digit"}, "did you mean 'digits'"),
        ({"stream": "digits", "stream_options": {"x": 1}}, "has no options"),
        ({"stream": "text", "stream_options": {"lenght": 1}}, "did you mean 'length'"),
        ({"stream": "text", "strategies": ["ridge"]}, "stream 'text' is language"),
        ({"stream_options": {"x": 1}}, "already built"),
        ({"jobs": 2, "seeds": 2, "model": lambda: toy_model()}, "use jobs=1"),
    ],
)
def test_what_cannot_be_run_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        nestling.learn(**{"stream": toy_stream(), "strategies": ["naive"], **change})


def test_unknown_names_are_their_own_kind_of_error() -> None:
    with pytest.raises(UnknownNameError):
        nestling.learn(stream=toy_stream(), strategies=["nothing like it"])


def test_the_result_is_plain_data(tmp_path: Path) -> None:
    result = nestling.learn(stream=toy_stream(), strategies=["ridge"])
    assert json.loads(json.dumps(asdict(result), allow_nan=False))["metric"] == "accuracy"
    assert result.command == ("nestling.learn(stream='toy', strategies=['ridge'], seeds=[0], order='given')")
    report = result.save(tmp_path / "new")
    assert report == tmp_path / "new" / "report.html"
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"results.json", "report.html"}
