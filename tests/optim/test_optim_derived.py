"""Adam, SGD with momentum and AdaGrad derived: the stated argmin, solved numerically, is torch's step (NL 101-111)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

STEPS, SIZE = 6, 5


def gradients() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(SIZE, generator=generator, dtype=torch.float64) + 0.3 for _ in range(STEPS)]


def minimiser(objective: Callable[[Tensor], Tensor], size: int = SIZE) -> Tensor:
    """The minimum of a quadratic, by Newton's step with autograd's derivatives from 0."""
    start = torch.zeros(size, dtype=torch.float64)
    gradient = torch.autograd.functional.jacobian(objective, start)
    hessian = torch.autograd.functional.hessian(objective, start)
    return -torch.linalg.solve(hessian, gradient)


def follow(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> Tensor:
    """The last step of torch's optimizer after all gradients, W_t - W_{t-1}."""
    p = nn.Parameter(torch.zeros(SIZE, dtype=torch.float64))
    optimizer = make([p])
    before = p.detach().clone()
    for grad in gradients():
        before = p.detach().clone()
        p.grad = grad.clone()
        optimizer.step()
    return p.detach() - before


def weights(beta: float) -> Tensor:
    """(1 - beta) beta^(t - i), i = 1..t: an exponential mean's weights."""
    return (1 - beta) * beta ** torch.arange(STEPS - 1, -1, -1, dtype=torch.float64)


def test_eq_101_104_sgd_with_momentum_is_the_memory_of_all_gradients_for_squares() -> None:
    """argmin_m sum_i w_i |m g_i - P|^2 with P = sum w g^2 and no ridge: m = sum w g, entry by entry.

    The minimiser is sum(w g) P / (sum w g^2 + ridge); with P the denominator itself and ridge -> 0 it is momentum.
    """
    grads = torch.stack(gradients())
    decay = (0.9 ** torch.arange(STEPS - 1, -1, -1, dtype=torch.float64))[:, None]
    value = (decay * grads**2).sum(0)
    memory = minimiser(lambda m: (decay * (m * grads - value) ** 2).sum())
    torchs = follow(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    torch.testing.assert_close(-0.1 * memory, torchs, rtol=1e-10, atol=1e-12)


def test_eq_101_105_adam_is_the_memory_of_all_gradients_for_their_size() -> None:
    """argmin_m sum_i w_i (m g_i)^2 - 2 c_i m g_i s + ridge m^2, s = sqrt v: m = mhat / (sqrt v + eps).

    Two decays, as Adam has them: the quadratic term carries b2, the linear one b1, both without their start's bias.
    The value is P = sqrt v and the ridge eps sqrt v.
    """
    grads = torch.stack(gradients())
    first, second = weights(0.9), weights(0.999)
    first, second = (first / first.sum())[:, None], (second / second.sum())[:, None]
    size = (second * grads**2).sum(0).sqrt()

    def objective(m: Tensor) -> Tensor:
        squares = (second * (m * grads) ** 2).sum()
        product = (first * m * grads * size).sum()
        return squares - 2 * product + (1e-8 * size * m**2).sum()

    torchs = follow(lambda p: torch.optim.Adam(p, lr=0.1))
    torch.testing.assert_close(-0.1 * minimiser(objective), torchs, rtol=1e-9, atol=1e-11)


def test_eq_101_103_with_one_decay_it_is_plain_regression_on_the_size() -> None:
    """With b1 = b2 the same memory is the regression sum_i w_i (m g_i - P)^2 + ridge as printed."""
    grads = torch.stack(gradients())
    decay = weights(0.9)
    decay = (decay / decay.sum())[:, None]
    size = (decay * grads**2).sum(0).sqrt()
    memory = minimiser(lambda m: (decay * (m * grads - size) ** 2).sum() + (1e-8 * size * m**2).sum())
    torchs = follow(lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.9, 0.9)))
    torch.testing.assert_close(-0.1 * memory, torchs, rtol=1e-9, atol=1e-11)


def test_eq_106_108_adagrad_is_the_newest_gradient_in_a_memory_of_all_squares() -> None:
    """argmin_m sum_i (m g_i)^2 - 2 m g_t s + ridge m^2, s = sqrt sum g^2: m = g_t / (sqrt sum g^2 + eps)."""
    grads = torch.stack(gradients())
    size = (grads**2).sum(0).sqrt()

    def objective(m: Tensor) -> Tensor:
        return ((m * grads) ** 2).sum() - 2 * (m * grads[-1] * size).sum() + (1e-10 * size * m**2).sum()

    torchs = follow(lambda p: torch.optim.Adagrad(p, lr=0.1))
    torch.testing.assert_close(-0.1 * minimiser(objective), torchs, rtol=1e-9, atol=1e-11)


def test_eq_109_111_outer_products_give_full_matrix_adagrad() -> None:
    """argmin_m sum_i (m . g_i)^2 - 2 m^T H^(1/2) g_t: m = H^(-1/2) g_t, H = sum g g^T, the form behind Shampoo."""
    grads = torch.stack([*gradients(), *[2 * g.roll(1) - g for g in gradients()]])
    outer = grads.T @ grads
    values, vectors = torch.linalg.eigh(outer)
    root = vectors @ values.sqrt().diag() @ vectors.T
    memory = minimiser(lambda m: ((grads @ m) ** 2).sum() - 2 * m @ root @ grads[-1])
    inverse_root = vectors @ values.rsqrt().diag() @ vectors.T
    torch.testing.assert_close(memory, inverse_root @ grads[-1], rtol=1e-8, atol=1e-10)
    # On gradients that never share an entry H is diagonal, and the form is AdaGrad's step.
    eye = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    adagrad = torch.optim.Adagrad([p], lr=1.0)
    for grad in eye:
        p.grad = grad.clone()
        adagrad.step()
    steps = torch.stack([torch.linalg.inv((eye @ eye.T).sqrt()) @ grad for grad in eye])
    torch.testing.assert_close(-p.detach(), steps.sum(0), rtol=1e-9, atol=1e-9)
