"""The penalty is the stated one, the Fisher information is the expected squared gradient."""

from __future__ import annotations

import pytest
import torch
from tiny_streams import build_strategy, tiny_stream
from torch import nn

from nestling.errors import InputError
from nestling.learners.base import seeded_generator
from nestling.learners.ewc import ElasticWeightConsolidation, draw_targets
from nestling.streams.base import Examples, Problem, Training


def linear_ewc(kind="classification", num_outputs=3, **options):
    torch.manual_seed(0)
    problem = Problem(kind=kind, input_shape=(2,), num_outputs=num_outputs)
    module = nn.Linear(2, num_outputs).double()
    return ElasticWeightConsolidation(module, problem, training=Training(epochs=1), seed=0, **options)


def two_anchors(strategy, mode):
    generator = seeded_generator(3)
    count = 1 if mode == "online" else 2
    names = [name for name, _ in strategy.module.named_parameters()]
    shapes = {name: value.shape for name, value in strategy.module.named_parameters()}
    for kept in (strategy.importances, strategy.anchors):
        for _ in range(count):
            kept.append({name: torch.rand(shapes[name], generator=generator, dtype=torch.float64) for name in names})


@pytest.mark.parametrize("mode", ["online", "per_task"])
def test_gradient_of_the_penalty_by_autograd_is_strength_times_importance_times_distance(mode):
    strategy = linear_ewc(mode=mode, strength=7.0)
    two_anchors(strategy, mode)
    nothing = Examples(inputs=torch.zeros(1, 2), targets=torch.zeros(1, dtype=torch.int64))
    names, weights = zip(*strategy.module.named_parameters(), strict=True)
    gradients = torch.autograd.grad(strategy.penalty(nothing, torch.zeros(1, 3)), weights)
    for name, weight, gradient in zip(names, weights, gradients, strict=True):
        pairs = zip(strategy.importances, strategy.anchors, strict=True)
        expected = sum(7.0 * importance[name] * (weight - anchor[name]) for importance, anchor in pairs)
        torch.testing.assert_close(gradient, expected.detach(), rtol=0, atol=1e-12)


def test_empirical_fisher_is_the_mean_squared_gradient_by_hand():
    # linear softmax: d(-log p_y)/dW = (p - onehot(y)) x^T
    strategy = linear_ewc(labels="data")
    generator = seeded_generator(1)
    inputs = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    targets = torch.randint(3, (20,), generator=generator)
    fisher = strategy.fisher(Examples(inputs=inputs, targets=targets))
    error = strategy.module(inputs).detach().softmax(-1) - torch.eye(3, dtype=torch.float64)[targets]
    torch.testing.assert_close(fisher["weight"], (error[:, :, None] * inputs[:, None]).square().mean(0))
    torch.testing.assert_close(fisher["bias"], error.square().mean(0))


def test_true_fisher_of_a_softmax_is_p_one_minus_p():
    # for the bias: E_y (p - onehot(y))^2 = p (1 - p), whatever the targets are
    strategy = linear_ewc(labels="model", fisher_samples=2000)
    inputs = torch.ones(2000, 2, dtype=torch.float64)
    fisher = strategy.fisher(Examples(inputs=inputs, targets=torch.zeros(2000, dtype=torch.int64)))
    p = strategy.module(inputs[:1]).detach().softmax(-1)[0]
    torch.testing.assert_close(fisher["bias"], p * (1 - p), rtol=0.1, atol=0.01)


def test_true_fisher_of_a_unit_gaussian_is_the_mean_squared_input():
    strategy = linear_ewc("regression", num_outputs=1, labels="model", fisher_samples=2000)
    inputs = torch.tensor([[2.0, 0.5]], dtype=torch.float64).expand(2000, 2)
    fisher = strategy.fisher(Examples(inputs=inputs, targets=torch.zeros(2000, 1, dtype=torch.float64)))
    torch.testing.assert_close(fisher["weight"], torch.tensor([[4.0, 0.25]], dtype=torch.float64), rtol=0.1, atol=0)


def test_drawn_targets_follow_the_prediction():
    logits = torch.tensor([0.2, 0.3, 0.5]).log().expand(6000, 3)
    share = draw_targets("classification", logits, seeded_generator(0)).bincount() / 6000
    torch.testing.assert_close(share, torch.tensor([0.2, 0.3, 0.5]), rtol=0, atol=0.03)


def test_online_keeps_one_decayed_importance_and_per_task_keeps_all():
    stream = tiny_stream("regression", epochs=1)
    online = build_strategy("ewc", stream, mode="online", decay=0.5, labels="data")
    tasks = build_strategy("ewc", stream, mode="per_task", labels="data")
    for strategy in (online, tasks):
        for experience in stream.experiences:
            strategy.end(experience.train)  # the weights do not move in between
    assert len(online.importances) == 1
    assert len(tasks.importances) == 2
    for name, value in online.importances[0].items():
        torch.testing.assert_close(value, 0.5 * tasks.importances[0][name] + tasks.importances[1][name])


def test_an_infinite_pull_holds_what_was_learned_and_none_is_naive():
    stream = tiny_stream("regression", epochs=10)
    first = stream.experiences[0]
    kept = {}
    for strength in (0.0, 1e4):
        strategy = build_strategy("ewc", stream, strength=strength)
        for experience in stream.experiences:
            list(strategy.learn(experience.train))
        kept[strength] = stream.evaluate(strategy.predict, first)
    assert kept[1e4] < 0.5 * kept[0.0]


@pytest.mark.parametrize(
    "wrong", [{"mode": "offline"}, {"strength": -1.0}, {"decay": 1.5}, {"labels": "true"}, {"fisher_samples": 0}]
)
def test_wrong_options_are_named(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        linear_ewc(**wrong)
