"""Chunk-parallel form of `erase_write`, forward and backward by hand.

Write M_t = alpha_t M_{t-1} + u_t k_t^T. The pushes u_t of one chunk solve a unit lower-triangular system:

    (I + L) U = diag(write) V - diag(erase g_-) K S^T,   L_ts = erase_t (g_{t-1} / g_s) k_t.k_s  for s < t
    y_t = g_t S q_t + sum_{s<=t} (g_t / g_s) (k_s.q_t) u_s
    S_next = g_C S + sum_s (g_C / g_s) u_s k_s^T

with S the state before the chunk and g_- the decay before each token. All but the recurrence of S is done for many
chunks at once. States are held transposed, [K, V], so that the products of the hot path need no transposed operand.

Source: nested-learning section 8; WY form of DeltaNet (arXiv 2406.06484), gated in arXiv 2412.06464.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nestling.ops.chunks import join_chunks, split_chunks
from nestling.ops.decay import LOWEST_LOG, Decay, decay_products

# Matrices of one chunk, row and head that are worked on at once: few enough to stay in a CPU's cache.
SEGMENT_MATRICES_CPU = 64
SEGMENT_MATRICES_GPU = 4096


class Tokens(NamedTuple):
    """The inputs of a segment in chunks: q k [N, R, C, K], v [N, R, C, V], rates [N, R, C], R = B * H."""

    query: Tensor
    key: Tensor
    value: Tensor
    erase: Tensor | None
    write: Tensor
    log_alpha: Tensor


class Parts(NamedTuple):
    """What a segment's chunks need besides their states; none of it depends on the states.

    decay:    products of retentions.
    key_t:    [N, R, K, C] keys, transposed.
    kept_key: [N, R, C, K] (g_C / g_s) k_s.
    similar:  [N, R, C, C] k_t.k_s, or None without erase.
    inverse:  [N, R, C, C] (I + L)^-1, or None without erase.
    removal:  [N, R, C, K] (I + L)^-1 diag(erase g_-) K, or None without erase.
    scores:   [N, R, C, C] (g_t / g_s) q_t.k_s for s <= t.
    """

    decay: Decay
    key_t: Tensor
    kept_key: Tensor
    similar: Tensor | None
    inverse: Tensor | None
    removal: Tensor | None
    scores: Tensor


class EraseWriteChunked(torch.autograd.Function):
    """`erase_write` with recomputation: inputs and chunk-boundary states are all it keeps."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        erase: Tensor | None,
        write: Tensor,
        log_alpha: Tensor,
        state: Tensor,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor]:
        """Output and final state."""
        batch, length = query.shape[:2]
        inputs = (query, key, value, erase, write, log_alpha)
        state_t = state.mT.reshape(-1, *state.mT.shape[-2:]).contiguous()
        output = torch.empty_like(value)
        boundaries = []
        with torch.autocast(query.device.type, enabled=False):
            for span in _segments(query, chunk_size):
                tokens = _load(inputs, span, chunk_size, state.dtype)
                parts = _prepare(tokens)
                output_chunks, states, state_t = _forward_segment(tokens, parts, state_t)
                output[:, span] = join_chunks(output_chunks, batch, span.stop - span.start).to(value.dtype)
                boundaries.append(states)
        ctx.save_for_backward(*inputs, *boundaries)
        ctx.chunk_size = chunk_size
        ctx.state_shape = state.shape
        del length
        return output, state_t.mT.reshape(state.shape).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all inputs, segments in reverse order."""
        grad_output, grad_state = grads
        inputs, boundaries = ctx.saved_tensors[:6], ctx.saved_tensors[6:]
        query, dtype = inputs[0], grad_state.dtype
        results = [None if tensor is None else torch.empty_like(tensor) for tensor in inputs]
        grad_t = grad_state.mT.reshape(-1, *grad_state.mT.shape[-2:]).contiguous()
        with torch.autocast(query.device.type, enabled=False):
            spans = list(_segments(query, ctx.chunk_size))
            for span, states in zip(reversed(spans), reversed(boundaries)):
                tokens = _load(inputs, span, ctx.chunk_size, dtype)
                grad_chunks = split_chunks(grad_output[:, span].to(dtype), ctx.chunk_size)
                segment, grad_t = _backward_segment(tokens, _prepare(tokens), states, grad_chunks, grad_t)
                for result, grad in zip(results, segment):
                    if result is not None and grad is not None:
                        _store(result, span, grad)
        return *results, grad_t.mT.reshape(ctx.state_shape), None


def _segments(query: Tensor, chunk_size: int) -> list[slice]:
    """Spans of tokens that are worked on at once, each a whole number of chunks but the last."""
    batch, length, heads = query.shape[:3]
    matrices = SEGMENT_MATRICES_GPU if query.is_cuda else SEGMENT_MATRICES_CPU
    step = chunk_size * max(1, matrices // (batch * heads))
    return [slice(first, min(first + step, length)) for first in range(0, length, step)]


def _load(inputs: tuple[Tensor | None, ...], span: slice, chunk_size: int, dtype: torch.dtype) -> Tokens:
    def chunks(tensor: Tensor | None) -> Any:
        if tensor is None:
            return None
        part = tensor[:, span].to(dtype)
        if part.ndim == 4:
            return split_chunks(part, chunk_size)
        return split_chunks(part.unsqueeze(-1), chunk_size).squeeze(-1)

    return Tokens(*(chunks(tensor) for tensor in inputs))


def _store(result: Tensor, span: slice, grad: Tensor) -> None:
    batch, length = result.shape[0], span.stop - span.start
    if result.ndim == 4:
        result[:, span] = join_chunks(grad, batch, length).to(result.dtype)
    else:
        result[:, span] = join_chunks(grad.unsqueeze(-1), batch, length).squeeze(-1).to(result.dtype)


def _prepare(tokens: Tokens) -> Parts:
    decay = decay_products(tokens.log_alpha, tokens.key.dtype)
    key_t = tokens.key.mT.contiguous()
    kept_key = tokens.key * decay.ratio[..., -1, :, None]
    scores = (tokens.query @ key_t).mul_(decay.after)
    if tokens.erase is None:
        return Parts(decay, key_t, kept_key, None, None, None, scores)
    similar = tokens.key @ key_t
    lower = (similar * decay.before).mul_(tokens.erase.unsqueeze(-1))
    identity = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
    # The diagonal of `lower` is 0 and is not read: unitriangular puts the ones there.
    inverse = torch.linalg.solve_triangular(lower, identity, upper=False, unitriangular=True)
    removal = inverse @ (tokens.key * (tokens.erase * decay.start[..., :-1]).unsqueeze(-1))
    return Parts(decay, key_t, kept_key, similar, inverse, removal, scores)


def _forward_segment(tokens: Tokens, parts: Parts, state_t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs [N, R, C, V], the states before each chunk [N, R, K, V], and the state after the last."""
    push = tokens.value * tokens.write.unsqueeze(-1)
    if parts.inverse is not None:
        push = parts.inverse @ push
    decay_all = parts.decay.start[..., -1, None, None]
    states = []
    for n in range(len(push)):
        states.append(state_t)
        if parts.removal is not None:
            push[n].baddbmm_(parts.removal[n], state_t, alpha=-1)
        state_t = torch.baddbmm(decay_all[n] * state_t, parts.kept_key[n].mT, push[n])
    stacked = torch.stack(states)
    output = (tokens.query * parts.decay.start[..., 1:, None]) @ stacked
    flat = output.flatten(0, 1).baddbmm_(parts.scores.flatten(0, 1), push.flatten(0, 1))
    return flat.view_as(output), stacked, state_t


def _backward_segment(
    tokens: Tokens, parts: Parts, states: Tensor, grad_output: Tensor, grad_t: Tensor
) -> tuple[tuple[Tensor | None, ...], Tensor]:
    """Gradients of q, k, v, erase, write, log_alpha of a segment, and of the state before it."""
    query, key, value, erase, write, log_alpha = tokens
    decay, key_t, kept_key, similar, inverse, removal, scores = parts
    begin, before = decay.start[..., 1:], decay.start[..., :-1]

    # The pushes again, then their gradients and those of the states, last chunk first.
    target = value * write.unsqueeze(-1)
    answers = None
    if erase is not None:
        answers = key @ states
        target = target.addcmul_(answers, (erase * before).unsqueeze(-1), value=-1)
    push = target if inverse is None else inverse @ target
    grad_push = scores.mT @ grad_output
    grad_states = (query * begin.unsqueeze(-1)).mT @ grad_output
    decay_all = begin[..., -1, None, None]
    grad_nexts = []
    for n in reversed(range(len(states))):
        grad_nexts.append(grad_t)
        grad_push[n].baddbmm_(kept_key[n], grad_t)
        grad_state = grad_states[n].addcmul_(decay_all[n], grad_t)
        if removal is not None:
            grad_state = grad_state.baddbmm_(removal[n].mT, grad_push[n], alpha=-1)
        grad_t = grad_state
    grad_next = torch.stack(grad_nexts[::-1])

    push_t, states_t = push.mT.contiguous(), states.mT.contiguous()
    grad_target = grad_push if inverse is None else inverse.mT @ grad_push
    grad_value = grad_target * write.unsqueeze(-1)
    grad_write = (grad_target * value).sum(-1)

    # Reads: y = diag(g) Q S^T + scores U.
    grad_query = (grad_output @ states_t).mul_(begin.unsqueeze(-1))
    grad_begin = (grad_query * query).sum(-1)
    grad_scores = (grad_output @ push_t).mul_(decay.after)
    spent = grad_scores * (query @ key_t)
    grad_query = grad_query.add_(grad_scores @ key)
    grad_key = grad_scores.mT @ query

    # The next state: S_next = g_C S + U^T kept_key.
    grad_kept = (push @ grad_next.mT).mul_(decay.ratio[..., -1, :, None])
    grad_key.add_(grad_kept)
    grad_end = (grad_kept * key).sum(-1)
    grad_last = grad_end.sum(-1) + begin[..., -1] * (states * grad_next).sum((-2, -1))

    # Sum of gradients by log g_t, t = 0..C; the row of a ratio counts for t, its column against s.
    grad_log = torch.zeros_like(decay.start)
    grad_log[..., 1:] += grad_begin + spent.sum(-1) - spent.sum(-2) - grad_end
    grad_log[..., -1] += grad_last
    grad_erase = None
    if erase is not None and similar is not None and answers is not None:
        grad_lower = (grad_target @ push_t).mul_(decay.before).neg_()
        overlap = grad_lower * similar
        grad_removed = (grad_target * answers).sum(-1).mul_(before).neg_()
        grad_erase = grad_removed + overlap.sum(-1)
        overlap.mul_(erase.unsqueeze(-1))
        grad_log[..., :-1] += overlap.sum(-1) + grad_removed * erase
        grad_log[..., 1:] -= overlap.sum(-2)
        grad_similar = grad_lower.mul_(erase.unsqueeze(-1))
        grad_key.add_((grad_similar + grad_similar.mT) @ key)
        grad_key.addcmul_(grad_target @ states_t, (erase * before).unsqueeze(-1), value=-1)
    grad_alpha = grad_log[..., 1:].flip(-1).cumsum(-1).flip(-1)
    grad_alpha = grad_alpha.masked_fill(log_alpha <= LOWEST_LOG, 0)
    return (grad_query, grad_key, grad_value, grad_erase, grad_write, grad_alpha), grad_t
