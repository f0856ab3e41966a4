"""Gradients of one MLP memory of self-modifying Titans over one chunk, by hand; the symbols are of the forward pass.

Gradients by the logarithm of whatever scales a term are read off the term itself, so nothing is divided by a rate. They
are tested against autograd of the reference, in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nestling.layers.self_modifying_mlp_net import ChunkTokens, Net, Read, Weights, dot

__all__ = ["NetGrads", "SharedGrads", "backward_moved", "backward_net", "backward_read"]


class SharedGrads(NamedTuple):
    """Gradients of `ChunkTokens` that all memories add to.

    vectors: [R, 3 C, K], `asked` apart.
    asked:   [R, 2 C, K].
    kept_key: [R, C, K].
    kept:    [R, C, 1] by log D_C, `kept_key` apart.
    alpha:   [R, C, 1] by log alpha, `asked`, `lower` and decays apart.
    gate:    [R, C, 1] by the logit of eta, w apart.
    write:   [R, C, 1] by log w, `lower` apart.
    total:   [R, C + 1, 1] by log g, `lower` and `scores` apart.
    lower:   [R, C, C] by `lower`; its upper triangle means nothing.
    scores:  [R, C, C] by `scores`; its upper triangle means nothing.
    """

    vectors: Tensor
    asked: Tensor
    kept_key: Tensor
    kept: Tensor
    alpha: Tensor
    gate: Tensor
    write: Tensor
    total: Tensor
    lower: Tensor
    scores: Tensor


class NetGrads(NamedTuple):
    """Gradients within one memory: of U and U', of h, and of the weights [R, F, K] and [R, K, F]."""

    pushes: tuple[Tensor, Tensor]
    hidden: Tensor
    weights: Weights


def backward_moved(tokens: ChunkTokens, grads: SharedGrads, net: Net, moved: Weights, found: Weights) -> NetGrads:
    """From the gradients of the weights after the chunk, `moved`; `found` holds g_C times those."""
    kept, h = tokens.kept, net.hidden[:, : tokens.length]
    pushes = torch.bmm(tokens.kept_key, moved[0].mT), torch.bmm(h, moved[1].mT).mul_(kept)
    grads.kept_key.baddbmm_(net.pushes[0], moved[0])
    grads.kept.add_(dot(pushes[1], net.pushes[1]))
    return NetGrads(pushes, torch.bmm(net.pushes[1] * kept, moved[1]), found)


def backward_read(
    tokens: ChunkTokens,
    grads: SharedGrads,
    net: Net,
    reading: Read,
    weights: Weights,
    answer: Tensor,
    inside: NetGrads,
) -> None:
    """From the gradient of y [R, C, K], added to `inside` and `grads`."""
    first, second = weights
    h, by_query = net.hidden[:, : tokens.length], grads.vectors[:, 2 * tokens.length :]
    by_found = answer * tokens.after
    by_scores = torch.bmm(answer, net.pushes[1].mT)
    reach = by_scores * reading.scores
    by_scores.mul_(tokens.decay.after)
    inside.pushes[1].baddbmm_(reading.scores.mT, answer)
    by_hidden = torch.bmm(by_found, second).baddbmm_(by_scores, h)
    inside.hidden.baddbmm_(by_scores.mT, reading.hidden)
    inside.weights[1].baddbmm_(by_found.mT, reading.hidden)
    by_inner = torch.ops.aten.silu_backward(by_hidden, reading.inner)

    torch.bmm(by_inner, net.pushes[0].mT, out=grads.scores)
    inside.pushes[0].baddbmm_(tokens.scores.mT, by_inner)
    scaled = tokens.query * tokens.after
    inside.weights[0].baddbmm_(by_inner.mT, scaled)
    by_scaled = torch.bmm(by_inner, first)
    by_query.add_(answer).addcmul_(by_scaled, tokens.after)
    grads.total[:, 1:] += dot(by_scaled, scaled).add_(dot(answer, reading.found))
    grads.total[:, 1:] += reach.sum(2, keepdim=True) - reach.sum(1).unsqueeze(-1)


def backward_net(tokens: ChunkTokens, grads: SharedGrads, net: Net, weights: Weights, inside: NetGrads) -> None:
    """From the gradients of U, U' and h to those of A and B, which are added to `inside`."""
    length, (first, second) = tokens.length, weights
    x, h, short = net.inner[:, :length], net.hidden[:, :length], net.shorts[1]
    by_hidden = inside.hidden
    by_error, by_recalled = _backward_outer(tokens, grads, net, inside.pushes[1], by_hidden)

    # The system of A: U = solve (back + g_- x).
    by_sum = torch.bmm(tokens.solve.mT, inside.pushes[0])
    grads.lower.baddbmm_(by_sum, net.pushes[0].mT)
    by_inner = torch.empty_like(net.inner)
    by_x = torch.mul(by_sum, tokens.begin, out=by_inner[:, :length])
    held = dot(by_x, x)
    grads.total[:, :-1] += held
    if short is None:
        by_back, along = by_sum, None
    else:
        back = net.pulled * net.slope
        by_back, along = _shortened(by_sum, back, short), dot(by_sum, back) * short

    # back = silu'(x) (alpha error B), and silu'' = (1 - s) (2 silu' - h).
    by_pulled = by_back * net.slope
    reached = dot(by_pulled, net.pulled)
    grads.alpha.add_(reached)
    grads.write.add_(held.add_(reached if along is None else along))
    inside.weights[1].baddbmm_((net.error * tokens.alpha).mT, by_pulled)
    by_error.addcmul_(torch.bmm(by_pulled, second.mT), tokens.alpha)
    curve = torch.add(net.slope, h, alpha=-0.5)
    by_x.addcmul_(torch.mul(by_back, net.pulled, out=by_pulled), curve.addcmul_(curve, net.gate, value=-1), value=2)

    # error = k + b - target; b = alpha h B^T, target = v + silu(v A^T) B^T.
    by_recalled.add_(by_error)
    grads.vectors[:, :length] += by_error
    grads.alpha.add_(dot(by_recalled, net.recalled))
    by_target = _shortened(by_error.neg_(), net.target, net.shorts[0])
    grads.vectors[:, length : 2 * length] += by_target
    by_answers = torch.cat([by_recalled.mul_(tokens.alpha), by_target], dim=1)
    inside.weights[1].baddbmm_(by_answers.mT, net.hidden)
    by_both = torch.bmm(by_answers, second)
    by_x.addcmul_(by_hidden.add_(by_both[:, :length]), net.slope)
    torch.ops.aten.silu_backward.grad_input(by_both[:, length:], net.inner[:, length:], grad_input=by_inner[:, length:])
    inside.weights[0].baddbmm_(by_inner.mT, tokens.asked)
    grads.asked.baddbmm_(by_inner, first)


def _backward_outer(
    tokens: ChunkTokens, grads: SharedGrads, net: Net, by_push: Tensor, by_hidden: Tensor
) -> tuple[Tensor, Tensor]:
    """The system of B: gradients of error and b [R, C, K]; that of h is added to `by_hidden`."""
    h, short = net.hidden[:, : tokens.length], net.shorts[2]
    by_sum = torch.bmm(net.solve.mT, by_push)
    by_lower = torch.bmm(by_sum, net.pushes[1].mT)
    reach = by_lower * net.lower
    by_lower.mul_(tokens.decay.before).mul_(tokens.alpha)
    by_hidden.baddbmm_(by_lower + by_lower.mT, h)
    rows = reach.sum(2, keepdim=True)
    grads.alpha.add_(rows)
    by_recalled = by_sum * tokens.begin
    held = dot(by_recalled, net.recalled)
    grads.total[:, :-1] += rows + held
    grads.total[:, 1:] -= reach.sum(1).unsqueeze(-1)

    along = dot(by_sum, net.error)
    if short is not None:
        along = along * short
    by_write = rows.add_(held).add_(along).div_(1 + tokens.eta * net.size)
    grads.gate.add_(by_write * (1 - tokens.eta))
    by_size = by_write * tokens.eta * -2
    if short is not None:
        by_size -= torch.where(short < 1, along, 0) / net.size.clamp(min=torch.finfo(along.dtype).tiny)
    by_hidden.addcmul_(h, by_size)
    return _shortened(by_sum, net.error, short), by_recalled


def _shortened(grad: Tensor, vector: Tensor, short: Tensor | None) -> Tensor:
    """Gradient of `vector` from that of vector * short."""
    if short is None:
        return grad
    size = dot(vector, vector).clamp_(min=torch.finfo(vector.dtype).tiny)
    along = torch.where(short < 1, dot(grad, vector) * short, 0) / size
    return torch.addcmul(grad * short, vector, along, value=-1)
