"""One token of self-modifying matrix memories for generation: as few operations as possible, no gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from nestling.layers.self_modifying_options import Options, limited, shares, token_rates
from nestling.ops.unit_vectors import SMALLEST

__all__ = ["write_and_read_token"]


def write_and_read_token(
    view: Tensor,
    query: Tensor,
    memory: Tensor,
    anchor: Tensor,
    maps: Tensor,
    bias: Tensor,
    taps: Tensor,
    tail: Tensor,
    lowest: Tensor | None,
    how: Options,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `MatrixSequence` computes for the next token, wherever it stands in its chunk; R counts rows and heads.

    [k | v | rates] = (z G_anchor^T) W,   k, q, v <- conv(k, q, v),   k and q of length 1
    G <- alpha G - erase G k k^T + write (G_anchor v) k^T,   y = G q

    and with U = G - I for G in `memory` and `anchor` (decay_to "initial")

    U <- alpha U - erase U k k^T + write (U_anchor v + v - k) k^T,   y = U q + q

    Args:
        view: [R, 1, K], z.
        query: [R, 1, K], before the convolution.
        memory: [R, K, K], the common factor G or U.
        anchor: [R, K, K], the same at the end of the last full chunk.
        maps: [R, K, 2 K + 2], the initial memories W.
        bias: [R, 1, 2], of the rates.
        taps: [R, W, 3 K].
        tail: [R, W - 1, 3 K], before the convolution.
        lowest: of alpha, [R, 1, 1], or None.
        how: options with `is_plain`.

    Returns:
        answers [R, 1, K] before M_memory,0, the new factor and the new tail.
    """
    width = view.shape[-1]
    through = torch.baddbmm if how.keeps_start else _product
    key, value, logits = torch.bmm(through(view, view, anchor.mT), maps).split((width, width, 2), dim=-1)
    seen = torch.cat([tail, torch.cat([key, query, value], dim=-1)], dim=1)
    key, query, value = (seen * taps).sum(1, keepdim=True).split(width, dim=-1)
    key, query = _unit(key), _unit(query)
    rates = token_rates(logits + bias, None, how, lowest)
    share = shares(key, rates, how)
    target = limited(through(value, value, anchor.mT), how.limit)
    push = share.write * (target - key if how.keeps_start else target)
    if share.erase is not None:
        push.addcmul_(torch.bmm(key, memory.mT), share.erase, value=-1)
    after = torch.baddbmm(memory * rates.log_alpha.exp().unsqueeze(-1), push.mT, key)
    return through(query, query, after.mT), after, seen[:, 1:]


def _product(beside: Tensor, vectors: Tensor, matrix: Tensor) -> Tensor:
    """`torch.baddbmm` without what is added."""
    del beside
    return torch.bmm(vectors, matrix)


def _unit(vector: Tensor) -> Tensor:
    return vector / torch.linalg.vector_norm(vector, dim=-1, keepdim=True).clamp_(min=SMALLEST)
