"""slda, ridge and klda: hand-worked cases, the stated objectives by autograd, order, resume, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nestling.errors import DataError, InputError, ShapeError
from nestling.learners.additive import (
    CHUNK_SIZE,
    AdditiveStrategy,
    add_class_sums,
    empty_class_sums,
    solve_discriminant,
)
from nestling.learners.klda import KernelLDA, median_distance
from nestling.learners.ridge import RIDGES, RidgeRegression, append_one, choose_ridge, held_out, solve_ridge
from nestling.learners.slda import StreamingLDA
from nestling.streams.base import Examples, Kind, Problem, Training

STRATEGIES: list[type[AdditiveStrategy]] = [StreamingLDA, RidgeRegression, KernelLDA]


def make(
    strategy: type[AdditiveStrategy], width: int, outputs: int, kind: Kind = "classification", **options: Any
) -> AdditiveStrategy:
    problem = Problem(kind=kind, input_shape=(width,), num_outputs=outputs)
    return strategy(nn.Identity(), problem, training=Training(), seed=0, **options)


def blobs(num_classes: int, per_class: int, width: int, seed: int, spread: float = 1.0) -> Examples:
    """Gaussian classes around random centres; class c comes before class c + 1."""
    generator = torch.Generator().manual_seed(7)
    centres = 3 * torch.randn(num_classes, width, generator=generator)
    noise = torch.Generator().manual_seed(seed)
    targets = torch.arange(num_classes).repeat_interleave(per_class)
    return Examples(
        inputs=centres[targets] + spread * torch.randn(len(targets), width, generator=noise), targets=targets
    )


def rings(per_class: int, seed: int) -> Examples:
    """Two circles around one centre, which no linear read separates."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(2).repeat_interleave(per_class)
    angle = 6.2832 * torch.rand(2 * per_class, generator=generator)
    radius = 1.0 + 1.0 * targets + 0.1 * torch.randn(2 * per_class, generator=generator)
    return Examples(inputs=torch.stack([radius * angle.cos(), radius * angle.sin()], 1), targets=targets)


def teach(strategy: AdditiveStrategy, *parts: Examples) -> None:
    for part in parts:
        for _ in strategy.learn(part):
            pass


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs.argmax(1) == targets).double().mean())


def test_discriminant_by_hand() -> None:
    # class 0: (1,0), (3,0); class 1: (0,2), (0,4): means (2,0), (0,3); within covariance diag(1/2, 1/2).
    sums = empty_class_sums(3, 2)
    keys = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 4.0]], dtype=torch.float64)
    add_class_sums(sums, keys, torch.tensor([0, 0, 1, 1]))
    weights = solve_discriminant(sums, shrinkage=0.5)
    torch.testing.assert_close(weights["weight"][:, :2], torch.tensor([[4.0, 0.0], [0.0, 6.0]], dtype=torch.float64))
    assert weights["offset"].tolist() == pytest.approx([-4.0, -9.0, float("-inf")])


def test_slda_is_the_gaussian_posterior() -> None:
    """Scores differ by the log ratio of Gaussian densities with the pooled covariance."""
    train = blobs(3, 40, 4, seed=1)
    learner = make(StreamingLDA, 4, 3, shrinkage=1e-9)
    teach(learner, train)
    inputs, targets = train.inputs.double(), train.targets
    means = torch.stack([inputs[targets == c].mean(0) for c in range(3)])
    centred = inputs - means[targets]
    normal = [torch.distributions.MultivariateNormal(mean, centred.T @ centred / len(inputs)) for mean in means]
    density = torch.stack([one.log_prob(inputs) for one in normal], 1)
    scores = learner.predict(train.inputs).double()
    torch.testing.assert_close(scores - scores[:, :1], density - density[:, :1], rtol=1e-4, atol=1e-3)


def test_ridge_is_the_minimum_of_its_objective() -> None:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(30, 4, generator=generator)
    values = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    keys = append_one(inputs)
    weight = solve_ridge(keys.T @ keys, keys.T @ values, 0.1).requires_grad_()
    strength = 0.1 * float((inputs.double() ** 2).sum()) / 4
    objective = ((keys @ weight - values) ** 2).sum() + strength * (weight[:-1] ** 2).sum()
    (gradient,) = torch.autograd.grad(objective, weight)
    assert float(gradient.abs().max()) < 1e-10
    assert float(weight.detach().abs().max()) > 0.01


def test_ridge_choice_minimises_the_error_on_held_out_examples() -> None:
    generator = torch.Generator().manual_seed(4)
    truth = torch.randn(21, 1, generator=generator, dtype=torch.float64)
    keys = append_one(torch.randn(60, 20, generator=generator))
    values = keys @ truth + 4 * torch.randn(60, 1, generator=generator, dtype=torch.float64)
    a, b = keys[:40], keys[40:]
    chosen = choose_ridge(a.T @ a, a.T @ values[:40], b.T @ b, b.T @ values[40:])
    errors = {
        ridge: float(((b @ solve_ridge(a.T @ a, a.T @ values[:40], ridge) - values[40:]) ** 2).sum())
        for ridge in RIDGES
    }
    assert chosen == min(errors, key=errors.__getitem__)
    assert RIDGES[0] < chosen < RIDGES[-1]


def test_held_out_share_and_equal_rows_agree() -> None:
    inputs = torch.randn(20000, 3, generator=torch.Generator().manual_seed(0))
    held = held_out(inputs)
    assert 0.08 < float(held.double().mean()) < 0.12
    small = torch.arange(20000).float()[:, None]  # few different bits
    assert 0.08 < float(held_out(small).double().mean()) < 0.12
    assert torch.equal(held_out(inputs.flip(0)), held.flip(0))


def test_ridge_recovers_a_linear_policy_with_offset() -> None:
    inputs = torch.randn(500, 3, generator=torch.Generator().manual_seed(5))
    targets = inputs @ torch.tensor([[1.0, -2.0], [0.5, 0.0], [0.0, 3.0]]) + torch.tensor([5.0, -7.0])
    learner = make(RidgeRegression, 3, 2, "regression")
    teach(learner, Examples(inputs=inputs, targets=targets))
    torch.testing.assert_close(learner.predict(inputs), targets, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_order_of_examples_changes_nothing(strategy: type[AdditiveStrategy]) -> None:
    options: dict[str, Any] = {"num_features": 100} if strategy is KernelLDA else {}
    train, test = blobs(4, 300, 5, seed=1), blobs(4, 20, 5, seed=2)
    ahead, back = make(strategy, 5, 4, **options), make(strategy, 5, 4, **options)
    if isinstance(ahead, KernelLDA) and isinstance(back, KernelLDA):
        ahead.bandwidth = back.bandwidth = 2.0  # otherwise set by the first chunk, see the docstring
    halves = [train.subset(torch.arange(600)), train.subset(torch.arange(600, 1200))]
    teach(ahead, *halves)
    teach(back, halves[1].subset(torch.arange(599, -1, -1)), halves[0])
    for name, value in ahead.sums.items():
        torch.testing.assert_close(value, back.sums[name], rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(ahead.predict(test.inputs), back.predict(test.inputs), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_classes_arrive_in_turn_without_forgetting(strategy: type[AdditiveStrategy]) -> None:
    train, test = blobs(6, 60, 8, seed=1), blobs(6, 60, 8, seed=2)
    learner = make(strategy, 8, 6)
    teach(learner, *(train.subset((train.targets // 2) == task) for task in range(2)))
    assert bool((learner.predict(test.inputs)[:, 4:] == -torch.inf).all())  # not seen yet
    teach(learner, train.subset(train.targets >= 4))
    assert accuracy(learner.predict(test.inputs), test.targets) > 0.97


def test_kernel_features_separate_rings_and_linear_ones_do_not() -> None:
    train, test = rings(300, seed=1), rings(300, seed=2)
    reached = {}
    cases: list[tuple[type[AdditiveStrategy], dict[str, Any]]] = [
        (StreamingLDA, {}),
        (KernelLDA, {"num_features": 200}),
    ]
    for strategy, options in cases:
        learner = make(strategy, 2, 2, **options)
        teach(learner, train)
        reached[strategy.name] = accuracy(learner.predict(test.inputs), test.targets)
    assert reached["slda"] < 0.65
    assert reached["klda"] > 0.97


def test_random_features_approximate_the_gaussian_kernel() -> None:
    learner = make(KernelLDA, 3, 2, num_features=20000)
    assert isinstance(learner, KernelLDA)
    learner.bandwidth = 1.5
    inputs = torch.randn(20, 3, generator=torch.Generator().manual_seed(6))
    features = learner._features(0, inputs)
    exact = torch.exp(-(torch.cdist(inputs, inputs).double() ** 2) / (2 * 1.5**2))
    torch.testing.assert_close(features @ features.T, exact, rtol=0, atol=0.04)


def test_ensemble_averages_the_posteriors_of_its_members() -> None:
    train = blobs(3, 50, 4, seed=1, spread=3.0)
    learner = make(KernelLDA, 4, 3, num_features=50, num_members=3)
    teach(learner, train)
    weights = learner._solve()
    assert isinstance(learner, KernelLDA)
    posterior = sum(
        (learner._features(m, train.inputs) @ weights[f"{m}.weight"] + weights[f"{m}.offset"]).softmax(1)
        for m in range(3)
    )
    assert isinstance(posterior, Tensor)
    torch.testing.assert_close(learner.predict(train.inputs).double().exp(), posterior, rtol=1e-4, atol=1e-5)


def test_median_distance() -> None:
    assert median_distance(torch.tensor([[0.0], [1.0], [3.0], [3.0]])) == 2.0  # of 1, 2, 2, 3, 3
    assert median_distance(torch.ones(4, 2)) == 1.0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_resume_at_every_safe_point(strategy: type[AdditiveStrategy]) -> None:
    options: dict[str, Any] = {"num_features": 40} if strategy is KernelLDA else {}
    train = blobs(3, CHUNK_SIZE, 4, seed=1)
    whole = make(strategy, 4, 3, **options)
    states = []
    for progress in whole.learn(train):
        states.append(whole.state_dict())
        assert progress.total == len(train)
    assert states[-1]["position"] == len(train)
    assert len(states) == 3
    for state in states:
        resumed = make(strategy, 4, 3, **options)
        resumed.load_state_dict(state)
        teach(resumed, train)
        assert resumed.num_examples == len(train)
        assert torch.equal(resumed.predict(train.inputs), whole.predict(train.inputs))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_constant_inputs_and_one_example_do_not_crash(strategy: type[AdditiveStrategy]) -> None:
    learner = make(strategy, 3, 2)
    teach(learner, Examples(inputs=torch.zeros(1, 3), targets=torch.tensor([1])))
    assert learner.predict(torch.zeros(2, 3)).argmax(1).tolist() == [1, 1]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_costs_and_errors(strategy: type[AdditiveStrategy]) -> None:
    options: dict[str, Any] = {"num_features": 40} if strategy is KernelLDA else {}
    learner = make(strategy, 3, 2, **options)
    with pytest.raises(InputError, match="learned nothing yet"):
        learner.predict(torch.zeros(1, 3))
    with pytest.raises(ShapeError, match=r"expected \[N, 3\]"):
        teach(learner, Examples(inputs=torch.zeros(2, 4), targets=torch.zeros(2, dtype=torch.int64)))
    with pytest.raises(DataError, match="NaN"):
        teach(learner, Examples(inputs=torch.full((2, 3), torch.nan), targets=torch.zeros(2, dtype=torch.int64)))
    with pytest.raises(InputError, match="language"):
        make(strategy, 3, 2, "language", **options)
    assert learner.stored_bytes() == 0
    assert learner.state_bytes() == sum(8 * value.numel() for value in learner.sums.values())
    assert learner.num_parameters() == (8 if strategy is not KernelLDA else 41 * 2 + 4 * 40)
