"""Truth of the optimizers without layer inputs: one step in float64 equals the stated objective's, by autograd or hand.

Numbers in names and comments are equations of the paper NL (arXiv 2512.24695).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nestling.optim import DeltaMomentum, FeatureMomentum, Momentum
from nestling.optim.feature_momentum import FEATURES
from nestling.rules import delta, hebbian
from nestling.rules import momentum as momentum_rule

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slope(objective: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    leaf = at.detach().clone().requires_grad_()
    return torch.autograd.grad(objective(leaf), leaf)[0]


def follow(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], start: Tensor, grads: list[Tensor]) -> Tensor:
    """The weights after these gradients."""
    p = nn.Parameter(start.clone())
    optimizer = make([p])
    for grad in grads:
        p.grad = grad.clone()
        optimizer.step()
    return p.detach()


GRADS = [draw(3, 4, seed=seed) for seed in range(1, 6)]
START = draw(3, 4)


# 1-3: three faces of gradient descent ---------------------------------------------------------------------------------


def gradient_descent(eta: float) -> Tensor:
    return follow(lambda p: Momentum(p, lr=eta, momentum=0.0), START, GRADS)


def test_eq_1_gradient_descent_is_a_step_down() -> None:
    torch.testing.assert_close(gradient_descent(0.3), START - 0.3 * torch.stack(GRADS).sum(0), **EXACT)


def test_eq_2_gradient_descent_is_a_proximal_minimum() -> None:
    weights = START
    for grad in GRADS:
        weights = minimum(lambda w, g=grad, at=weights: (w * g).sum() + (w - at).square().sum() / 0.6, weights)
    torch.testing.assert_close(gradient_descent(0.3), weights, rtol=1e-8, atol=1e-9)


def test_eq_3_gradient_descent_follows_the_regularized_leader() -> None:
    leader = minimum(lambda w: sum((w * g).sum() for g in GRADS) + (w - START).square().sum() / 0.6, START)
    torch.testing.assert_close(gradient_descent(0.3), leader, rtol=1e-8, atol=1e-9)


def minimum(objective: Callable[[Tensor], Any], start: Tensor) -> Tensor:
    """An independent solver: L-BFGS from a point that is not the answer."""
    point = nn.Parameter(start + 1)
    solver = torch.optim.LBFGS(
        [point], max_iter=200, tolerance_grad=1e-14, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        value = objective(point)
        value.backward()
        return value

    solver.step(closure)
    return point.detach()


# 10-13, 33-37: momentum; 46-47: preconditioned ------------------------------------------------------------------------


def test_eq_10_13_momentum_is_a_gradient_step_on_the_dot_product() -> None:
    weights, memory = START, torch.zeros_like(START)
    for grad in GRADS:
        memory = 0.9 * memory - 0.1 * slope(lambda m, g=grad: (m * g).sum(), memory)
        weights = weights + memory
    torch.testing.assert_close(follow(lambda p: Momentum(p, lr=0.1, momentum=0.9), START, GRADS), weights, **EXACT)


def test_eq_33_35_momentum_is_torchs() -> None:
    torchs = follow(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), START, GRADS)
    torch.testing.assert_close(follow(lambda p: Momentum(p, lr=0.1, momentum=0.9), START, GRADS), torchs, **EXACT)


def test_eq_36_37_momentum_is_the_hebbian_rule_with_key_one() -> None:
    """The memory maps the constant key 1 to minus the gradient: rules.hebbian, entry by entry, and rules.momentum."""
    state, weights = torch.zeros(1, 1, 12, 1, dtype=torch.float64), START.reshape(1, 1, 12, 1)
    rule = momentum_rule.Accumulated(memory=weights, surprise=torch.zeros_like(weights))
    one, eta, alpha = (
        torch.ones(1, 1, 1).double(),
        torch.full((1, 1), 0.1, dtype=torch.float64),
        torch.full((1, 1), 0.9, dtype=torch.float64),
    )
    for grad in GRADS:
        state = hebbian.step(state, one, -grad.reshape(1, 1, 12), eta=eta, alpha=alpha)
        weights = weights + state
        value = -grad.reshape(1, 1, 12)
        keep = torch.ones_like(eta)
        rule = momentum_rule.step(rule, one, value, eta=eta, alpha=keep, momentum=alpha, gradient=hebbian.gradient)
    ours = follow(lambda p: Momentum(p, lr=0.1, momentum=0.9), START, GRADS)
    torch.testing.assert_close(ours.flatten(), weights.flatten(), **EXACT)
    torch.testing.assert_close(ours.flatten(), rule.memory.flatten(), **EXACT)


def test_eq_46_47_preconditioned_momentum() -> None:
    weights, memory, square = START, torch.zeros_like(START), torch.zeros_like(START)
    for t, grad in enumerate(GRADS, start=1):
        square = 0.99 * square + 0.01 * grad**2
        scale = 1 / ((square / (1 - 0.99**t)).sqrt() + 1e-8)
        memory = 0.9 * memory - 0.1 * slope(lambda m, g=grad, c=scale: (m * c * g).sum(), memory)
        weights = weights + memory

    def ours(p: list[nn.Parameter]) -> Momentum:
        return Momentum(p, lr=0.1, momentum=0.9, preconditioner="diagonal", beta=0.99)

    torch.testing.assert_close(follow(ours, START, GRADS), weights, **EXACT)


# 48-49: Delta Momentum ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 4), (6, 2), (5,), (2, 3, 2)])
def test_eq_49_delta_momentum_is_a_gradient_step_on_the_erase_and_the_dot_product(shape: tuple[int, ...]) -> None:
    start, grads = draw(*shape), [draw(*shape, seed=seed) for seed in range(1, 6)]
    weights, memory = start, torch.zeros_like(start)
    square = 0.0
    for t, grad in enumerate(grads, start=1):
        square = 0.9 * square + 0.1 * float(grad.square().sum())
        key = grad / max(float(grad.norm()), (square / (1 - 0.9**t)) ** 0.5)

        def objective(m: Tensor, h: Tensor = key, g: Tensor = grad) -> Tensor:
            rows = m.reshape(m.shape[0], -1) if m.ndim > 1 else m[None]
            return 0.5 * 0.8 * (rows @ h.reshape(rows.shape).T).square().sum() + 0.1 * (m * g).sum()

        memory = memory - 0.05 * memory - slope(objective, memory)
        weights = weights + memory
    ours = follow(lambda p: DeltaMomentum(p, lr=0.1, momentum=0.95, erase=0.8), start, grads)
    torch.testing.assert_close(ours, weights, **EXACT)


@pytest.mark.parametrize("shape", [(3, 4), (6, 2), (4, 4), (5,)])
def test_eq_49_with_a_preconditioner(shape: tuple[int, ...]) -> None:
    """m <- m (alpha I - erase g^T g) - eta P g, with the gradient as printed; P divides by the root mean square."""
    start, grads = draw(*shape), [0.4 * draw(*shape, seed=seed) for seed in range(1, 6)]
    weights, memory, square = start, torch.zeros_like(start), torch.zeros_like(start)
    for t, grad in enumerate(grads, start=1):
        square = 0.99 * square + 0.01 * grad.square()
        value = grad / ((square / (1 - 0.99**t)).sqrt() + 1e-8)
        rows, key = (x.view(shape if len(shape) > 1 else (1, -1)) for x in (memory, grad))
        memory = (rows @ (0.9 * torch.eye(key.shape[1]).double() - 0.7 * key.T @ key)).view(shape) - 0.1 * value
        weights = weights + memory
    options = {"normalize": False, "preconditioner": "diagonal", "beta": 0.99}
    ours = follow(lambda p: DeltaMomentum(p, lr=0.1, momentum=0.9, erase=0.7, **options), start, grads)
    torch.testing.assert_close(ours, weights, **EXACT)


def test_delta_momentum_of_a_kernel_with_channels_last_is_that_of_the_kernel() -> None:
    start, grads = draw(4, 3, 2, 2), [draw(4, 3, 2, 2, seed=seed) for seed in range(1, 5)]
    plain, turned = (
        follow(lambda p: DeltaMomentum(p, lr=0.1), start.to(memory_format=layout), grads)
        for layout in (torch.contiguous_format, torch.channels_last)
    )
    torch.testing.assert_close(plain, turned, **EXACT)


def test_eq_48_the_scalar_form_as_printed() -> None:
    """By hand: m <- (alpha - |g|^2) m - eta g."""
    grads = [torch.tensor([0.3, 0.4]), torch.tensor([0.6, 0.0])]
    first = -0.1 * grads[0]
    second = (0.9 - 0.36) * first - 0.1 * grads[1]
    ours = follow(
        lambda p: DeltaMomentum(p, lr=0.1, momentum=0.9, form="scalar", normalize=False), torch.zeros(2), grads
    )
    torch.testing.assert_close(ours, first + second)


def test_eq_49_one_row_is_the_delta_rule() -> None:
    """For a row gradient g = c h the memory is rules.delta with key h and value -eta c / erase."""
    start, grads = draw(1, 4), [draw(1, 4, seed=seed) for seed in range(1, 5)]
    state, weights = torch.zeros(1, 1, 1, 4).double(), start
    erase, alpha = torch.full((1, 1), 0.5, dtype=torch.float64), torch.full((1, 1), 0.9, dtype=torch.float64)
    for grad in grads:
        value = torch.full((1, 1, 1), -0.1 / 0.5, dtype=torch.float64)
        state = delta.step(state, grad[None], value, eta=erase, alpha=alpha)
        weights = weights + state[0, 0]
    ours = follow(lambda p: DeltaMomentum(p, lr=0.1, momentum=0.9, erase=0.5, normalize=False), start, grads)
    torch.testing.assert_close(ours, weights, **EXACT)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_normalised_delta_momentum_stays_a_contraction(scale: float) -> None:
    """|m| <= alpha |m| + eta |g| whatever the gradient's size: after t steps at most eta sum |g|."""
    grads = [scale * draw(3, 4, seed=seed) for seed in range(1, 40)]
    p = nn.Parameter(START.clone())
    optimizer = DeltaMomentum([p], lr=1.0, momentum=1.0, erase=1.0)
    total = 0.0
    for grad in grads:
        p.grad = grad
        optimizer.step()
        total += float(grad.norm())
        assert float(optimizer.state[p]["memory"].norm()) <= total * (1 + 1e-9)


def test_delta_momentum_without_erase_is_momentum() -> None:
    plain = follow(lambda p: Momentum(p, lr=0.1, momentum=0.9), START, GRADS)
    for form in ("matrix", "scalar"):
        ours = follow(lambda p, form=form: DeltaMomentum(p, lr=0.1, momentum=0.9, erase=0.0, form=form), START, GRADS)
        torch.testing.assert_close(ours, plain, **EXACT)


# 51: feature momentum -------------------------------------------------------------------------------------------------

PHI = {
    "identity": lambda g: g,
    "sign": torch.sign,
    "root": lambda g: g.sign() * g.abs() ** 0.5,
    "tanh": lambda g: (g / g.square().mean().sqrt()).tanh() * g.square().mean().sqrt(),
    "cubic": lambda g: g + g**3,
}


@pytest.mark.parametrize("features", list(FEATURES))
def test_eq_51_feature_momentum(features: str) -> None:
    weights, memory = START, torch.zeros_like(START)
    for grad in GRADS:
        memory = 0.9 * memory - 0.1 * slope(lambda m, g=grad: (m * PHI[features](g)).sum(), memory)
        weights = weights + memory
    ours = follow(lambda p: FeatureMomentum(p, lr=0.1, momentum=0.9, features=features), START, GRADS)
    torch.testing.assert_close(ours, weights, **EXACT)
