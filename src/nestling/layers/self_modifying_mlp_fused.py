"""One chunk of self-modifying MLP memories with its gradients by hand: few operations for the usual options.

The same function as `MlpMemories.project` and `MlpMemories.write` at an anchor that is the current memory, with
implicit DGD, causal reads and no momentum. What a memory does is in `self_modifying_mlp_net`; here are the vectors and
rates that all share, and the rows that make the rates. Inputs, vectors and rates are kept for the backward pass, which
computes the memories again: their activations in a chunk are many times their state.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nestling.layers.self_modifying_mlp_backward import SharedGrads, backward_moved, backward_net, backward_read
from nestling.layers.self_modifying_mlp_net import (
    ChunkTokens,
    Known,
    answer_net,
    ask,
    dot,
    identity,
    move_weights,
    read_net,
    run_net,
    system,
)
from nestling.layers.self_modifying_options import log_retention, log_retention_slope
from nestling.layers.self_modifying_vectors import Order, grad_vectors, make_vectors
from nestling.memory.short_convolution import convolve_backward
from nestling.ops.decay import LOWEST_LOG, Decay, decay_products

__all__ = ["Inputs", "MlpChunk", "backward_mlp_chunk", "flat", "forward_mlp_chunk", "unflat"]

# The stack of memories begins with those that make keys and values and ends with the one that is read.
KEY, VALUE = 0, 1
# Of `ChunkTokens.vectors`: memories are asked for keys and values together.
ORDER = Order(key=0, query=2, value=1)


class Inputs(NamedTuple):
    """What a chunk starts from; R counts rows and heads, N memories.

    view, query: [R, C, K].   first: [R, N F + 2, K], the rows of eta and alpha last.   second: [R, N, K, F].
    bias: [R, 1, 2] of the rates.   taps: [R, W, 3 K].   tail: [R, W - 1, 3 K].   lowest: of alpha [R, 1, 1] or None.
    """

    view: Tensor
    query: Tensor
    first: Tensor
    second: Tensor
    bias: Tensor
    taps: Tensor
    tail: Tensor
    lowest: Tensor | None

    def weights(self, net: int) -> tuple[Tensor, Tensor]:
        """A [R, F, K] and B [R, K, F] of a memory."""
        return weights_of(self.first, self.second, net)

    def is_read(self, net: int) -> bool:
        """Whether this memory answers queries."""
        return net == self.second.shape[1] - 1

    @property
    def rows(self) -> Tensor:
        """[R, 2, K] of eta and alpha."""
        return self.first[:, -2:]


def weights_of(first: Tensor, second: Tensor, net: int) -> tuple[Tensor, Tensor]:
    """Of one memory, as views of both stacks."""
    hidden = second.shape[-1]
    return first[:, net * hidden : (net + 1) * hidden], second[:, net]


class Made(NamedTuple):
    """Vectors and rates of a chunk.

    seen:      [R, W - 1 + C, 3 K] keys, queries and values before the convolution.
    sizes:     [R, C, 1] lengths of keys and of queries behind it.
    log_alpha: [R, C, 1].
    tokens:    what memories share.
    """

    seen: Tensor
    sizes: tuple[Tensor, Tensor]
    log_alpha: Tensor
    tokens: ChunkTokens


class RatePushes(NamedTuple):
    """The rows of eta and alpha as memories: x = alpha k a^T, v a^T, their sum as in `Net`, and U; all [R, C, 2]."""

    inner: Tensor
    target: Tensor
    total: Tensor
    push: Tensor


class MlpChunk(NamedTuple):
    """Answers [R, C, K], both stacks and the tail after a chunk; what its backward pass needs besides its inputs.

    known: per memory, for the backward pass.
    """

    answer: Tensor
    first: Tensor
    second: Tensor
    tail: Tensor
    made: Made
    known: tuple[Known, ...]


def forward_mlp_chunk(given: Inputs, limit: float | None) -> MlpChunk:
    """One chunk."""
    made = make_tokens(given, limit)
    first, second = given.first * made.tokens.end, given.second * made.tokens.end.unsqueeze(-1)
    # A function call each, so that what a memory computed is gone before the next: caches are small.
    found = [_forward_net(made.tokens, given, n, weights_of(first, second, n)) for n in range(second.shape[1])]
    first[:, -2:].baddbmm_(_push_rates(made.tokens, given.rows).push.mT, made.tokens.kept_key)
    tail = made.seen[:, given.view.shape[1] :].clone()
    return MlpChunk(found[-1][0], first, second, tail, made, tuple(known for _, known in found))


def backward_mlp_chunk(
    given: Inputs,
    made: Made,
    known: tuple[Known, ...],
    by_answer: Tensor,
    by_first: Tensor,
    by_second: Tensor,
    by_tail: Tensor,
) -> Inputs:
    """Gradients of the inputs, from those of answers, stacks and the tail after a chunk.

    `made` and `known` are those of its forward pass.
    """
    tokens, inside = made.tokens, _no_grads(made.tokens)
    first, second = by_first * tokens.end, by_second * tokens.end.unsqueeze(-1)
    for n in reversed(range(second.shape[1])):
        moved, found = weights_of(by_first, by_second, n), weights_of(first, second, n)
        _backward_net(tokens, inside, given, n, known[n], by_answer, moved, found)
    _backward_rates(tokens, inside, given.rows, by_first[:, -2:], first[:, -2:])
    ends = (by_first * given.first).sum((1, 2)) + (by_second * given.second).sum((1, 2, 3))
    inside.total[:, -1, 0].addcmul_(tokens.decay.start[:, -1], ends)
    logits = _backward_shared(made, inside, given.lowest)
    seen, taps = _backward_vectors(made, inside.vectors, given.taps, by_tail)
    before = seen.shape[1] - tokens.length
    key, query, value = seen[:, before:].split(given.view.shape[-1], dim=-1)
    view = torch.bmm(logits, given.rows)
    first[:, -2:].baddbmm_(logits.mT, given.view)
    for n, raw in ((KEY, key), (VALUE, value)):
        view += _backward_projection(given, n, raw, weights_of(first, second, n))
    return Inputs(view, query, first, second, logits.sum(1, keepdim=True), taps, seen[:, :before], None)


def make_tokens(given: Inputs, limit: float | None) -> Made:
    """Vectors and rates of the tokens, and what follows from them for all memories."""
    length, raw = given.view.shape[1], []
    for n in (KEY, VALUE):
        first, second = given.weights(n)
        raw.append(torch.baddbmm(given.view, F.silu(torch.bmm(given.view, first.mT)), second.mT))
    seen, vectors, sizes = make_vectors(raw[KEY], given.query, raw[VALUE], given.tail, given.taps, ORDER)

    logits = torch.bmm(given.view, given.rows.mT).add_(given.bias)
    eta, log_alpha = torch.sigmoid(logits[..., :1]), log_retention(logits[..., 1:], given.lowest)
    alpha = log_alpha.exp()
    decay = decay_products(log_alpha.squeeze(-1), log_alpha.dtype)
    key, query = vectors[:, :length], vectors[:, 2 * length :]
    lower = torch.bmm(key, key.mT).mul_(decay.before).mul_(alpha)
    scores = torch.bmm(query, key.mT).mul_(decay.after)
    one, kept_key = identity(lower), key * decay.ratio[:, -1, :, None]
    solve, asked = system(eta / (1 + eta), lower, one), ask(vectors, alpha)
    tokens = ChunkTokens(vectors, asked, alpha, eta, decay, lower, solve, scores, one, kept_key, limit)
    return Made(seen, sizes, log_alpha, tokens)


def flat(made: Made) -> tuple[Tensor, ...]:
    """What `unflat` needs."""
    tokens = made.tokens
    rates, products = (made.log_alpha, tokens.alpha, tokens.eta), (tokens.lower, tokens.solve, tokens.scores)
    return made.seen, *made.sizes, *rates, tokens.vectors, *tokens.decay, *products


def unflat(saved: tuple[Tensor, ...], limit: float | None) -> Made:
    """Vectors and rates of a chunk as `make_tokens` returned them."""
    seen, key_size, query_size, log_alpha, alpha, eta, vectors, ratio, start, lower, solve, scores = saved
    asked, kept_key = ask(vectors, alpha), vectors[:, : alpha.shape[1]] * ratio[:, -1, :, None]
    products = lower, solve, scores, identity(lower)
    tokens = ChunkTokens(vectors, asked, alpha, eta, Decay(ratio, start), *products, kept_key, limit)
    return Made(seen, (key_size, query_size), log_alpha, tokens)


def _forward_net(tokens: ChunkTokens, given: Inputs, n: int, moved: tuple[Tensor, Tensor]) -> tuple[Tensor, Known]:
    """A memory's weights after the chunk, written to `moved`; the answers of the one that is read (of others: v)."""
    weights = given.weights(n)
    net = run_net(tokens, *weights)
    move_weights(tokens, net, moved)
    answer = answer_net(tokens, net, read_net(tokens, net, *weights)) if given.is_read(n) else tokens.value
    return answer, net.known


def _backward_net(
    tokens: ChunkTokens,
    grads: SharedGrads,
    given: Inputs,
    n: int,
    known: Known,
    answer: Tensor,
    moved: tuple[Tensor, Tensor],
    found: tuple[Tensor, Tensor],
) -> None:
    """From the gradients of answers and weights after the chunk to those of the weights before, written to `found`."""
    weights = given.weights(n)
    net = run_net(tokens, *weights, known)
    inside = backward_moved(tokens, grads, net, moved, found)
    if given.is_read(n):
        backward_read(tokens, grads, net, read_net(tokens, net, *weights), weights, answer, inside)
    backward_net(tokens, grads, net, weights, inside)


def _push_rates(tokens: ChunkTokens, rows: Tensor) -> RatePushes:
    """What the rows [R, 2, K] of eta and alpha find and write."""
    limit = tokens.limit
    inner, target = torch.bmm(tokens.asked, rows.mT).split(tokens.length, dim=1)
    total = torch.addcmul(inner, inner, tokens.begin) - (target if limit is None else target.clamp(-limit, limit))
    return RatePushes(inner, target, total, torch.bmm(tokens.solve, total))


def _no_grads(tokens: ChunkTokens) -> SharedGrads:
    kept, alpha, gate, write = (torch.zeros_like(tokens.alpha) for _ in range(4))
    total = torch.zeros_like(tokens.decay.start).unsqueeze(-1)
    lower, scores = torch.zeros_like(tokens.lower), torch.zeros_like(tokens.scores)
    vectors, asked, kept_key = map(torch.zeros_like, (tokens.vectors, tokens.asked, tokens.kept_key))
    return SharedGrads(vectors, asked, kept_key, kept, alpha, gate, write, total, lower, scores)


def _backward_rates(tokens: ChunkTokens, grads: SharedGrads, rows: Tensor, moved: Tensor, found: Tensor) -> None:
    """From the gradient of the rows [R, 2, K] after the chunk, `moved`; that of those before is added to `found`."""
    pushes = _push_rates(tokens, rows)
    by_push = torch.bmm(tokens.kept_key, moved.mT)
    grads.kept_key.baddbmm_(pushes.push, moved)

    by_total = torch.bmm(tokens.solve.mT, by_push)
    grads.lower.baddbmm_(by_total, pushes.push.mT)
    grads.write.add_(dot(by_total, pushes.total))
    held = by_total * tokens.begin
    grads.total[:, :-1] += dot(held, pushes.inner)
    by_target = -by_total
    if tokens.limit is not None:
        by_target = by_target.masked_fill_(pushes.target.abs() > tokens.limit, 0)
    both = torch.cat([by_total + held, by_target], dim=1)
    grads.asked.baddbmm_(both, rows)
    found.baddbmm_(both.mT, tokens.asked)


def _backward_shared(made: Made, grads: SharedGrads, lowest: Tensor | None) -> Tensor:
    """The system of all first maps, scores and decays: keys and queries are added to, logits [R, C, 2] returned."""
    tokens, length = made.tokens, made.tokens.length
    by_key, by_value = grads.asked.split(length, dim=1)
    grads.alpha.add_(dot(by_key, tokens.asked[:, :length]))
    grads.vectors[:, :length].addcmul_(by_key, tokens.alpha).addcmul_(grads.kept_key, tokens.kept)
    grads.vectors[:, length : 2 * length] += by_value

    kept = grads.kept.add_(dot(grads.kept_key, tokens.kept_key))
    grads.total[:, 1:] -= kept
    grads.total[:, -1] += kept.sum(1)

    reach = grads.lower * tokens.lower
    rows = reach.sum(2, keepdim=True)
    grads.write.add_(rows)
    grads.alpha.add_(rows)
    grads.total[:, :-1] += rows
    grads.total[:, 1:] -= reach.sum(1).unsqueeze(-1)
    by_keys = grads.lower.mul_(tokens.decay.before).mul_(tokens.alpha)
    grads.vectors[:, :length].baddbmm_(by_keys + by_keys.mT, tokens.key)

    reach = grads.scores * tokens.scores
    grads.total[:, 1:] += reach.sum(2, keepdim=True) - reach.sum(1).unsqueeze(-1)
    by_scores = grads.scores.mul_(tokens.decay.after)
    grads.vectors[:, :length].baddbmm_(by_scores.mT, tokens.query)
    grads.vectors[:, 2 * length :].baddbmm_(by_scores, tokens.key)

    gate = grads.gate + grads.write * (1 - tokens.eta) / (1 + tokens.eta)
    log_alpha = grads.alpha + grads.total[:, 1:].flip(1).cumsum(1).flip(1)
    log_alpha = log_alpha.masked_fill(made.log_alpha <= LOWEST_LOG, 0)
    return torch.cat([gate, log_alpha * log_retention_slope(tokens.alpha, lowest)], dim=-1)


def _backward_vectors(made: Made, by_vectors: Tensor, taps: Tensor, by_tail: Tensor) -> tuple[Tensor, Tensor]:
    """Through length 1 and the convolution: gradients of all that it saw, and of the taps."""
    by_made = grad_vectors(by_vectors, made.tokens.vectors, made.sizes, ORDER)
    seen, by_taps = convolve_backward(by_made, made.seen, taps)
    seen[:, made.tokens.length :] += by_tail
    return seen, by_taps


def _backward_projection(given: Inputs, net: int, raw: Tensor, found: tuple[Tensor, Tensor]) -> Tensor:
    """From the gradient of z + silu(z A^T) B^T to that of z; gradients of A and B are added to `found`."""
    first, second = given.weights(net)
    inner = torch.bmm(given.view, first.mT)
    found[1].baddbmm_(raw.mT, F.silu(inner))
    by_inner = torch.ops.aten.silu_backward(torch.bmm(raw, second), inner)
    found[0].baddbmm_(by_inner.mT, given.view)
    return torch.baddbmm(raw, by_inner, first)
