"""One chunk of self-modifying matrix memories with its gradients by hand: few operations for the usual options.

With S = G^T before the chunk, g_t the product of retentions up to t and D_ts = g_t / g_s (s <= t, else 0):

    [k | v | rates] = (z S) W,   k, q, v <- conv(k, q, v),   k and q of length 1
    (I + E) U = diag(w f) V S - diag(e g) K S,     E_ts = e_t D_ts k_t.k_s  for s < t
    y = diag(g) Q S + (D * Q K^T) U,               S <- g_C S + (D_C * K)^T U

w is what a write adds, e = erase / alpha, f <= 1 the limit of targets. The same function as `MatrixMemories.project`
and `MatrixMemories.write` with gradients at the current memory, causal reads and no momentum. With a gate h in (0, 1),

    implicit  w = h / (1 + h), e = 2 w;     explicit  w = alpha h / 2, e = h;     off  w = alpha h, e = h

With negative eigenvalues h is any number > 0 (implicit), or w and e are twice as large. With decay_to "initial" S holds
the deviation (G - I)^T: z S, V S and y get z, V and Q added, and diag(w) K is taken from the right-hand side.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nestling.layers.self_modifying_options import LARGEST_LOGIT, Options, eta_gate, log_retention, log_retention_slope
from nestling.layers.self_modifying_vectors import Order, grad_vectors, make_vectors
from nestling.memory.short_convolution import convolve_backward

__all__ = ["ChunkGrads", "Kept", "Shared", "backward_chunk", "forward_chunk"]

# Retentions below exp(-80) count as exp(-80), so that differences of sums stay exact.
LOWEST_LOG = -80.0
# Products of retentions below exp(-60) count as exp(-60): denormal numbers are slow.
LOWEST_SPAN = -60.0
# K, Q, V as they are stacked: products with K need K and Q together.
ORDER = Order(key=0, query=1, value=2)


class Shared(NamedTuple):
    """What all chunks share: W [R, K, 2 K + 2], bias [R, 1, 2], taps [R, W, 3 K], lowest of alpha [R, 1, 1] or None."""

    maps: Tensor
    bias: Tensor
    taps: Tensor
    lowest: Tensor | None


class Kept(NamedTuple):
    """What the backward pass of a chunk needs; K, Q, V are `stacked`, S finds `read` for them, K times K and Q are
    `products`, times their decays.
    """

    view: Tensor
    state: Tensor
    seen: Tensor
    key_size: Tensor
    query_size: Tensor
    stacked: Tensor
    gate: Tensor
    log_alpha: Tensor
    write: Tensor
    share: Tensor
    start: Tensor
    decay: Tensor
    read: Tensor
    products: Tensor
    push: Tensor
    factor: Tensor | None


class Chunk(NamedTuple):
    """Answers [R, C, K] before M_memory,0, S and the tail after a chunk, z S [R, C, K], and what is kept."""

    answer: Tensor
    state: Tensor
    tail: Tensor
    seen_from: Tensor
    kept: Kept


def forward_chunk(view: Tensor, query: Tensor, state: Tensor, tail: Tensor, shared: Shared, how: Options) -> Chunk:
    """One chunk: z and q before the convolution [R, C, K], S [R, K, K] and the tail [R, W - 1, 3 K] before it."""
    length, width = view.shape[1:]
    seen_from = torch.baddbmm(view, view, state) if how.keeps_start else torch.bmm(view, state)
    key, value, logits = torch.bmm(seen_from, shared.maps).split((width, width, 2), dim=-1)
    seen, stacked, sizes = make_vectors(key, query, value, tail, shared.taps, ORDER)
    key, query, value = stacked.split(length, dim=1)

    logits = logits + shared.bias
    gate = eta_gate(logits[..., :1], how.dgd, how.negative_eigenvalues)
    log_alpha = log_retention(logits[..., 1:], shared.lowest).clamp_(min=LOWEST_LOG)
    write, share = _write_and_share(gate, log_alpha, how)
    total = log_alpha.cumsum(1)
    start = total.clamp(min=LOWEST_SPAN).exp_()
    decay = (total - total.mT).clamp_(min=LOWEST_SPAN, max=0).exp_().tril_()

    read = torch.bmm(stacked, state)
    recalled, found, target = read.split(length, dim=1)
    if how.keeps_start:
        target += value
    factor = _factor(target, how.limit)
    products = torch.bmm(stacked[:, : 2 * length], key.mT)
    products.view(-1, 2, length, length).mul_(decay.unsqueeze(1))
    push = target * (write if factor is None else write * factor)
    push.addcmul_(recalled, share * start, value=-1)
    if how.keeps_start:
        push.addcmul_(key, write, value=-1)
    push = torch.linalg.solve_triangular(products[:, :length] * share, push, upper=False, unitriangular=True)
    answer = torch.baddbmm(start * found, products[:, length:], push)
    if how.keeps_start:
        answer += query
    after = torch.baddbmm(state * start[:, -1:], (key * decay[:, -1, :, None]).mT, push)
    kept = Kept(
        view, state, seen, *sizes, stacked, gate, log_alpha, write, share, start, decay, read, products, push, factor
    )
    return Chunk(answer, after, seen[:, length:].clone(), seen_from, kept)


class ChunkGrads(NamedTuple):
    """Gradients of z, q, S and the tail before the chunk, of bias and taps, and of [k | v | rates] [R, C, 2 K + 2]."""

    view: Tensor
    query: Tensor
    state: Tensor
    tail: Tensor
    bias: Tensor
    taps: Tensor
    raw: Tensor


def backward_chunk(
    kept: Kept, shared: Shared, how: Options, grad_answer: Tensor, grad_after: Tensor, grad_tail: Tensor
) -> ChunkGrads:
    """From the gradients of answers, S and the tail after a chunk."""
    length, stacked, state, write = kept.view.shape[1], kept.stacked, kept.state, kept.write
    key, both = stacked[:, :length], slice(2 * length)
    recalled, found, target = kept.read.split(length, dim=1)
    last = kept.decay[:, -1, :, None]
    solved, grad_products = _grad_system(kept, grad_answer, grad_after, key * last)

    # Rates: e stands in the system twice, decays everywhere.
    reach = grad_products * kept.products
    along, erased = reach.sum(-1, keepdim=True), _dot(solved, recalled)
    grad_share = torch.addcmul(along[:, :length], erased, kept.start, value=-1)
    grad_kept = torch.bmm(kept.push, grad_after.mT).mul_(last)
    grad_start = _dot(grad_answer, found).addcmul_(erased, kept.share, value=-1)
    grad_log = _grad_log(kept, reach, along, grad_start, _dot(grad_kept, key), grad_after)

    # Products of keys and queries, and what the first state answered.
    grad_products[:, :length].mul_(kept.share)
    grad_products.view(-1, 2, length, length).mul_(kept.decay.unsqueeze(1))
    grad_write = _dot(solved, target)
    grad_read = _grad_read(kept, how, solved, grad_answer, grad_write)
    grad_stacked = torch.bmm(grad_read, state.mT)
    if kept.factor is not None:
        grad_write = grad_write * kept.factor
    if how.keeps_start:
        grad_stacked[:, :length].addcmul_(solved, write, value=-1)
        grad_stacked[:, length : 2 * length] += grad_answer
        grad_stacked[:, 2 * length :] += grad_read[:, 2 * length :]
        grad_write = grad_write - _dot(solved, key)
    grad_stacked[:, both].baddbmm_(grad_products, key)
    grad_stacked[:, :length].add_(grad_kept).baddbmm_(grad_products.mT, stacked[:, both])
    grad_state = torch.baddbmm(grad_after * kept.start[:, -1:], stacked.mT, grad_read)

    # Length 1, convolution, projections.
    grad_made = grad_vectors(grad_stacked, stacked, (kept.key_size, kept.query_size), ORDER)
    grad_seen, grad_taps = convolve_backward(grad_made, kept.seen, shared.taps)
    grad_seen[:, length:] += grad_tail
    grad_logits = _grad_logits(kept, grad_write, grad_share, grad_log, shared.lowest, how)
    before = kept.seen.shape[1] - length
    grad_key, grad_query, grad_value = grad_seen[:, before:].split(kept.view.shape[2], dim=-1)
    grad_raw = torch.cat([grad_key, grad_value, grad_logits], dim=-1)
    grad_from = torch.bmm(grad_raw, shared.maps.mT)
    grad_view = torch.bmm(grad_from, state.mT)
    if how.keeps_start:
        grad_view += grad_from
    grad_state.baddbmm_(kept.view.mT, grad_from)
    bias = grad_logits.sum(1, keepdim=True)
    return ChunkGrads(grad_view, grad_query, grad_state, grad_seen[:, :before], bias, grad_taps, grad_raw)


def _grad_system(kept: Kept, grad_answer: Tensor, grad_after: Tensor, kept_key: Tensor) -> tuple[Tensor, Tensor]:
    """Through push = (I + E)^-1 right-hand side: of the latter [R, C, K], and of `products` without e in E."""
    length = kept.view.shape[1]
    grad_push = torch.baddbmm(torch.bmm(kept.products[:, length:].mT, grad_answer), kept_key, grad_after)
    system = (kept.products[:, :length] * kept.share).mT
    solved = torch.linalg.solve_triangular(system, grad_push, upper=True, unitriangular=True)
    grad_products = torch.bmm(torch.cat([-solved, grad_answer], dim=1), kept.push.mT)
    grad_products[:, :length].tril_(-1)
    return solved, grad_products


def _grad_log(kept: Kept, reach: Tensor, along: Tensor, grad_start: Tensor, ends: Tensor, grad_after: Tensor) -> Tensor:
    """Of log alpha [R, C, 1], through the logarithms of its products.

    reach: [R, 2 C, C] by the logarithms of decays in `products`, without e; along: [R, 2 C, 1] its rows.
    grad_start: [R, C, 1] of g.   ends: [R, C, 1] by the logarithm of D_C.
    """
    length, share, start = kept.view.shape[1], kept.share, kept.start
    columns = torch.bmm(torch.cat([share, torch.ones_like(share)], dim=1).mT, reach).mT
    total = (grad_start * start).addcmul_(along[:, :length], share).add_(along[:, length:]).sub_(columns).sub_(ends)
    held = torch.linalg.vecdot(grad_after.flatten(1), kept.state.flatten(1)).unsqueeze(-1)
    total[:, -1] += ends.sum(1).addcmul_(start[:, -1], held)
    return total.flip(1).cumsum(1).flip(1)


def _grad_read(kept: Kept, how: Options, solved: Tensor, grad_answer: Tensor, grad_write: Tensor) -> Tensor:
    """Of what S answers to [K; Q; V], [R, 3 C, K]; grad_write is solved . target."""
    length, factor, write = kept.view.shape[1], kept.factor, kept.write
    grad_read = torch.empty_like(kept.read)
    grad_recalled, grad_found, grad_target = grad_read.split(length, dim=1)
    torch.mul(solved, -kept.share * kept.start, out=grad_recalled)
    torch.mul(grad_answer, kept.start, out=grad_found)
    if factor is None:
        torch.mul(solved, write, out=grad_target)
    else:
        assert how.limit is not None
        shorten = grad_write * write * torch.where(factor < 1, factor * (factor / how.limit) ** 2, 0)
        torch.mul(solved, write * factor, out=grad_target)
        grad_target.addcmul_(kept.read[:, 2 * length :], shorten, value=-1)
    return grad_read


def _write_and_share(gate: Tensor, log_alpha: Tensor, how: Options) -> tuple[Tensor, Tensor]:
    """w and e, see above, of keys of length 1 (a key of length 0 writes nothing, whatever its rates)."""
    if how.dgd == "implicit":
        write = gate / (1 + gate)
        return write, 2 * write
    share = 2 * gate if how.negative_eigenvalues else gate
    write = log_alpha.exp() * share
    return (0.5 * write if how.dgd == "explicit" else write), share


def _grad_logits(
    kept: Kept, grad_write: Tensor, grad_share: Tensor, grad_log: Tensor, lowest: Tensor | None, how: Options
) -> Tensor:
    """Gradients of the logits of eta and alpha [R, C, 2]."""
    gate, log_alpha = kept.gate, kept.log_alpha
    alpha = log_alpha.exp()
    slope = gate * (1 - gate)
    if how.dgd == "implicit":
        grad_gate = (grad_write + 2 * grad_share) / (1 + gate) ** 2
        if how.negative_eigenvalues:
            slope = gate.masked_fill(gate >= math.exp(LARGEST_LOGIT), 0)
    else:
        half, times = 0.5 if how.dgd == "explicit" else 1.0, 2.0 if how.negative_eigenvalues else 1.0
        grad_gate = times * (grad_share + half * alpha * grad_write)
        grad_log = grad_log + kept.write * grad_write
    grad_log = (grad_log * log_retention_slope(alpha, lowest)).masked_fill(log_alpha <= LOWEST_LOG, 0)
    return torch.cat([grad_gate * slope, grad_log], dim=-1)


def _factor(target: Tensor, limit: float | None) -> Tensor | None:
    """What brings targets down to the limit, [R, C, 1]; None when it is known that none is longer."""
    if limit is None:
        return None
    size = torch.linalg.vector_norm(target, dim=-1, keepdim=True)
    if size.device.type == "cpu" and size.amax() <= limit:  # elsewhere asking would wait for the device
        return None
    return limit / size.clamp_(min=limit)


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Inner product of the last axis, which stays with size 1."""
    return (left * right).sum(-1, keepdim=True)
