"""Truth of the optimizers without layer inputs: one step in float64 equals the stated objective's, by autograd or hand.

Numbers in names and comments are equations of the paper NL (arXiv 2512.24695).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nestling.ops.newton_schulz import CUBIC, QUINTIC, newton_schulz
from nestling.optim import M3, DeltaMomentum, FeatureMomentum, Momentum, Muon
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


# 42-44, 52: Newton-Schulz, Muon ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_eq_43_44_newton_schulz_is_gradient_steps_on_the_distance_to_orthogonal(shape: tuple[int, int]) -> None:
    matrix = draw(*shape)
    point = matrix / matrix.norm()
    tall = shape[0] > shape[1]

    def objective(o: Tensor) -> Tensor:
        gram = o.T @ o if tall else o @ o.T
        return 0.25 * (gram - torch.eye(len(gram)).double()).square().sum()

    for _ in range(7):
        point = point - 0.5 * slope(objective, point)
    torch.testing.assert_close(newton_schulz(matrix, steps=7, coefficients=CUBIC), point, **EXACT)


def test_eq_44_the_quintic_is_a_gradient_step_on_its_potential() -> None:
    a, b, c = QUINTIC
    matrix = draw(3, 5)

    def potential(o: Tensor) -> Tensor:
        gram = o @ o.T
        squares = torch.linalg.matrix_power
        return (1 - a) / 2 * gram.trace() - b / 4 * squares(gram, 2).trace() - c / 6 * squares(gram, 3).trace()

    point = matrix / matrix.norm()
    for _ in range(5):
        point = point - slope(potential, point)
    torch.testing.assert_close(newton_schulz(matrix), point, **EXACT)


def test_eq_42_newton_schulz_ends_at_the_polar_factor() -> None:
    matrix = draw(4, 6)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    answer = newton_schulz(matrix, steps=40, coefficients=CUBIC)
    torch.testing.assert_close(answer, left @ right, rtol=1e-8, atol=1e-9)
    assert newton_schulz(torch.zeros(3, 2)).abs().max() == 0


def test_newton_schulz_of_many_matrices_is_that_of_each() -> None:
    matrices = draw(2, 3, 5, 4)
    together = newton_schulz(matrices)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(together[i, j], newton_schulz(matrices[i, j]), **EXACT)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("shape", [(8, 12), (12, 8)])
def test_eq_52_muon_is_torchs(shape: tuple[int, int], adjust: str, nesterov: bool) -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    start, grads = draw(*shape).float(), [draw(*shape, seed=seed).float() for seed in range(1, 8)]
    torchs = follow(
        lambda p: torch.optim.Muon(p, lr=0.02, weight_decay=0.1, nesterov=nesterov, adjust_lr_fn=adjust), start, grads
    )
    ours = follow(lambda p: Muon(p, lr=0.02, weight_decay=0.1, nesterov=nesterov, adjust=adjust), start, grads)
    # Newton-Schulz works in bfloat16 in both; five steps amplify its last bit.
    torch.testing.assert_close(ours, torchs, rtol=0, atol=4e-3)
    assert float((ours - torchs).norm() / (torchs - start).norm()) < 0.01


def test_eq_52_muon_steps_along_the_orthogonal_answer() -> None:
    memory, weights = torch.zeros_like(START), START
    for grad in GRADS:
        memory = 0.95 * memory + 0.05 * grad
        answer = newton_schulz(0.95 * memory + 0.05 * grad)
        weights = (1 - 0.02 * 0.1) * weights - 0.02 * 0.2 * 2.0 * answer
    ours = follow(lambda p: Muon(p, lr=0.02, precision="parameter"), START, GRADS)
    torch.testing.assert_close(ours, weights, **EXACT)


def test_muon_takes_adams_step_for_vectors_and_reshapes_kernels() -> None:
    vector, kernel = draw(6), draw(4, 3, 2, 2)
    grads = [draw(6, seed=seed) for seed in range(1, 6)]
    ours = follow(lambda p: Muon(p, lr=0.01, weight_decay=0.0), vector, grads)
    torch.testing.assert_close(
        ours, follow(lambda p: torch.optim.Adam(p, lr=0.01), vector, grads), rtol=1e-7, atol=1e-9
    )
    grads = [draw(4, 3, 2, 2, seed=seed) for seed in range(1, 6)]
    ours = follow(lambda p: Muon(p, lr=0.01, precision="parameter"), kernel, grads)
    flat = follow(lambda p: Muon(p, lr=0.01, precision="parameter"), kernel.flatten(1), [g.flatten(1) for g in grads])
    torch.testing.assert_close(ours.flatten(1), flat, **EXACT)


# 75, Algorithm 1: M3 --------------------------------------------------------------------------------------------------


def test_eq_75_m3_as_printed() -> None:
    grads = [draw(3, 4, seed=seed) for seed in range(1, 9)]
    weights, fast, slow, square = START, *(torch.zeros_like(START) for _ in range(3))
    for t, grad in enumerate(grads):
        if t % 3 == 0:  # Algorithm 1: the slow memory is written at the head of every period
            slow = slow + 0.7 * sum(grads[max(t - 3, 0) : t], torch.zeros_like(START))
            slow_answer = newton_schulz(slow)
        fast = fast + 0.9 * grad
        square = square + 0.5 * grad**2
        weights = weights - 0.01 * (newton_schulz(fast) + 0.4 * slow_answer) / (square.sqrt() + 1e-8)

    def printed(p: list[nn.Parameter]) -> M3:
        return M3(
            p,
            lr=0.01,
            form="printed",
            betas=(0.9, 0.5, 0.7),
            slow_weight=0.4,
            update_period=3,
            weight_decay=0.0,
            precision="parameter",
        )

    torch.testing.assert_close(follow(printed, START, grads), weights, **EXACT)


def test_eq_75_m3_stable() -> None:
    grads = [draw(3, 4, seed=seed) for seed in range(1, 9)]
    weights, fast, slow, square = START, *(torch.zeros_like(START) for _ in range(3))
    for t, grad in enumerate(grads):
        if t % 3 == 0 and t:
            slow = 0.8 * slow + 0.2 * torch.stack(grads[t - 3 : t]).mean(0)
        fast = 0.9 * fast + 0.1 * grad
        answer = newton_schulz(fast) + 0.4 * newton_schulz(slow)
        square = 0.99 * square + 0.01 * answer**2
        move = answer / ((square / (1 - 0.99 ** (t + 1))).sqrt() + 1e-8)
        weights = weights - 0.01 * 0.2 * move / move.square().mean().sqrt()

    def stable(p: list[nn.Parameter]) -> M3:
        betas = (0.9, 0.99, 0.8)
        return M3(p, lr=0.01, betas=betas, slow_weight=0.4, update_period=3, weight_decay=0.0, precision="parameter")

    torch.testing.assert_close(follow(stable, START, grads), weights, **EXACT)


def test_m3_stable_does_not_see_the_scale_of_the_loss_and_printed_does() -> None:
    grads = [draw(3, 4, seed=seed) for seed in range(1, 9)]
    for form, same in (("stable", True), ("printed", False)):

        def make(p: list[nn.Parameter], form: Any = form) -> M3:
            return M3(p, lr=0.01, form=form, precision="parameter")

        one, other = follow(make, START, grads), follow(make, START, [1000 * grad for grad in grads])
        assert torch.allclose(one, other, atol=1e-5) == same
