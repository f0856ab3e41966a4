"""Truth of Deep Momentum (NL eq. 50): its memory is that of rules.deep, written by a step on the stated objective."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from nestling.optim import DeepMomentum
from nestling.optim.deep_momentum import OBJECTIVES, memory_gradients, memory_read
from nestling.rules import deep

EXACT = {"rtol": 1e-9, "atol": 1e-11}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_the_memory_is_that_of_the_rules(objective: str) -> None:
    maps, rows, values = (draw(7, 4), draw(4, 7, seed=1)), draw(5, 4, seed=2), draw(5, 4, seed=3)
    per_row = tuple(weight.expand(5, 1, *weight.shape) for weight in maps)
    answers = deep.read(per_row, rows[:, None])
    torch.testing.assert_close(memory_read(maps, rows), answers[:, 0], **EXACT)
    gradients, _ = memory_gradients(maps, rows, values, OBJECTIVES[objective])
    truth = deep.gradient(per_row, rows[:, None], values[:, None], loss=OBJECTIVES[objective])
    for ours, theirs in zip(gradients, truth):
        torch.testing.assert_close(ours, theirs.mean(0)[0], **EXACT)


@pytest.mark.parametrize("objective", list(OBJECTIVES))
@pytest.mark.parametrize("shape", [(3, 4), (6,), (2, 3, 2)])
def test_eq_50_deep_momentum_by_autograd(shape: tuple[int, ...], objective: str) -> None:
    p = nn.Parameter(draw(*shape))
    optimizer = DeepMomentum(
        [p], lr=0.1, hidden=5, gain=3.0, momentum=0.7, objective=objective, inner_lr=0.4, retention=0.9, norm_beta=0.8
    )
    weights, square, linear = p.detach().clone(), 0.0, torch.zeros(*shape).double()
    width = p[0].numel() if p.ndim > 1 else 1
    start = deep.initial(1, 1, width, hidden=5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second = (weight[0, 0] for weight in start)
    for t in range(1, 5):
        p.grad = draw(*shape, seed=t)
        square = 0.8 * square + 0.2 * float(p.grad.square().mean())
        scale = (square / (1 - 0.8**t)) ** 0.5
        before, linear = linear, 0.7 * linear + 0.3 * p.grad
        now, gradient = (linear / scale).reshape(-1, width), (p.grad / scale).reshape(-1, width)
        rows = (before / scale).reshape(-1, width) if objective == "next" else now
        value = gradient if objective == "next" else 3 * now
        leaves = [first.clone().requires_grad_(), second.clone().requires_grad_()]
        hidden = nn.functional.silu(rows @ leaves[0].T)
        answer = rows + hidden @ leaves[1].T
        loss = -answer * value if objective == "dot_product" else 0.5 * (answer - value).square()
        slopes = torch.autograd.grad(loss.sum(1).mean(), leaves)
        bounds = second.square().sum() * rows.square().sum(1).mean(), hidden.detach().square().sum(1).mean()
        first, second = (0.9 * w - 0.4 / (1 + c) * g for w, g, c in zip((first, second), slopes, bounds))
        weights = weights - 0.1 * (now + nn.functional.silu(now @ first.T) @ second.T).reshape(shape)
        optimizer.step()
    torch.testing.assert_close(p.detach(), weights, **EXACT)


def answer_along(optimizer: DeepMomentum, p: nn.Parameter, rows: Tensor) -> float:
    """<m(u), u> / |u|^2."""
    maps = (optimizer.state[p]["first_map"], optimizer.state[p]["second_map"])
    return float((memory_read(maps, rows) * rows).sum() / rows.square().sum())


def test_momentum_that_foretells_is_kept_and_noise_is_damped() -> None:
    p = nn.Parameter(torch.zeros(16, 6).double())
    optimizer = DeepMomentum([p], lr=0.0, inner_lr=0.5)
    signal, noise = torch.zeros(2, 16, 6).double()
    signal[:, :3] = 0.5 * draw(16, 3)
    for seed in range(600):
        noise[:, 3:] = draw(16, 3, seed=seed)
        p.grad = signal + noise
        optimizer.step()
    usual = float(optimizer.state[p]["mean_square"].sqrt())
    assert answer_along(optimizer, p, signal / usual) > 0.7
    assert answer_along(optimizer, p, 0.2 * noise / usual) < 0.5


def test_familiar_gradients_are_answered_with_gain_and_new_ones_once() -> None:
    p = nn.Parameter(torch.zeros(8, 6).double())
    optimizer = DeepMomentum([p], lr=0.0, hidden=32, gain=5.0, objective="l2", momentum=0.0, inner_lr=0.5)
    usual = torch.zeros(8, 6).double()
    usual[:, :2] = draw(8, 2)
    for _ in range(300):
        p.grad = usual.clone()
        optimizer.step()
    other = torch.zeros(8, 6).double()
    other[:, 2:] = draw(8, 4, seed=1)
    assert 4.0 < answer_along(optimizer, p, usual / usual.square().mean().sqrt()) <= 5.01
    assert 0.8 < answer_along(optimizer, p, other) < 1.5


def test_without_inner_rate_it_is_momentum_in_units_of_the_gradient() -> None:
    p = nn.Parameter(draw(3, 4))
    start = p.detach().clone()
    optimizer = DeepMomentum([p], lr=0.1, inner_lr=0.0, momentum=0.5)
    p.grad = draw(3, 4, seed=1)
    optimizer.step()
    torch.testing.assert_close(p.detach(), start - 0.1 * 0.5 * p.grad / p.grad.square().mean().sqrt(), **EXACT)


@pytest.mark.parametrize("objective", list(OBJECTIVES))
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_no_gradient_makes_the_memory_overflow(objective: str, scale: float) -> None:
    p = nn.Parameter(torch.zeros(4, 64))
    optimizer = DeepMomentum([p], lr=1.0, objective=objective, inner_lr=1.0, retention=0.99)
    for seed in range(400):
        p.grad = (scale if seed % 7 else 1e-3 * scale) * draw(4, 64, seed=seed).float()
        optimizer.step()
    assert optimizer.num_skipped == 0
    assert p.abs().max().item() < 1e5
    maps = (optimizer.state[p]["first_map"], optimizer.state[p]["second_map"])
    assert max(weight.abs().max().item() for weight in maps) < 1e3


def test_every_seed_is_a_memory_of_its_own_and_the_same_seed_the_same() -> None:
    starts = []
    for seed in (1, 1, 2):
        p = nn.Parameter(draw(3, 4))
        optimizer = DeepMomentum([p], seed=seed)
        p.grad = draw(3, 4, seed=1)
        optimizer.step()
        starts.append(copy.deepcopy(optimizer.state[p]["first_map"]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
