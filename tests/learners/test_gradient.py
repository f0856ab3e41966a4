"""The shared training loop: the effort it spends, what it refuses, where it may be resumed."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_streams import build_strategy, learn_all, tiny_stream
from torch import nn

from nestling.errors import CheckpointError, InputError
from nestling.learners.gradient import fingerprint, loss_of
from nestling.learners.naive import Naive
from nestling.streams.base import Examples, Problem, Training


def linear_naive(training):
    torch.manual_seed(0)
    problem = Problem(kind="regression", input_shape=(2,), num_outputs=1)
    return Naive(nn.Linear(2, 1), problem, training=training, seed=0)


def ten_examples():
    generator = torch.Generator().manual_seed(5)
    return Examples(inputs=torch.randn(10, 2, generator=generator), targets=torch.randn(10, 1, generator=generator))


def test_loss_by_hand():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    targets = torch.tensor([1, 0])
    assert loss_of("classification", logits, targets).item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    assert loss_of("language", logits[None], targets[None]).item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    assert loss_of("regression", torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])).item() == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("training", "epochs"),
    [
        (Training(epochs=3, batch_size=4), 3),  # 3 steps an epoch
        (Training(epochs=3, batch_size=4, min_steps=10), 4),
        (Training(epochs=3, batch_size=4, min_steps=9), 3),
        (Training(epochs=0, batch_size=100), 1),
    ],
)
def test_spends_the_effort_that_training_says(training, epochs):
    strategy = linear_naive(training)
    steps = list(strategy.learn(ten_examples()))
    assert [step.done for step in steps] == list(range(1, epochs + 1))
    assert {step.total for step in steps} == {epochs}


def test_one_full_batch_step_is_adamw_by_hand():
    training = Training(epochs=1, batch_size=10, lr=0.1, weight_decay=0.5)
    strategy = linear_naive(training)
    examples = ten_examples()
    weight = strategy.module.weight.detach().clone()
    loss = loss_of("regression", strategy.module(examples.inputs), examples.targets)
    (gradient,) = torch.autograd.grad(loss, [strategy.module.weight])
    list(strategy.learn(examples))
    # first AdamW step: both moments bias-corrected are g and g^2, weight decay is decoupled
    expected = weight * (1 - 0.1 * 0.5) - 0.1 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(strategy.module.weight, expected)


def test_the_optimizer_starts_afresh_with_every_experience():
    strategy = linear_naive(Training(epochs=1, batch_size=10, lr=0.1))
    examples = ten_examples()
    list(strategy.learn(examples))
    assert strategy.state_dict()["optimizer"] is None
    before = strategy.module.weight.detach().clone()
    list(strategy.learn(examples))
    # with fresh moments the first step moves every weight by exactly the learning rate
    torch.testing.assert_close((strategy.module.weight - before).abs(), torch.full((1, 2), 0.1))


def test_frozen_weights_stay_and_all_frozen_is_refused():
    strategy = linear_naive(Training(epochs=1))
    strategy.module.weight.requires_grad_(requires_grad=False)
    before = strategy.module.weight.clone()
    list(strategy.learn(ten_examples()))
    assert torch.equal(strategy.module.weight, before)
    strategy.module.bias.requires_grad_(requires_grad=False)
    with pytest.raises(InputError, match="no parameters that require a gradient"):
        list(strategy.learn(ten_examples()))


def test_a_diverging_loss_is_an_error_and_leaves_finite_weights():
    strategy = linear_naive(Training(epochs=1))
    examples = Examples(inputs=torch.full((4, 2), torch.inf), targets=torch.zeros(4, 1))
    with pytest.raises(InputError, match="expected a finite number"):
        list(strategy.learn(examples))
    assert all(torch.isfinite(parameter).all() for parameter in strategy.module.parameters())


def test_no_examples_is_an_error():
    with pytest.raises(InputError, match="at least one example"):
        list(linear_naive(Training()).learn(Examples(inputs=torch.zeros(0, 2), targets=torch.zeros(0, 1))))


def test_an_interrupted_experience_must_be_finished_with_its_own_examples():
    strategy = linear_naive(Training(epochs=3))
    next(strategy.learn(ten_examples()))
    other = Examples(inputs=torch.ones(10, 2), targets=torch.ones(10, 1))
    with pytest.raises(CheckpointError, match="after 1 of 3 epochs of other examples"):
        list(strategy.learn(other))
    assert [step.done for step in strategy.learn(ten_examples())] == [2, 3]


def test_the_last_safe_point_can_be_finished_or_followed_by_the_next_experience():
    stream = tiny_stream("classification", epochs=2)
    uninterrupted = learn_all(build_strategy("naive", stream), stream)
    first, second = (experience.train for experience in stream.experiences)
    for again in (True, False):
        killed = build_strategy("naive", stream)
        for progress in killed.learn(first):
            if progress.done == progress.total:
                break
        resumed = build_strategy("naive", stream)
        resumed.load_state_dict(killed.state_dict())
        if again:
            assert len(list(resumed.learn(first))) == 1
        list(resumed.learn(second))
        for name, value in uninterrupted.state_dict()["module"].items():
            assert torch.equal(value, resumed.state_dict()["module"][name])


def test_weights_of_another_module_are_refused():
    stream = tiny_stream("classification")
    state = build_strategy("naive", stream).state_dict()
    other = Naive(nn.Linear(3, 2), stream.problem, training=stream.training, seed=0)
    with pytest.raises(CheckpointError, match="do not fit this module"):
        other.load_state_dict(state)


def test_fingerprint_sees_values_types_and_shapes():
    examples = ten_examples()
    same = Examples(inputs=examples.inputs.clone(), targets=examples.targets.clone())
    assert fingerprint(examples) == fingerprint(same)
    same.inputs[3, 1] += 1e-6
    assert fingerprint(examples) != fingerprint(same)
    zeros = [Examples(inputs=torch.zeros(2, 2), targets=torch.zeros(shape)) for shape in ((2, 1), (2,))]
    assert fingerprint(zeros[0]) != fingerprint(zeros[1])
