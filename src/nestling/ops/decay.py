"""Products of retentions between the positions of a chunk, from their logarithms."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# A retention below exp(-700) counts as 0, so that differences of sums stay finite even when log_alpha is -inf.
LOWEST_LOG = -700.0
# A product of retentions below this counts as 0; anything smaller would make denormal numbers, which are slow.
LOWEST_SPAN = {torch.float32: -60.0, torch.float64: -600.0}


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
    lowest = LOWEST_SPAN[dtype]
    total = log_alpha.double().clamp(min=LOWEST_LOG).cumsum(-1)
    total = torch.cat([torch.zeros_like(total[..., :1]), total], dim=-1)
    span = total[..., :, None] - total[..., None, 1:]
    ratio = _exp_to_zero(span.clamp_(max=0).to(dtype), lowest).tril_(-1)
    return Decay(ratio=ratio, start=_exp_to_zero(total.to(dtype), lowest))


def _exp_to_zero(exponent: Tensor, lowest: float) -> Tensor:
    """Exponential that is exactly 0 from `lowest` down."""
    return exponent.clamp_(min=lowest).exp_() - math.exp(lowest)
