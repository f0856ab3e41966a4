"""Pieces that the Triton kernels of the erase-write recurrence share: indices, products, decay tables.

Letters: C tokens of a chunk, `token` [C] the row of each token in a [B, T, H] tensor, `inside` [C] whether the token
exists (the last chunk may be partial). Absent tokens read as zero: no erase, no write, retention exp(0) = 1.
"""

# Kernels are compiled by Triton, an optional package whose language a type checker cannot follow.
# pyright: reportGeneralTypeIssues=false, reportMissingImports=false
from __future__ import annotations

import triton
import triton.language as tl

from nestling.ops.triton_dispatch import triton_interpreted

INTERPRETED = tl.constexpr(triton_interpreted())


@triton.jit
def product(left, right, PRECISION: tl.constexpr):
    """Matrix product with float32 sums; `PRECISION` says how float32 operands are multiplied."""
    if INTERPRETED:  # Triton's interpreter stores bfloat16 as integers and multiplies those
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, input_precision=PRECISION)


@triton.jit
def locate(chunk, row_head, T, H: tl.constexpr, C: tl.constexpr):
    """Rows of the chunk's tokens in a [B, T, H] tensor for batch row and head number `row_head`, and which exist."""
    time = chunk * C + tl.arange(0, C)
    token = ((row_head // H).to(tl.int64) * T + time) * H + row_head % H
    return token, time < T


@triton.jit
def load_rows(source, token, inside, column, WIDTH: tl.constexpr):
    """Tile [C, columns] of a [B, T, H, WIDTH] tensor; zero outside."""
    where = token[:, None] * WIDTH + column[None, :]
    return tl.load(source + where, mask=inside[:, None] & (column < WIDTH)[None, :], other=0.0)


@triton.jit
def store_rows(target, tile, token, inside, column, WIDTH: tl.constexpr):
    """Write a tile [C, columns] into a [B, T, H, WIDTH] tensor."""
    where = token[:, None] * WIDTH + column[None, :]
    tl.store(target + where, tile.to(target.dtype.element_ty), mask=inside[:, None] & (column < WIDTH)[None, :])


@triton.jit
def load_scalars(source, token, inside):
    """One float32 number per token [C]; zero outside."""
    return tl.load(source + token, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def load_earlier(source, token, inside, H: tl.constexpr, C: tl.constexpr):
    """The number of the token before, [C] float32; zero for the first token of the chunk."""
    return tl.load(source + token - H, mask=inside & (tl.arange(0, C) > 0), other=0.0).to(tl.float32)


@triton.jit
def load_later(source, token, chunk, T, H: tl.constexpr, C: tl.constexpr):
    """The number of the token after, [C] float32; zero for the last token of the chunk."""
    row = tl.arange(0, C)
    return tl.load(source + token + H, mask=(row < C - 1) & (chunk * C + row + 1 < T), other=0.0).to(tl.float32)


@triton.jit
def square_index(state_row, key_column, value_column, K: tl.constexpr, V: tl.constexpr):
    """Places and mask of a tile [K, V] in a [..., K, V] tensor, number `state_row` of its leading axes."""
    where = state_row.to(tl.int64) * K * V + key_column[:, None] * V + value_column[None, :]
    return where, (key_column < K)[:, None] & (value_column < V)[None, :]


@triton.jit
def turned_index(state_row, key_column, value_column, K: tl.constexpr, V: tl.constexpr):
    """Places and mask that read a [..., V, K] tensor as a tile [K, V]."""
    where = state_row.to(tl.int64) * K * V + value_column[None, :] * K + key_column[:, None]
    return where, (key_column < K)[:, None] & (value_column < V)[None, :]


@triton.jit
def decay_through(log_alpha, C: tl.constexpr):
    """D[t, s] = alpha_{s+1} ... alpha_t for s <= t, else 0. Sums segments, so alpha = 0 gives 0 and never NaN."""
    row = tl.arange(0, C)
    segment = tl.cumsum(tl.where(row[:, None] > row[None, :], log_alpha[:, None], 0.0), axis=0)
    return tl.where(row[:, None] >= row[None, :], tl.exp(segment), 0.0)


@triton.jit
def decay_before(log_alpha_earlier, C: tl.constexpr):
    """E[t, s] = alpha_{s+1} ... alpha_{t-1} for s < t, else 0, from the log retention of the token before each t."""
    row = tl.arange(0, C)
    segment = tl.cumsum(tl.where(row[:, None] > row[None, :] + 1, log_alpha_earlier[:, None], 0.0), axis=0)
    return tl.where(row[:, None] > row[None, :], tl.exp(segment), 0.0)
