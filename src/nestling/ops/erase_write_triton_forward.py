"""Forward Triton kernels of the erase-write recurrence; docs/derivations/erase_write.md sections 1 and 2.

Per chunk, with S = M_0^T [K, V] the memory before it, rows of q, k, v one token each:

    (I + L) U = diag(w) v - diag(b) k S        L = diag(e) (E o k k^T),  b_t = e_t g_{t-1}
    Y         = diag(g) q S + (D o q k^T) U
    S'        = g_C S + k^T diag(r) U

solve_kernel -> A = (I + L)^-1; vectors_kernel -> X = A diag(b) k, U0 = A diag(w) v (both parallel over chunks);
states_kernel -> U = U0 - X S and the S of every chunk (in order); output_kernel -> Y (parallel over chunks).
"""

# Kernels are compiled by Triton, an optional package whose language a type checker cannot follow.
# pyright: reportGeneralTypeIssues=false, reportMissingImports=false
from __future__ import annotations

import triton
import triton.language as tl

from nestling.ops.erase_write_triton_tiles import (
    decay_before,
    decay_through,
    load_earlier,
    load_later,
    load_rows,
    load_scalars,
    locate,
    product,
    square_index,
    store_rows,
    turned_index,
)


@triton.jit
def invert_unit_lower(lower, C: tl.constexpr, LEVELS: tl.constexpr, PRECISION: tl.constexpr):
    """(I + lower)^-1 for a strictly lower triangular [C, C] tile, C = 2^LEVELS, by joining inverses of halves.

    [[P, 0], [R, Q]]^-1 = [[P^-1, 0], [-Q^-1 R P^-1, Q^-1]] for all blocks of one size at once. Every intermediate is a
    true inverse of a diagonal block, so repeated keys do not blow up as they would in a Neumann series.
    """
    row = tl.arange(0, C)
    inverse = tl.where(row[:, None] == row[None, :], 1.0, 0.0)
    inverse -= tl.where((row[:, None] == row[None, :] + 1) & (row[:, None] % 2 == 1), lower, 0.0)
    for level in tl.static_range(1, LEVELS):
        block = row >> level
        join = (block[:, None] == block[None, :] + 1) & (block[:, None] % 2 == 1)
        inverse -= product(inverse, product(tl.where(join, lower, 0.0), inverse, PRECISION), PRECISION)
    return inverse


@triton.jit
def solve_kernel(
    key, erase, log_alpha, inverse, T,
    H: tl.constexpr, K: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr, SOLVE_PRECISION: tl.constexpr,
):  # fmt: skip
    """A = (I + L)^-1 for one chunk, stored as [B, T, H, C]."""
    token, inside = locate(tl.program_id(0), tl.program_id(1), T, H, C)
    row = tl.arange(0, C)
    gram = tl.zeros([C, C], dtype=tl.float32)
    for start in range(0, K, BK):
        k = load_rows(key, token, inside, start + tl.arange(0, BK), K)
        k = k.to(inverse.dtype.element_ty)
        gram += product(k, tl.trans(k), PRECISION)
    before = decay_before(load_earlier(log_alpha, token, inside, H, C), C)
    lower = load_scalars(erase, token, inside)[:, None] * before * gram
    solved = invert_unit_lower(lower, C, LEVELS, SOLVE_PRECISION)
    store_rows(inverse, solved, token, inside, row, C)


@triton.jit
def vectors_kernel(
    key, value, erase, write, log_alpha, inverse, erase_vectors, write_vectors, T,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """X = A diag(b) k and U0 = A diag(w) v for one chunk."""
    token, inside = locate(tl.program_id(0), tl.program_id(1), T, H, C)
    dtype = inverse.dtype.element_ty
    solved = load_rows(inverse, token, inside, tl.arange(0, C), C)
    reach = load_scalars(erase, token, inside) * tl.exp(tl.cumsum(load_earlier(log_alpha, token, inside, H, C), axis=0))
    for start in range(0, K, BK):
        column = start + tl.arange(0, BK)
        k = load_rows(key, token, inside, column, K).to(tl.float32)
        x = product(solved, (reach[:, None] * k).to(dtype), PRECISION)
        store_rows(erase_vectors, x, token, inside, column, K)
    strength = load_scalars(write, token, inside)
    for start in range(0, V, BV):
        column = start + tl.arange(0, BV)
        v = load_rows(value, token, inside, column, V).to(tl.float32)
        u = product(solved, (strength[:, None] * v).to(dtype), PRECISION)
        store_rows(write_vectors, u, token, inside, column, V)


@triton.jit
def states_kernel(
    key, log_alpha, erase_vectors, write_vectors, state, writes, states, final_state, T,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """All chunks of one head in order, for BV value columns: U, the memory before each chunk, the final memory."""
    row_head = tl.program_id(1)
    key_column = tl.arange(0, BK)
    value_column = tl.program_id(0) * BV + tl.arange(0, BV)
    dtype = states.dtype.element_ty
    where, valid = turned_index(row_head, key_column, value_column, K, V)
    memory = tl.load(state + where, mask=valid, other=0.0).to(tl.float32)
    num_chunks = tl.cdiv(T, C)
    for chunk in range(num_chunks):
        token, inside = locate(chunk, row_head, T, H, C)
        place, fits = square_index(row_head * num_chunks + chunk, key_column, value_column, K, V)
        held = memory.to(dtype)
        tl.store(states + place, held, mask=fits)
        x = load_rows(erase_vectors, token, inside, key_column, K)
        u = load_rows(write_vectors, token, inside, value_column, V).to(tl.float32) - product(x, held, PRECISION)
        store_rows(writes, u, token, inside, value_column, V)
        rest = tl.exp(tl.cumsum(load_later(log_alpha, token, chunk, T, H, C), axis=0, reverse=True))
        whole = tl.exp(tl.sum(load_scalars(log_alpha, token, inside), axis=0))
        k = load_rows(key, token, inside, key_column, K).to(dtype)
        memory = whole * memory + product(tl.trans(k), (rest[:, None] * u).to(dtype), PRECISION)
    tl.store(final_state + where, memory, mask=valid)


@triton.jit
def output_kernel(
    query, key, log_alpha, writes, states, output, T,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Y = diag(g) q S + (D o q k^T) U for one chunk and BV value columns."""
    chunk = tl.program_id(0)
    row_head = tl.program_id(1)
    token, inside = locate(chunk, row_head, T, H, C)
    value_column = tl.program_id(2) * BV + tl.arange(0, BV)
    dtype = states.dtype.element_ty
    score = tl.zeros([C, C], dtype=tl.float32)
    y = tl.zeros([C, BV], dtype=tl.float32)
    for start in range(0, K, BK):
        key_column = start + tl.arange(0, BK)
        q = load_rows(query, token, inside, key_column, K).to(dtype)
        k = load_rows(key, token, inside, key_column, K).to(dtype)
        place, fits = square_index(row_head * tl.cdiv(T, C) + chunk, key_column, value_column, K, V)
        y += product(q, tl.load(states + place, mask=fits, other=0.0), PRECISION)
        score += product(q, tl.trans(k), PRECISION)
    decay = load_scalars(log_alpha, token, inside)
    y *= tl.exp(tl.cumsum(decay, axis=0))[:, None]
    u = load_rows(writes, token, inside, value_column, V)
    y += product((score * decay_through(decay, C)).to(dtype), u, PRECISION)
    store_rows(output, y, token, inside, value_column, V)
