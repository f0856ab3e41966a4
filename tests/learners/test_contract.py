"""What every strategy in the table owes, on a small stream of each kind it says it learns."""

from __future__ import annotations

import io
from functools import cache
from itertools import pairwise

import pytest
import torch
from tiny_streams import CASES, build_strategy, learn_all, tiny_stream

from nestling.errors import NestlingError
from nestling.learners import STRATEGIES
from nestling.learners.gradient import GradientStrategy
from nestling.streams.base import Examples

STORES_EXAMPLES = {"joint", "replay"}
# Strategies that promise only to slow forgetting down owe nothing here; see each one's own tests.
REMEMBERS = [case for case in CASES if case[0] not in {"naive", "ewc", "lwf"}]
every_case = pytest.mark.parametrize(("name", "kind"), CASES)


def through_disk(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def differences(a, b, path="state"):
    """Paths at which two nested states are not the same, bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [path]
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{path}: keys {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [found for key in a for found in differences(a[key], b[key], f"{path}.{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return [f"{path}: lengths {len(a)} and {len(b)}"]
        return [found for i, (x, y) in enumerate(zip(a, b)) for found in differences(x, y, f"{path}[{i}]")]
    return [] if a == b else [path]


@cache
def scores(name, kind):
    """Untrained scores [2] and the matrix R [2, 2] of a strategy on the tiny stream of `kind`."""
    stream = tiny_stream(kind)
    strategy = build_strategy(name, stream)
    untrained = [stream.evaluate(build_strategy("naive", stream).predict, each) for each in stream.experiences]
    matrix = []
    for experience in stream.experiences:
        for _ in strategy.learn(experience.train):
            pass
        matrix.append([stream.evaluate(strategy.predict, each) for each in stream.experiences])
    return untrained, matrix


@every_case
def test_learns_each_experience_when_it_arrives(name, kind):
    untrained, matrix = scores(name, kind)
    for before, after in zip(untrained, (matrix[0][0], matrix[1][1])):
        if kind == "classification":
            assert after >= 0.9
        elif kind == "regression":
            assert after <= 0.3 * before
        else:
            assert after <= before - 0.5


@pytest.mark.parametrize(("name", "kind"), REMEMBERS)
def test_remembers_the_first_experience_better_than_naive(name, kind):
    kept, lost = scores(name, kind)[1][1][0], scores("naive", kind)[1][1][0]
    if kind == "classification":
        assert kept >= lost + 0.3
    elif kind == "regression":
        assert kept <= 0.5 * lost
    else:
        assert kept <= lost - 0.3


@every_case
def test_predict_leaves_no_trace(name, kind):
    stream = tiny_stream(kind, epochs=1)
    strategy = learn_all(build_strategy(name, stream), stream)
    inputs = stream.experiences[0].test.inputs
    inputs_before, state_before = inputs.clone(), through_disk(strategy.state_dict())
    mode_before, random_before = strategy.module.training, torch.get_rng_state()
    first = strategy.predict(inputs)
    second = strategy.predict(inputs)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert torch.isfinite(first).all()
    shape = (*inputs.shape, stream.num_outputs) if kind == "language" else (len(inputs), stream.num_outputs)
    assert first.shape == shape
    assert differences(state_before, strategy.state_dict()) == []
    assert strategy.module.training == mode_before
    assert torch.equal(inputs, inputs_before)
    assert torch.equal(random_before, torch.get_rng_state())


@every_case
def test_rows_are_answered_independently(name, kind):
    stream = tiny_stream(kind, epochs=1)
    strategy = learn_all(build_strategy(name, stream), stream)
    inputs = stream.experiences[1].test.inputs[:5]
    alone = torch.cat([strategy.predict(inputs[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(strategy.predict(inputs), alone, rtol=1e-3, atol=1e-4)


@every_case
def test_state_survives_the_disk(name, kind):
    stream = tiny_stream(kind, epochs=2)
    strategy = learn_all(build_strategy(name, stream), stream)
    restored = build_strategy(name, stream)
    restored.load_state_dict(through_disk(strategy.state_dict()))
    assert differences(strategy.state_dict(), restored.state_dict()) == []
    for experience in stream.experiences:
        assert torch.equal(strategy.predict(experience.test.inputs), restored.predict(experience.test.inputs))
    assert restored.stored_bytes() == strategy.stored_bytes()
    assert restored.num_parameters() == strategy.num_parameters()


@every_case
def test_killed_at_any_safe_point_and_resumed_is_bit_for_bit_the_same(name, kind):
    stream = tiny_stream(kind, epochs=2)
    uninterrupted = build_strategy(name, stream)
    safe_points = []
    for index, experience in enumerate(stream.experiences):
        for progress in uninterrupted.learn(experience.train):
            if progress.done < progress.total:
                safe_points.append((index, index, through_disk(uninterrupted.state_dict())))
        safe_points.append((index, index + 1, through_disk(uninterrupted.state_dict())))
    assert safe_points
    for number, (_, start, state) in enumerate(safe_points):
        torch.manual_seed(1000 + number)  # another process has another global generator
        resumed = build_strategy(name, stream)
        resumed.load_state_dict(state)
        for experience in stream.experiences[start:]:
            for _ in resumed.learn(experience.train):
                pass
        assert differences(uninterrupted.state_dict(), resumed.state_dict()) == [], f"safe point {number}"


@every_case
def test_a_state_taken_at_a_safe_point_does_not_change_later(name, kind):
    stream = tiny_stream(kind, epochs=2)
    strategy = build_strategy(name, stream)
    for _ in strategy.learn(stream.experiences[0].train):
        pass
    taken = strategy.state_dict()
    copy = through_disk(taken)
    for _ in strategy.learn(stream.experiences[1].train):
        pass
    assert differences(copy, taken) == []


@every_case
def test_progress_counts_up_to_its_total(name, kind):
    stream = tiny_stream(kind, epochs=3)
    strategy = build_strategy(name, stream)
    steps = list(strategy.learn(stream.experiences[0].train))
    assert all(0 <= earlier.done <= later.done for earlier, later in pairwise(steps))
    assert steps[-1].done == steps[-1].total >= 1


@every_case
def test_counts_what_it_keeps(name, kind):
    stream = tiny_stream(kind, epochs=1)
    strategy = learn_all(build_strategy(name, stream), stream)
    assert (strategy.stored_bytes() > 0) == (name in STORES_EXAMPLES)
    assert strategy.state_bytes() > 0
    assert strategy.num_parameters() > 0


@every_case
def test_learning_derives_from_the_seed_alone(name, kind):
    stream = tiny_stream(kind, epochs=2)
    states = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        states.append(learn_all(build_strategy(name, stream, seed=7), stream).state_dict())
        assert torch.equal(before, torch.get_rng_state())
    assert differences(*states) == []
    other = learn_all(build_strategy(name, stream, seed=8), stream)
    same = learn_all(build_strategy(name, stream, seed=7), stream)
    if isinstance(other, GradientStrategy):
        inputs = stream.experiences[1].test.inputs
        assert not torch.equal(same.predict(inputs), other.predict(inputs))


@every_case
def test_examples_are_not_changed(name, kind):
    stream = tiny_stream(kind, epochs=1)
    before = [(part.train.inputs.clone(), part.train.targets.clone()) for part in stream.experiences]
    learn_all(build_strategy(name, stream), stream)
    for (inputs, targets), experience in zip(before, stream.experiences, strict=True):
        assert torch.equal(inputs, experience.train.inputs)
        assert torch.equal(targets, experience.train.targets)


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case[1] != "language"])
def test_nan_in_the_inputs_is_an_error_that_says_so(name, kind):
    stream = tiny_stream(kind, epochs=1)
    train = stream.experiences[0].train
    spoilt = train.inputs.clone()
    spoilt[3, 1] = torch.nan
    strategy = build_strategy(name, stream)
    with pytest.raises(NestlingError, match=r"(?i)nan"):
        list(strategy.learn(Examples(inputs=spoilt, targets=train.targets)))


def test_names_in_the_table_are_the_strategies_own():
    assert all(name == strategy.name and strategy.summary for name, strategy in STRATEGIES.items())
