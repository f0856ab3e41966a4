"""The average of copies: what it computes, where its weights come from, and that one copy changes nothing."""

from __future__ import annotations

import pytest
import torch
from tiny_streams import build_strategy, learn_all, tiny_stream
from torch import Tensor, nn
from torch.nn import functional

from nestling.errors import InputError
from nestling.learners import STRATEGIES
from nestling.learners.copies import AverageOfCopies, average_of_copies, drawn_anew
from nestling.learners.gradient import GradientStrategy

GRADIENT = [name for name, strategy in STRATEGIES.items() if issubclass(strategy, GradientStrategy)]
KINDS = ("classification", "regression", "language")
every_strategy = pytest.mark.parametrize("name", GRADIENT)
every_kind = pytest.mark.parametrize("kind", KINDS)


def perceptron() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


class WithScale(nn.Module):
    """A weight of its own beside a layer, and no way to draw it anew."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.layer = nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * self.layer(inputs)


def test_every_gradient_strategy_has_the_option() -> None:
    assert set(GRADIENT) == {"naive", "joint", "replay", "ewc", "lwf", "modular"}


def test_outputs_are_the_mean_by_hand() -> None:
    copies = [nn.Linear(1, 1) for _ in range(2)]
    for module, slope, offset in zip(copies, (1.0, 4.0), (0.0, 3.0)):
        nn.init.constant_(module.weight, slope)
        nn.init.constant_(module.bias, offset)
    outputs = AverageOfCopies(list(copies))(torch.tensor([[0.0], [2.0]]))
    assert outputs.tolist() == [[1.5], [6.5]]


def test_one_copy_is_the_module_itself() -> None:
    module = perceptron()
    assert average_of_copies(module, 1, seed=0) is module


def test_the_first_copy_has_the_given_weights_and_the_others_their_own() -> None:
    module = perceptron()
    before, random = [weight.clone() for weight in module.parameters()], torch.get_rng_state()
    average = average_of_copies(module, 3, seed=7)
    assert torch.equal(random, torch.get_rng_state())
    assert isinstance(average, AverageOfCopies)
    first, *others = average.copies
    assert first is module
    assert all(torch.equal(a, b) for a, b in zip(before, first.parameters(), strict=True))
    weights = [copy[0].weight for copy in average.copies]
    assert all(not torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])
    again = average_of_copies(perceptron(), 3, seed=7)
    assert all(torch.equal(a, b) for a, b in zip(average.parameters(), again.parameters(), strict=True))
    other_seed = average_of_copies(perceptron(), 3, seed=8)
    assert not torch.equal(weights[1], other_seed.copies[1][0].weight)
    assert len(others) == 2


def test_weights_drawn_anew_are_those_of_a_new_construction_from_the_same_seed() -> None:
    torch.manual_seed(11)
    fresh = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    trained = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    with torch.no_grad():
        for weight in trained.parameters():
            weight.add_(1.0)
    for a, b in zip(fresh.parameters(), drawn_anew(trained, 11).parameters(), strict=True):
        assert torch.equal(a, b)


def test_frozen_weights_are_kept() -> None:
    module = perceptron()
    module[0].weight.requires_grad_(requires_grad=False)
    fresh = drawn_anew(module, 3)
    assert torch.equal(fresh[0].weight, module[0].weight)
    assert not torch.equal(fresh[0].bias, module[0].bias)
    frozen_part = nn.Sequential(WithScale().requires_grad_(requires_grad=False), nn.Linear(2, 2))
    assert torch.equal(drawn_anew(frozen_part, 3)[0].scale, torch.ones(2))


def test_a_part_that_cannot_be_drawn_anew_is_named() -> None:
    module = nn.Sequential(nn.Linear(3, 3), WithScale())
    assert average_of_copies(module, 1, seed=0) is module
    with pytest.raises(InputError, match=r"its part '1', a WithScale, has weights and no reset_parameters"):
        average_of_copies(module, 2, seed=0)
    with pytest.raises(InputError, match="cannot: WithScale has weights"):
        average_of_copies(WithScale(), 2, seed=0)


@pytest.mark.parametrize("num_copies", [0, -3])
def test_fewer_than_one_copy_is_refused(num_copies: int) -> None:
    with pytest.raises(InputError, match=f"expected num_copies >= 1, got {num_copies}"):
        average_of_copies(perceptron(), num_copies, seed=0)


@every_strategy
@every_kind
def test_with_one_copy_nothing_changes(name: str, kind: str) -> None:
    stream = tiny_stream(kind, epochs=1)  # pyright: ignore[reportArgumentType]
    plain = learn_all(build_strategy(name, stream), stream)
    one = learn_all(build_strategy(name, stream, num_copies=1), stream)
    before, after = plain.state_dict(), one.state_dict()
    assert before.keys() == after.keys()
    assert before["module"].keys() == after["module"].keys()
    for experience in stream.experiences:
        assert torch.equal(plain.predict(experience.test.inputs), one.predict(experience.test.inputs))


@every_strategy
@every_kind
def test_three_copies_learn_are_counted_and_survive_saving(name: str, kind: str) -> None:
    stream = tiny_stream(kind, epochs=2)  # pyright: ignore[reportArgumentType]
    strategy = build_strategy(name, stream, num_copies=3)
    untrained = strategy.predict(stream.experiences[1].test.inputs)
    single = sum(weight.numel() for weight in build_strategy(name, stream).module.parameters())
    assert strategy.num_parameters() == 3 * single
    for progress in strategy.learn(stream.experiences[0].train):
        if progress.done == 1:
            break
    resumed = build_strategy(name, stream, num_copies=3)
    resumed.load_state_dict(strategy.state_dict())
    learn_all(resumed, stream)
    whole = learn_all(build_strategy(name, stream, num_copies=3), stream)
    last = stream.experiences[1].test
    assert torch.equal(resumed.predict(last.inputs), whole.predict(last.inputs))
    assert loss(kind, whole.predict(last.inputs), last.targets) < loss(kind, untrained, last.targets)
    assert all(
        not torch.equal(a, b)
        for a, b in zip(whole.module.copies[0].parameters(), whole.module.copies[1].parameters(), strict=True)
    )


def test_a_step_is_a_gradient_step_on_the_loss_of_the_average() -> None:
    stream = tiny_stream("regression", epochs=1)
    strategy = build_strategy("naive", stream, num_copies=2)
    inputs, targets = stream.experiences[0].train.inputs, stream.experiences[0].train.targets
    first, second = strategy.module.copies
    first.eval(), second.eval()
    functional.mse_loss(strategy.module.eval()(inputs), targets).backward()
    error = (first(inputs) + second(inputs)).detach() / 2 - targets
    head = second[-1]
    hidden = second[:-1](inputs).detach()
    by_hand = error.T @ hidden * 2 / error.numel() / 2  # d mean(error^2) / dW of a copy that is half of the average
    torch.testing.assert_close(head.weight.grad, by_hand)


def loss(kind: str, outputs: Tensor, targets: Tensor) -> float:
    if kind == "regression":
        return functional.mse_loss(outputs, targets).item()
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten()).item()
