"""One MLP memory of self-modifying Titans over one chunk, forward and backward by hand, for the usual options.

With A [F, K], B [K, F] before the chunk, g_t the product of retentions up to t, g_- the one before t, and
D_ts = g_t / g_s, Y_ts = g_{t-1} / g_s (s <= t, s < t; else 0):

    x = alpha k A^T,   h = silu(x),   b = alpha h B^T,   target = v + silu(v A^T) B^T, at most `limit` long
    error = k + b - target,   back = silu'(x) alpha (error B),   both at most `limit` / |input| long
    (I + diag(w alpha) (Y * K K^T)) U  = -diag(w)  (back + g_- x),     w  = eta / (1 + eta)
    (I + diag(w' alpha) (Y * H H^T)) U' = -diag(w') (error + g_- b),    w' = eta / (1 + eta |h|^2)
    A <- g_C A + (D_C * U)^T K,   B <- g_C B + (D_C * U')^T H
    y = q + g r B^T + (D * r h^T) U',   r = silu(g q A^T + (D * q k^T) U)

the same as `MlpMemories.write` with implicit DGD, causal reads and no momentum, of which it is the fast form. Gradients
by the logarithm of whatever scales a term are read off the term itself, so nothing is divided by a rate. On a CPU time
goes by sweeps over [R, C, F]: what can be done to [R, C, K] or [R, C, C] instead is done there.

Source: NL eq. 88-90, and section 3 for the implicit step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from nestling.ops.decay import Decay

__all__ = ["ChunkTokens", "Net", "SharedGrads", "backward_net", "run_net"]

Weights = tuple[Tensor, Tensor]
Flags = tuple[bool, bool, bool]


class ChunkTokens(NamedTuple):
    """What all memories of a chunk share; R counts rows and heads.

    vectors: [R, 3 C, K] keys, values, queries; keys and queries of length 1.
    asked:   [R, 2 C, K] alpha k, then v.
    alpha:   [R, C, 1] retention.
    eta:     [R, C, 1] inner learning rate.
    decay:   products of retentions.
    lower:   [R, C, C] alpha (Y * K K^T).
    solve:   [R, C, C] -(I + diag(w) lower)^-1 diag(w).
    scores:  [R, C, C] D * Q K^T.
    one:     [R, C, C] the identity.
    kept_key: [R, C, K] D_C K.
    limit:   of targets and surprises, or None.
    """

    vectors: Tensor
    asked: Tensor
    alpha: Tensor
    eta: Tensor
    decay: Decay
    lower: Tensor
    solve: Tensor
    scores: Tensor
    one: Tensor
    kept_key: Tensor
    limit: float | None

    @property
    def length(self) -> int:
        """Tokens C."""
        return self.alpha.shape[1]

    @property
    def key(self) -> Tensor:
        """[R, C, K]."""
        return self.vectors[:, : self.length]

    @property
    def value(self) -> Tensor:
        """[R, C, K]."""
        return self.vectors[:, self.length : 2 * self.length]

    @property
    def query(self) -> Tensor:
        """[R, C, K]."""
        return self.vectors[:, 2 * self.length :]

    @property
    def begin(self) -> Tensor:
        """g_- [R, C, 1]."""
        return self.decay.start[:, :-1, None]

    @property
    def after(self) -> Tensor:
        """g [R, C, 1]."""
        return self.decay.start[:, 1:, None]

    @property
    def end(self) -> Tensor:
        """g_C [R, 1, 1]."""
        return self.decay.start[:, -1:, None]

    @property
    def kept(self) -> Tensor:
        """D_C [R, C, 1]."""
        return self.decay.ratio[:, -1, :, None]


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


class Net(NamedTuple):
    """What one memory computes in a chunk, see above; a `short` is what the limit scales by, or None where nothing is.

    inner:    [R, 2 C, F] x, then v A^T.
    hidden:   [R, 2 C, F] silu of `inner`.
    gate:     [R, C, F] sigmoid of x.
    size:     [R, C, 1] |h|^2.
    recalled: [R, C, K] b.
    target:   [R, C, K] before it is limited.
    error:    [R, C, K] before it is limited.
    slope:    [R, C, F] silu'(x).
    pulled:   [R, C, F] alpha (error B).
    shorts:   of target, back and error, each [R, C, 1].
    pushes:   [R, C, F] U and [R, C, K] U'.
    lower:    [R, C, C] alpha (Y * H H^T).
    solve:    [R, C, C] -(I + diag(w') lower)^-1 diag(w').
    """

    inner: Tensor
    hidden: Tensor
    gate: Tensor
    size: Tensor
    recalled: Tensor
    target: Tensor
    error: Tensor
    slope: Tensor
    pulled: Tensor
    shorts: tuple[Tensor | None, Tensor | None, Tensor | None]
    pushes: tuple[Tensor, Tensor]
    lower: Tensor
    solve: Tensor

    @property
    def limited(self) -> Flags:
        """For `run_net`, when the same is computed again."""
        target, back, error = (short is not None for short in self.shorts)
        return target, back, error


def ask(vectors: Tensor, alpha: Tensor) -> Tensor:
    """`ChunkTokens.asked` of its vectors [R, 3 C, K]."""
    length = alpha.shape[1]
    return torch.cat([vectors[:, :length] * alpha, vectors[:, length : 2 * length]], dim=1)


def identity(lower: Tensor) -> Tensor:
    """I for every L [R, C, C]."""
    return torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)


def system(write: Tensor, lower: Tensor, one: Tensor) -> Tensor:
    """-(I + diag(w) L)^-1 diag(w) of strictly lower triangular L [R, C, C]."""
    inverse = torch.linalg.solve_triangular(write * lower, one, upper=False, unitriangular=True)
    return inverse.mul_(-write.mT)


def run_net(tokens: ChunkTokens, first: Tensor, second: Tensor, limited: Flags = (True, True, True)) -> Net:
    """All of one memory but its read.

    Args:
        tokens: of the chunk.
        first: A [R, F, K].
        second: B [R, K, F].
        limited: whether any target, back or error may be too long; False where it is known that none is.
    """
    length, limits = tokens.length, [tokens.limit if flag else None for flag in limited]
    inner = torch.bmm(tokens.asked, first.mT)
    hidden = silu(inner)
    x, h = inner[:, :length], hidden[:, :length]
    gate = torch.sigmoid(x)
    recalled, target = torch.bmm(hidden, second.mT).split(length, dim=1)
    recalled.mul_(tokens.alpha)
    target += tokens.value
    short = _short(target, None, limits[0])
    error = tokens.key + recalled
    error = error.sub_(target) if short is None else error.addcmul_(target, short, value=-1)
    slope = torch.addcmul(gate + h, h, gate, value=-1)
    pulled = torch.bmm(error * tokens.alpha, second)

    size = dot(h, h)
    back = pulled * slope
    shorts = short, _short(back, None, limits[1]), _short(error, size, limits[2])
    lower = torch.bmm(h, h.mT).mul_(tokens.decay.before).mul_(tokens.alpha)
    solve = system(tokens.eta / (1 + tokens.eta * size), lower, tokens.one)
    back = (back if shorts[1] is None else back.mul_(shorts[1])).addcmul_(x, tokens.begin)
    outer = torch.addcmul(error if shorts[2] is None else error * shorts[2], recalled, tokens.begin)
    pushes = torch.bmm(tokens.solve, back), torch.bmm(solve, outer)
    return Net(inner, hidden, gate, size, recalled, target, error, slope, pulled, shorts, pushes, lower, solve)


def move_weights(tokens: ChunkTokens, net: Net, moved: Weights) -> None:
    """A and B after the chunk, in place of g_C A and g_C B."""
    inner, outer = (push * tokens.kept for push in net.pushes)
    moved[0].baddbmm_(inner.mT, tokens.key)
    moved[1].baddbmm_(outer.mT, net.hidden[:, : tokens.length])


class Read(NamedTuple):
    """How the last memory is read, see above.

    seen:   [R, C, F] g q A^T.
    inner:  [R, C, F] seen + (D * q k^T) U.
    hidden: [R, C, F] r.
    found:  [R, C, K] g r B^T.
    scores: [R, C, C] D * r h^T.
    """

    seen: Tensor
    inner: Tensor
    hidden: Tensor
    found: Tensor
    scores: Tensor


def read_net(tokens: ChunkTokens, net: Net, first: Tensor, second: Tensor) -> Read:
    """What queries find."""
    seen = torch.bmm(tokens.query * tokens.after, first.mT)
    inner = torch.baddbmm(seen, tokens.scores, net.pushes[0])
    hidden = silu(inner)
    found = torch.bmm(hidden, second.mT).mul_(tokens.after)
    scores = torch.bmm(hidden, net.hidden[:, : tokens.length].mT).mul_(tokens.decay.after)
    return Read(seen, inner, hidden, found, scores)


def answer_net(tokens: ChunkTokens, net: Net, reading: Read) -> Tensor:
    """y [R, C, K]."""
    return torch.baddbmm(reading.found, reading.scores, net.pushes[1]).add_(tokens.query)


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


def _short(vector: Tensor, beside: Tensor | None, limit: float | None) -> Tensor | None:
    """What brings |vector| |input| down to the limit, [R, C, 1], if it is known that anything is longer.

    Args:
        vector: [R, C, V].
        beside: |input|^2 [R, C, 1]; None is 1.
        limit: > 0, or None.
    """
    if limit is None:
        return None
    size = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    if beside is not None:
        size *= beside.sqrt()
    if size.device.type == "cpu" and size.amax() <= limit:  # elsewhere asking would wait for the device
        return None
    return limit / size.clamp_(min=limit)


def _shortened(grad: Tensor, vector: Tensor, short: Tensor | None) -> Tensor:
    """Gradient of `vector` from that of vector * short."""
    if short is None:
        return grad
    size = dot(vector, vector).clamp_(min=torch.finfo(vector.dtype).tiny)
    along = torch.where(short < 1, dot(grad, vector) * short, 0) / size
    return torch.addcmul(grad * short, vector, along, value=-1)


def dot(left: Tensor, right: Tensor) -> Tensor:
    """Inner product of the last axis, which stays with size 1."""
    return (left * right).sum(-1, keepdim=True)
