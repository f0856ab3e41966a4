"""Truth of the orthogonal optimizers: Newton-Schulz (NL 42-44), Muon (52), M3 (75, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nestling.ops.newton_schulz import CUBIC, QUINTIC, newton_schulz
from nestling.optim import M3, Muon

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


@pytest.mark.parametrize("adjust", ["match_rms_adamw", "original", "none"])
def test_a_stack_of_matrices_moves_as_its_matrices_do(adjust: Any) -> None:
    start, grads = draw(3, 5, 2, seed=7), [draw(3, 5, 2, seed=seed) for seed in range(8, 12)]
    options: dict[str, Any] = {"lr": 0.1, "adjust": adjust, "precision": "parameter", "weight_decay": 0.2}

    def build(params: list[nn.Parameter], *, stacked: bool) -> Muon:
        return Muon([{"params": params, "stacked": stacked}], **options)

    moved = follow(lambda params: build(params, stacked=True), start, grads)
    for head in range(3):
        alone = follow(lambda params: build(params, stacked=False), start[head], [grad[head] for grad in grads])
        torch.testing.assert_close(moved[head], alone, **EXACT)
    flat = follow(lambda params: build(params, stacked=False), start, grads)
    assert (flat - moved).abs().max() > 0.01


def test_m3_orthogonalises_every_matrix_of_a_stack() -> None:
    start, grad = draw(3, 5, 2, seed=7), draw(3, 5, 2, seed=8)
    moves = {}
    for stacked in (True, False):
        moved = follow(
            lambda params, stacked=stacked: M3([{"params": params, "stacked": stacked}], lr=0.1, precision="parameter"),
            start,
            [grad],
        )
        moves[stacked] = moved - start
    # After one step M3's second moment makes every entry a sign: those of the answer of Newton-Schulz.
    answers = torch.stack([newton_schulz(one, coefficients=QUINTIC) for one in grad])
    assert torch.equal(moves[True].sign(), -answers.sign())
    assert not torch.equal(moves[False].sign(), -answers.sign())
