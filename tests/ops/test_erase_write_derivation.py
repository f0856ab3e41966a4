"""docs/derivations/erase_write.md line by line in float64 torch, against autograd through the token recurrence."""

import pytest
import torch
from torch import Tensor

from nestling.ops.erase_write import erase_write_recurrent

NAMES = ("query", "key", "value", "erase", "write", "log_alpha", "state")


def decays(log_alpha: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """D, E, g, h (g of the token before) and r of one chunk, by sums of segments."""
    size = len(log_alpha)
    through, before = torch.zeros(2, size, size, dtype=log_alpha.dtype)
    for t in range(size):
        for s in range(t + 1):
            through[t, s] = log_alpha[s + 1 : t + 1].sum().exp()
        for s in range(t):
            before[t, s] = log_alpha[s + 1 : t].sum().exp()
    g = torch.stack([log_alpha[: t + 1].sum().exp() for t in range(size)])
    h = torch.stack([log_alpha[:t].sum().exp() for t in range(size)])
    r = torch.stack([log_alpha[t + 1 :].sum().exp() for t in range(size)])
    return through, before, g, h, r


def forward_chunk(q, k, v, e, w, log_alpha, S):
    """Sections 1 and 2: Y, S' and what the backward pass needs. S is [K, V]."""
    D, E, g, h, r = decays(log_alpha)
    L = e[:, None] * E * (k @ k.T)
    A = torch.linalg.inv(torch.eye(len(k), dtype=k.dtype) + L)
    b = e * h
    X, U0 = A @ (b[:, None] * k), A @ (w[:, None] * v)
    U = U0 - X @ S
    Y = g[:, None] * (q @ S) + (D * (q @ k.T)) @ U
    return Y, g[-1] * S + k.T @ (r[:, None] * U), (D, E, g, h, r, L, A, X, U)


def backward_chunk(q, k, v, e, w, S, kept, dY, dS_next):
    """Section 3: gradients of q, k, v, e, w, log_alpha and S."""
    D, E, g, h, r, L, A, X, U = kept
    score = q @ k.T
    dU = (D * score).T @ dY + r[:, None] * (k @ dS_next)
    dS = g[-1] * dS_next + q.T @ (g[:, None] * dY) - X.T @ dU
    R = A.T @ dU
    dL = -torch.tril(R @ U.T, -1)
    P, N = D * (dY @ U.T), dL * e[:, None] * E
    read, written, erased = g[:, None] * (dY @ S.T), r[:, None] * (U @ dS_next.T), -h[:, None] * (R @ S.T)
    dq = read + P @ k
    dk = P.T @ q + written + e[:, None] * erased + (N + N.T) @ k
    de = (erased * k).sum(1) + (dL * E * (k @ k.T)).sum(1)
    flow_D, flow_E = P * score, dL * L
    flow_g, flow_h, flow_r = (read * q).sum(1), e * (erased * k).sum(1), (written * k).sum(1)
    d_log_alpha = torch.stack(
        [
            flow_D[i:, :i].sum()
            + flow_E[i + 1 :, :i].sum()
            + flow_g[i:].sum()
            + flow_h[i + 1 :].sum()
            + flow_r[:i].sum()
            + g[-1] * (S * dS_next).sum()
            for i in range(len(q))
        ]
    )
    return dq, dk, w[:, None] * R, de, (R * v).sum(1), d_log_alpha, dS


def draw(length: int, *, key_norm: float = 1.0, seed: int = 0) -> list[Tensor]:
    """Tokens [T, ...] and S [K, V] of one head, K 5, V 3, float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform() -> Tensor:
        return torch.rand(length, generator=generator, dtype=torch.float64)

    k = key_norm * torch.nn.functional.normalize(normal(length, 5), dim=-1)
    return [normal(length, 5), k, normal(length, 3), uniform(), uniform(), uniform().log(), normal(5, 3)]


def check(inputs: list[Tensor], chunk: int) -> None:
    *tokens, S = inputs
    length = len(tokens[0])
    starts = range(0, length, chunk)
    states, kept, outputs = [S], [], []
    for start in starts:
        Y, S, part = forward_chunk(*(x[start : start + chunk] for x in tokens), S)
        outputs.append(Y)
        states.append(S)
        kept.append(part)
    generator = torch.Generator().manual_seed(1)
    dY = torch.randn(length, 3, generator=generator, dtype=torch.float64)
    dS = d_last = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    parts = []
    for number in reversed(range(len(kept))):
        span = slice(starts[number], starts[number] + chunk)
        q, k, v, e, w, _ = (x[span] for x in tokens)
        *grads, dS = backward_chunk(q, k, v, e, w, states[number], kept[number], dY[span], dS)
        parts.insert(0, grads)
    mine = [torch.cat(column) for column in zip(*parts)] + [dS]

    leaves = [x.clone().requires_grad_() for x in inputs]
    batched = [x[None, :, None] for x in leaves[:6]] + [leaves[6].mT[None, None]]
    output, final = erase_write_recurrent(*batched)
    torch.testing.assert_close(torch.cat(outputs), output[0, :, 0].detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(states[-1], final[0, 0].mT.detach(), rtol=1e-10, atol=1e-10)
    loss = (output[0, :, 0] * dY).sum() + (final[0, 0].mT * d_last).sum()
    for name, got, expected in zip(NAMES, mine, torch.autograd.grad(loss, leaves)):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("length", "chunk"), [(1, 4), (3, 4), (4, 4), (5, 4), (15, 4), (9, 1)])
def test_derivation_is_the_gradient(length: int, chunk: int) -> None:
    check(draw(length), chunk)


def test_derivation_with_any_key_norm() -> None:
    check(draw(11, key_norm=1.3, seed=3), 4)


def test_derivation_where_everything_is_forgotten() -> None:
    inputs = draw(11, seed=4)
    inputs[5][torch.tensor([0, 2, 3, 8])] = -torch.inf
    check(inputs, 4)
