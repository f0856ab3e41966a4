"""One token of the erase-write recurrence for generation: as few operations as possible, no checks, no gradients."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ALPHA", "Share", "erase_write_token"]

ALPHA = "alpha"
# What is erased as a share of what is written: a number, the retention of the token, or None for nothing.
Share = float | str | None


def erase_write_token(
    query: Tensor, key: Tensor, value: Tensor, share: Share, write: Tensor, alpha: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`erase_write` with T = 1 and erase = share write, everything in the type of the state; R counts rows and heads.

    M <- alpha M + write (v - share M k) k^T,   y = M q

    Args:
        query: [R, K, 1].
        key: [R, K, 1].
        value: [R, V, 1].
        share: a number, ALPHA for the retention of the token, or None for 0.
        write: [R, 1, 1].
        alpha: [R, 1, 1] in [0, 1], retention.
        state: [R, V, K].

    Returns:
        output [R, V, 1] and the new state; the input is unchanged.
    """
    kept = state * alpha
    if share is None:
        push = value * write
    elif share == ALPHA:
        push = torch.baddbmm(value, kept, key, alpha=-1).mul_(write)
    else:
        push = torch.baddbmm(value, state, key, alpha=-float(share)).mul_(write)
    kept.addcmul_(push, key.mT)
    return torch.bmm(kept, query), kept
