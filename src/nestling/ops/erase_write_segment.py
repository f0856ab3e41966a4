"""The mathematics of `erase_write` on a segment of several chunks, forward and backward by hand.

Write M_t = alpha_t M_{t-1} + u_t k_t^T. The pushes u_t of one chunk solve a unit lower-triangular system:

    (I + L) U = diag(write) V - diag(erase g_-) K S^T,   L_ts = erase_t (g_{t-1} / g_s) k_t.k_s  for s < t
    y_t = g_t S q_t + sum_{s<=t} (g_t / g_s) (k_s.q_t) u_s
    S_next = g_C S + sum_s (g_C / g_s) u_s k_s^T

with S the state before the chunk, g_t the product of the first t retentions of the chunk and g_- the decay before each
token. All but the recurrence of S is done for all chunks at once. States are held transposed, [K, V], so that the
products of the hot path need no transposed right operand. M counts chunks * rows * heads, chunk by chunk.

Source: NL section 8.2 and eq. 90; WY form of DeltaNet (arXiv 2406.06484), gated in arXiv 2412.06464.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nestling.ops.decay import LOWEST_LOG, Decay, decay_products


class Tokens(NamedTuple):
    """The inputs of a segment in chunks: query and key [M, C, K], value [M, C, V], rates [M, C, 1]."""

    query: Tensor
    key: Tensor
    value: Tensor
    erase: Tensor | None
    write: Tensor
    log_alpha: Tensor


class Erasing(NamedTuple):
    """What the erase adds.

    erase_key: [M, C, K] diag(erase) K.
    inverse:   [M, C, C] (I + L)^-1.
    removal:   [M, C, K] (I + L)^-1 diag(erase g_-) K.
    """

    erase_key: Tensor
    inverse: Tensor
    removal: Tensor


class Parts(NamedTuple):
    """What the chunks need besides their states; none of it depends on the states.

    decay:    products of retentions.
    kept_key: [M, C, K] (g_C / g_s) k_s.
    scores:   [M, C, C] (g_t / g_s) q_t.k_s for s <= t.
    erasing:  None without erase.
    """

    decay: Decay
    kept_key: Tensor
    scores: Tensor
    erasing: Erasing | None


def prepare(tokens: Tokens, inverse: Tensor | None = None) -> Parts:
    """Everything that is parallel over chunks; `inverse` if it is known already."""
    decay = decay_products(tokens.log_alpha.squeeze(-1), tokens.key.dtype)
    key_t = tokens.key.mT.contiguous()
    scores = torch.bmm(tokens.query, key_t).mul_(decay.after)
    erasing = None
    if tokens.erase is not None:
        erase_key = tokens.key * tokens.erase
        if inverse is None:
            inverse = _invert(torch.bmm(erase_key, key_t).mul_(decay.before))
        removal = torch.bmm(inverse, erase_key * decay.start[:, :-1, None])
        erasing = Erasing(erase_key, inverse, removal)
    return Parts(decay, tokens.key * decay.ratio[:, -1, :, None], scores, erasing)


def _invert(lower: Tensor) -> Tensor:
    """(I + L)^-1 of strictly lower triangular L [M, C, C]; its diagonal is not read, `unitriangular` puts the ones."""
    identity = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
    return torch.linalg.solve_triangular(lower, identity, upper=False, unitriangular=True)


def forward_segment(tokens: Tokens, parts: Parts, state_t: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs [M, C, V], and the states before each chunk and after the last [N + 1, R, K, V]."""
    push = tokens.value * tokens.write
    removal = None
    if parts.erasing is not None:
        push = torch.bmm(parts.erasing.inverse, push)
        removal = _by_chunk(parts.erasing.removal, state_t)
    states = _run_states(_by_chunk(push, state_t), removal, parts, state_t)
    output = torch.bmm(tokens.query * parts.decay.start[:, 1:, None], states[:-1].flatten(0, 1))
    return output.baddbmm_(parts.scores, push), states


def _run_states(push: Tensor, removal: Tensor | None, parts: Parts, state_t: Tensor) -> Tensor:
    """The only sequential part: S <- g_C S + U^T kept_key; completes `push` [N, R, C, V] in place."""
    kept_key = _by_chunk(parts.kept_key, state_t).mT
    decay_all = _by_chunk(parts.decay.start[:, -1:, None], state_t)
    states = state_t.new_empty(len(push) + 1, *state_t.shape)
    states[0] = state_t
    for n in range(len(push)):
        if removal is not None:
            push[n].baddbmm_(removal[n], states[n], alpha=-1)
        torch.mul(states[n], decay_all[n], out=states[n + 1])
        states[n + 1].baddbmm_(kept_key[n], push[n])
    return states


def backward_segment(
    tokens: Tokens, parts: Parts, states: Tensor, grad_output: Tensor, grad_t: Tensor
) -> tuple[tuple[Tensor | None, ...], Tensor]:
    """Gradients of query, key, value, erase, write, log_alpha, and of the state before the segment [R, K, V].

    The gradient by log g_t is read off the other gradients: whatever is scaled by g_t and multiplied with x_t (x a
    query, an erased or a written key) gives it x_t . (gradient of x_t in that role), with the sign of the exponent.
    """
    decay, erasing = parts.decay, parts.erasing
    begin, before = decay.start[:, 1:, None], decay.start[:, :-1, None]
    before_states = states[:-1].flatten(0, 1)
    push = tokens.value * tokens.write
    if erasing is not None:
        push = torch.bmm(erasing.inverse, push).baddbmm_(erasing.removal, before_states, alpha=-1)
    push_t, states_t = push.mT.contiguous(), before_states.mT.contiguous()

    grad_push = torch.bmm(parts.scores.mT, grad_output)
    grad_read = torch.bmm((tokens.query * begin).mT, grad_output)
    grad_next, grad_t = _run_grads(grad_push, grad_read, parts, grad_t)

    grad_scores = torch.bmm(grad_output, push_t).mul_(decay.after)
    grad_query = torch.bmm(grad_output, states_t).mul_(begin).baddbmm_(grad_scores, tokens.key)
    grad_written = torch.bmm(push, grad_next.mT.contiguous()).mul_(decay.ratio[:, -1, :, None])
    grad_written.baddbmm_(grad_scores.mT, tokens.query)

    grad_log = torch.zeros_like(decay.start)
    grad_log[:, -1] += (states[1:].flatten(0, 1) * grad_next).sum((-2, -1))
    grad_target, grad_erase = grad_push, None
    grad_key = grad_written
    if erasing is not None and tokens.erase is not None:
        grad_target = torch.bmm(erasing.inverse.mT, grad_push)
        grad_lower = torch.bmm(grad_target, push_t).mul_(decay.before).neg_()
        grad_written.baddbmm_(grad_lower.mT, erasing.erase_key)
        grad_erased = torch.bmm(grad_lower, tokens.key)
        grad_erased.addcmul_(torch.bmm(grad_target, states_t), before, value=-1)
        grad_erase = _dot(grad_erased, tokens.key)
        grad_log[:, :-1] += (grad_erase * tokens.erase).squeeze(-1)
        grad_key = torch.addcmul(grad_written, grad_erased, tokens.erase)
    grad_log[:, 1:] += (_dot(grad_query, tokens.query) - _dot(grad_written, tokens.key)).squeeze(-1)
    grad_alpha = grad_log[:, 1:].flip(-1).cumsum(-1).flip(-1).unsqueeze(-1)
    grad_alpha = grad_alpha.masked_fill(tokens.log_alpha <= LOWEST_LOG, 0)
    grad_write = _dot(grad_target, tokens.value)
    return (grad_query, grad_key, grad_target.mul_(tokens.write), grad_erase, grad_write, grad_alpha), grad_t


def _run_grads(grad_push: Tensor, grad_read: Tensor, parts: Parts, grad_t: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the state after each chunk [M, K, V] and before the first; completes `grad_push` in place."""
    kept_key = _by_chunk(parts.kept_key, grad_t)
    removal = None if parts.erasing is None else _by_chunk(parts.erasing.removal, grad_t).mT
    decay_all = _by_chunk(parts.decay.start[:, -1:, None], grad_t)
    push, read = _by_chunk(grad_push, grad_t), _by_chunk(grad_read, grad_t)
    grad_next = torch.empty_like(read)
    for n in reversed(range(len(push))):
        grad_next[n] = grad_t
        push[n].baddbmm_(kept_key[n], grad_t)
        grad_t = torch.addcmul(read[n], decay_all[n], grad_t)
        if removal is not None:
            grad_t.baddbmm_(removal[n], push[n], alpha=-1)
    return grad_next.flatten(0, 1), grad_t


def _by_chunk(tensor: Tensor, state_t: Tensor) -> Tensor:
    """[M, ...] to [N, R, ...], R the rows and heads of a state."""
    return tensor.unflatten(0, (-1, len(state_t)))


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Inner product of the last axis, which stays with size 1."""
    return (left * right).sum(-1, keepdim=True)
