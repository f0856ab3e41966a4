"""The distillation is the stated divergence, over the classes that are known."""

from __future__ import annotations

import pytest
import torch
from tiny_streams import build_strategy, tiny_stream

from nestling.errors import InputError
from nestling.learners.base import seeded_generator
from nestling.learners.lwf import distillation_loss


def test_distillation_is_the_written_out_divergence_and_its_gradient():
    generator = seeded_generator(0)
    student, teacher = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()
    p, q = (teacher / 3).softmax(-1), (student / 3).softmax(-1)
    by_hand = 9 * (p * (p / q).log()).sum(-1).mean()
    loss = distillation_loss(student, teacher, 3.0)
    torch.testing.assert_close(loss, by_hand)
    (gradient,) = torch.autograd.grad(loss, [student])
    torch.testing.assert_close(gradient, 3 * (q - p).detach() / 5)
    assert distillation_loss(teacher, teacher, 2.0).item() == pytest.approx(0, abs=1e-12)


def test_the_first_experience_has_no_teacher_and_later_ones_are_taught_known_classes_only():
    stream = tiny_stream("classification", epochs=1)
    strategy = build_strategy("lwf", stream, strength=2.0, temperature=1.5)
    first, second = (experience.train for experience in stream.experiences)
    strategy.begin(first)
    assert strategy.penalty(first, strategy.module(first.inputs)) is None
    list(strategy.learn(first))
    assert strategy.known_classes == [0, 1]
    strategy.begin(second)
    old = strategy.predict(second.inputs)
    new = torch.randn(old.shape, generator=seeded_generator(1))
    expected = 2.0 * distillation_loss(new[:, :2], old[:, :2], 1.5)
    torch.testing.assert_close(strategy.penalty(second, new), expected)


def test_regression_is_held_to_the_old_outputs():
    stream = tiny_stream("regression", epochs=1)
    strategy = build_strategy("lwf", stream, strength=3.0)
    first, second = (experience.train for experience in stream.experiences)
    list(strategy.learn(first))
    strategy.begin(second)
    old = strategy.predict(second.inputs)
    torch.testing.assert_close(strategy.penalty(second, old + 2), torch.tensor(12.0))


def test_strong_distillation_forgets_less_than_none():
    stream = tiny_stream("language")
    kept = []
    for strength in (0.0, 5.0):
        strategy = build_strategy("lwf", stream, strength=strength)
        for experience in stream.experiences:
            list(strategy.learn(experience.train))
        kept.append(stream.evaluate(strategy.predict, stream.experiences[0]))
    assert kept[1] < kept[0] - 0.3


@pytest.mark.parametrize("wrong", [{"strength": -1.0}, {"temperature": 0.0}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(InputError, match="strength >= 0 and temperature > 0"):
        build_strategy("lwf", tiny_stream("language"), **wrong)
