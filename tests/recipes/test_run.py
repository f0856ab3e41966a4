"""One strategy, one seed: the matrix, and going on after an end at any safe point."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from toy_runs import KillAt, KilledError, Recorder, toy_model, toy_stream

from nestling.errors import CheckpointError, InputError
from nestling.learners.naive import Naive
from nestling.recipes import Run, RunRecord
from nestling.recipes.checkpoint import pack
from nestling.streams.class_incremental import accuracy


def figures(record: RunRecord) -> dict[str, object]:
    """All but time and memory."""
    return {
        key: value
        for key, value in asdict(record).items()
        if key not in ("seconds", "evaluation_seconds", "peak_memory_bytes")
    }


def test_the_matrix_is_what_a_plain_loop_gives() -> None:
    stream = toy_stream()
    record = Run(stream, "naive", 3)()
    torch.manual_seed(3)
    module = toy_model()
    untrained = [accuracy(module.eval(), experience) for experience in stream.experiences]
    strategy = Naive(module.train(), stream.problem, training=stream.training, seed=3)
    expected = []
    for experience in stream.experiences:
        for _ in strategy.learn(experience.train):
            pass
        expected.append([accuracy(strategy.predict, other) for other in stream.experiences])
    assert record.matrix == expected
    assert record.baseline == untrained
    assert record.average_accuracy == pytest.approx(sum(expected[-1]) / 3)
    assert record.learning_accuracy == pytest.approx(sum(expected[i][i] for i in range(3)) / 3)
    assert record.num_parameters == sum(p.numel() for p in module.parameters())
    assert record.seconds > 0
    assert record.peak_memory_bytes > 1e7


def test_events_run_from_nothing_to_everything() -> None:
    recorder = Recorder()
    Run(toy_stream(), "naive", 0, listener=recorder)()
    fractions = [event.fraction for event in recorder.events]
    assert fractions[0] == 0
    assert fractions[-1] == 1
    assert fractions == sorted(fractions)
    assert [event.index for event in recorder.events if event.stage == "learned"] == [0, 1, 2]


@pytest.mark.parametrize(("strategy", "every"), [("naive", 0.0), ("naive", 1e9), ("replay", 0.0), ("ridge", 0.0)])
def test_ended_at_any_event_and_resumed_is_bit_for_bit_the_same(tmp_path: Path, strategy: str, every: float) -> None:
    stream = toy_stream()
    recorder = Recorder()
    whole = figures(Run(stream, strategy, 1, listener=recorder)())
    for last in range(0, len(recorder.events), 7):
        folder = tmp_path / f"{last}"
        with pytest.raises(KilledError):
            Run(stream, strategy, 1, folder=folder, every=every, listener=KillAt(last))()
        assert figures(Run(stream, strategy, 1, folder=folder, every=every)()) == whole


def test_ended_at_every_step_it_still_arrives(tmp_path: Path) -> None:
    stream = toy_stream(epochs=2)
    whole = figures(Run(stream, "naive", 0)())
    ended = 0
    while ended < 100:
        try:
            record = Run(stream, "naive", 0, folder=tmp_path, every=0.0, listener=KillAt(2))()
            break
        except KilledError:
            ended += 1
    assert ended > 5
    assert figures(record) == whole


def test_a_damaged_newest_checkpoint_costs_time_but_no_figure(tmp_path: Path) -> None:
    stream = toy_stream()
    whole = figures(Run(stream, "replay", 0)())
    with pytest.raises(KilledError):
        Run(stream, "replay", 0, folder=tmp_path, every=0.0, listener=KillAt(15))()
    newest = max(tmp_path.iterdir())
    newest.write_bytes(newest.read_bytes()[:100])
    recorder = Recorder()
    assert figures(Run(stream, "replay", 0, folder=tmp_path, listener=recorder)()) == whole
    assert "trying the one before" in recorder.messages[0]


def test_a_finished_run_is_not_learned_again(tmp_path: Path) -> None:
    first = Run(toy_stream(), "naive", 0, folder=tmp_path)()
    recorder = Recorder()
    again = Run(toy_stream(), "naive", 0, folder=tmp_path, listener=recorder)()
    assert figures(again) == figures(first)
    assert again.seconds == first.seconds
    assert [event.stage for event in recorder.events] == ["finished"]


@pytest.mark.parametrize("state", [{}, {"position": {"place": 1}}, "another strategy"])
def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, state: dict[str, object] | str) -> None:
    Run(toy_stream(), "ridge", 0, folder=tmp_path / "ridge")()
    content = max((tmp_path / "ridge").iterdir()).read_bytes() if isinstance(state, str) else pack(state)
    (tmp_path / "naive").mkdir()
    (tmp_path / "naive" / "00000001.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is of another run or version .*; delete that folder"):
        Run(toy_stream(), "naive", 0, folder=tmp_path / "naive")()


def test_a_spec_is_run_with_its_options() -> None:
    record = Run(toy_stream(epochs=1), "replay:buffer_size=7:num_copies=2", 0)()
    assert record.strategy == "replay:buffer_size=7:num_copies=2"
    assert record.stored_bytes == 7 * (4 * 4 + 8)
    assert record.num_parameters == 2 * sum(weight.numel() for weight in toy_model().parameters())


def test_a_score_that_is_not_a_number_is_an_error() -> None:
    stream = replace(toy_stream(), evaluate=lambda predict, experience: float("nan"))
    with pytest.raises(InputError, match="nan on '0-1' before learning"):
        Run(stream, "naive", 0)()
