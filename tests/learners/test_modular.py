"""The gate is a true density, the mixture is Bayes' rule, and networks do not touch each other."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf
from tiny_streams import build_strategy, learn_all, tiny_stream

from nestling.learners import task_density
from nestling.learners.base import seeded_generator
from nestling.learners.modular import mixture_over_tokens
from nestling.learners.task_density import TaskDensity, fit_density, shrunk_covariance


def test_shrinkage_is_ledoit_and_wolfs():
    rows = torch.randn(20, 6, generator=seeded_generator(0), dtype=torch.float64) @ torch.diag(
        torch.arange(1.0, 7).double()
    )
    centred = rows - rows.mean(0)
    expected, _ = ledoit_wolf(centred.numpy(), assume_centered=True)
    torch.testing.assert_close(shrunk_covariance(centred), torch.from_numpy(expected))


@pytest.mark.parametrize("widest", [2048, 2])
def test_density_is_the_mixture_of_gaussians_by_scipy(widest, monkeypatch):
    monkeypatch.setattr(task_density, "MAX_FULL_WIDTH", widest)
    generator = seeded_generator(1)
    labels = torch.arange(40) % 2
    inputs = torch.randn(40, 3, generator=generator) * torch.tensor([1.0, 2.0, 0.5]) + labels[:, None]
    density = fit_density(inputs, labels)
    means = torch.stack([inputs[labels == g].mean(0) for g in (0, 1)]).double()
    centred = inputs.double() - means[labels]
    covariance = shrunk_covariance(centred) if widest > 2 else torch.diag(centred.square().mean(0))
    covariance = covariance + 1e-6 * covariance.diagonal().mean() * torch.eye(3)
    points = torch.randn(7, 3, generator=generator)
    each = [multivariate_normal(mean.numpy(), covariance.numpy()).pdf(points.numpy()) for mean in means]
    expected = torch.tensor(sum(each) / 2).log().float()
    torch.testing.assert_close(density.log_density(points), expected, rtol=1e-4, atol=1e-4)


def test_constant_inputs_have_a_finite_density():
    density = fit_density(torch.ones(1, 4))
    assert torch.isfinite(density.log_density(torch.ones(2, 4))).all()
    assert isinstance(density, TaskDensity)


def test_tokens_read_so_far_choose_the_network_by_bayes_rule():
    # network 0 says token 0 with p 0.9, network 1 with p 0.2; the text is 0 0 1
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    outputs = p.log()[:, None, None, :].expand(2, 1, 3, 2)
    mixed = mixture_over_tokens(outputs, torch.tensor([[0, 0, 1]])).exp()[0, :, 0]
    # position 0: nothing predicted yet; 1: one 0 was predicted; 2: a 0 and a 1 were
    expected = []
    for weights in ((1.0, 1.0), (0.9, 0.2), (0.9 * 0.1, 0.2 * 0.8)):
        expected.append((weights[0] * 0.9 + weights[1] * 0.2) / sum(weights))
    torch.testing.assert_close(mixed, torch.tensor(expected))


def test_the_first_network_is_unchanged_by_the_second_experience():
    stream = tiny_stream("regression", epochs=2)
    strategy = build_strategy("modular", stream)
    list(strategy.learn(stream.experiences[0].train))
    network = {name: value.clone() for name, value in strategy.networks[0].items()}
    density = strategy.densities[0]
    list(strategy.learn(stream.experiences[1].train))
    assert len(strategy.networks) == 2
    assert all(torch.equal(value, network[name]) for name, value in strategy.networks[0].items())
    assert strategy.densities[0] is density


def test_the_gate_finds_the_task_and_parameters_grow_with_tasks():
    stream = tiny_stream("regression", epochs=1)
    strategy = learn_all(build_strategy("modular", stream), stream)
    for task, experience in enumerate(stream.experiences):
        chosen = strategy.task_log_likelihood(experience.test.inputs).argmax(dim=0)
        assert (chosen == task).double().mean() >= 0.9
    module = sum(parameter.numel() for parameter in strategy.module.parameters())
    assert strategy.num_parameters() == 2 * (module + 6 + 36 + 1)
