"""Products of retentions between the positions of a chunk, from their logarithms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# exp(-700) is 0 in float32 and 1e-304 in float64; below it a retention counts as 0, so that
# differences of sums stay finite even when log_alpha is -inf.
LOWEST_LOG = -700.0


class Decay(NamedTuple):
    """What is left at position t of something written at position s.

    ratio:  [..., C+1, C]; ratio[t, s] = g_t / g_s for s <= t and 0 elsewhere, rows t = 0..C, columns s = 1..C.
    start:  [..., C+1]; g_t, what is left of the chunk's first state after t tokens (start[0] = 1).
    """

    ratio: Tensor
    start: Tensor

    @property
    def after(self) -> Tensor:
        """[..., C, C]; decay from write s to right after token t."""
        return self.ratio[..., 1:, :]

    @property
    def before(self) -> Tensor:
        """[..., C, C]; decay from write s to right before token t (strictly lower triangular)."""
        return self.ratio[..., :-1, :]


def decay_products(log_alpha: Tensor, dtype: torch.dtype) -> Decay:
    """Products of alpha over every span of a chunk.

    g_t = prod_{s<=t} alpha_s; ratios are exponentials of differences of float64 sums, so nothing overflows.

    Args:
        log_alpha: [..., C], each <= 0; -inf (alpha = 0) is allowed.
        dtype: of the result.
    Returns: `Decay`.
    """
    total = log_alpha.double().clamp(min=LOWEST_LOG).cumsum(-1)
    total = torch.cat([torch.zeros_like(total[..., :1]), total], dim=-1)
    span = (total[..., :, None] - total[..., None, 1:]).to(dtype)
    rows, columns = span.shape[-2:]
    future = torch.ones(rows, columns, dtype=torch.bool, device=span.device).triu()
    return Decay(ratio=span.masked_fill_(future, -torch.inf).exp(), start=total.to(dtype).exp())
