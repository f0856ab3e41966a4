"""How a chunk's writes and first state reach each of its tokens, with or without a surprise accumulator."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nestling.ops.decay import decay_products


class Spans(NamedTuple):
    """Coefficients of S <- momentum S + u k^T, M <- alpha M + S over one chunk; R rows and heads, C tokens.

    M_t = keep_t M_0 + carry_t S_0 + sum_{s<=t} reach_ts u_s k_s^T
    S_C = fade S_0 + sum_s leave_s u_s k_s^T

    reach: [R, C + 1, C], row t after t tokens.   keep, carry: [R, C + 1, 1].   leave: [R, C, 1].   fade: [R, 1, 1].
    carry, leave and fade are None without momentum (S is then the newest write alone).
    """

    reach: Tensor
    keep: Tensor
    carry: Tensor | None
    leave: Tensor | None
    fade: Tensor | None


def spans(log_alpha: Tensor, momentum: Tensor | None) -> Spans:
    """Coefficients from the rates of a chunk.

    reach = D_alpha D_momentum, the product of both lower-triangular matrices of decays: what is written at s enters the
    accumulator, leaves it at every r >= s, and decays in the memory until t.

    Args:
        log_alpha: [R, C] <= 0.
        momentum: [R, C] in [0, 1), or None.
    """
    memory = decay_products(log_alpha, log_alpha.dtype)
    if momentum is None:
        return Spans(memory.ratio, memory.start.unsqueeze(-1), None, None, None)
    surprise = decay_products(momentum.log(), log_alpha.dtype)
    first = torch.bmm(memory.ratio, surprise.start[:, 1:, None])
    return Spans(
        reach=torch.bmm(memory.ratio, surprise.after),
        keep=memory.start.unsqueeze(-1),
        carry=first,
        leave=surprise.ratio[:, -1, :, None],
        fade=surprise.start[:, -1:, None],
    )


def _from_state(seen: Tensor, memory: Tensor, past: Tensor | None, keep: Tensor, carry: Tensor | None) -> Tensor:
    """What the chunk's first state, decayed to each token, answers."""
    answer = keep * torch.bmm(seen, memory.mT)
    return answer if past is None or carry is None else answer + carry * torch.bmm(seen, past.mT)


def pushes(
    seen: Tensor, push: Tensor, erase: Tensor | None, memory: Tensor, past: Tensor | None, coefficients: Spans
) -> Tensor:
    """u_t = push_t - erase_t M_{t-1} x_t for all t: one unit lower-triangular system. [R, C, out]."""
    if erase is None:
        return push
    carry = None if coefficients.carry is None else coefficients.carry[:, :-1]
    lower = erase * torch.bmm(seen, seen.mT) * coefficients.reach[:, :-1]
    target = push - erase * _from_state(seen, memory, past, coefficients.keep[:, :-1], carry)
    return torch.linalg.solve_triangular(lower, target, upper=False, unitriangular=True)


def read(query: Tensor, seen: Tensor, push: Tensor, memory: Tensor, past: Tensor | None, coefficients: Spans) -> Tensor:
    """M_t q_t of one map for every token, [R, C, out]."""
    carry = None if coefficients.carry is None else coefficients.carry[:, 1:]
    scores = torch.bmm(query, seen.mT) * coefficients.reach[:, 1:]
    return _from_state(query, memory, past, coefficients.keep[:, 1:], carry) + torch.bmm(scores, push)


def advance(
    seen: Tensor, push: Tensor, memory: Tensor, past: Tensor | None, coefficients: Spans
) -> tuple[Tensor, Tensor | None]:
    """Memory and accumulator after the chunk."""
    last = coefficients.reach[:, -1, :, None]
    memory_now = torch.baddbmm(coefficients.keep[:, -1:] * memory, push.mT, seen * last)
    if past is None or coefficients.carry is None or coefficients.leave is None or coefficients.fade is None:
        return memory_now, None
    surprise_now = torch.baddbmm(coefficients.fade * past, push.mT, seen * coefficients.leave)
    return memory_now + coefficients.carry[:, -1:] * past, surprise_now
