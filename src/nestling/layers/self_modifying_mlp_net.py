"""One MLP memory of self-modifying Titans over one chunk, for the usual options.

With A [F, K], B [K, F] before the chunk, g_t the product of retentions up to t, g_- the one before t, and
D_ts = g_t / g_s, Y_ts = g_{t-1} / g_s (s <= t, s < t; else 0):

    x = alpha k A^T,   h = silu(x),   b = alpha h B^T,   target = v + silu(v A^T) B^T, at most `limit` long
    error = k + b - target,   back = silu'(x) alpha (error B),   both at most `limit` / |input| long
    (I + diag(w alpha) (Y * K K^T)) U  = -diag(w)  (back + g_- x),     w  = eta / (1 + eta)
    (I + diag(w' alpha) (Y * H H^T)) U' = -diag(w') (error + g_- b),    w' = eta / (1 + eta |h|^2)
    A <- g_C A + (D_C * U)^T K,   B <- g_C B + (D_C * U')^T H
    y = q + g r B^T + (D * r h^T) U',   r = silu(g q A^T + (D * q k^T) U)

the same as `MlpMemories.write` with implicit DGD, causal reads and no momentum, of which it is the fast form. On a CPU
time goes by sweeps over [R, C, F]: what can be done to [R, C, K] or [R, C, C] instead is done there.
Gradients are in `self_modifying_mlp_backward`.

Source: NL eq. 88-90, and section 3 for the implicit step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from nestling.ops.decay import Decay

__all__ = [
    "ChunkTokens", "Flags", "Known", "Net", "Read", "Weights",
    "answer_net", "ask", "dot", "identity", "move_weights", "read_net", "run_net", "system",
]  # fmt: skip

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
    def known(self) -> Known:
        """For `run_net`, when the same is computed again."""
        target, back, error = (short is not None for short in self.shorts)
        return Known((target, back, error), self.solve)


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


class Known(NamedTuple):
    """What the backward pass need not find again: which vectors may be too long, and `solve` of `Net`."""

    limited: Flags
    solve: Tensor


def run_net(tokens: ChunkTokens, first: Tensor, second: Tensor, known: Known | None = None) -> Net:
    """All of one memory but its read.

    Args:
        tokens: of the chunk.
        first: A [R, F, K].
        second: B [R, K, F].
        known: of the same memory and chunk, from `Net.known`.
    """
    length, limits = tokens.length, [tokens.limit] * 3
    if known is not None:
        limits = [tokens.limit if flag else None for flag in known.limited]
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
    solve = system(tokens.eta / (1 + tokens.eta * size), lower, tokens.one) if known is None else known.solve
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
    if size.device.type == "cpu" and size.amax().item() <= limit:  # elsewhere asking would wait for the device
        return None
    return limit / size.clamp_(min=limit)


def dot(left: Tensor, right: Tensor) -> Tensor:
    """Inner product of the last axis, which stays with size 1."""
    return (left * right).sum(-1, keepdim=True)
