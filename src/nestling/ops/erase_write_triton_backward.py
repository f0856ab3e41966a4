"""Backward Triton kernels of the erase-write recurrence; docs/derivations/erase_write.md section 3.

d_x is the gradient of the loss with respect to x; o is the elementwise product. Per chunk, given dY and dS':

    dU = (D o q k^T)^T dY + diag(r) k dS'        dS = g_C dS' + q^T diag(g) dY - X^T dU
    R  = A^T dU                                  dv = diag(w) R,   N = -strictly_lower(R U^T) o diag(e) E
    dq = diag(g) dY S^T + P k                    P = D o dY U^T
    dk = P^T q + diag(r) U dS'^T - diag(b) R S^T + (N + N^T) k

local_kernel -> first term of dU (parallel); reverse_kernel -> dU and dS of every chunk (last to first);
matrices_kernel -> R, dv, P, N (parallel); gradients_kernel -> dq, dk (parallel).
Gradients of erase and log_alpha come in float32 slots that are summed afterwards: the same bits on every run.
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
def local_kernel(
    query, key, log_alpha, d_output, d_local, T,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """(D o q k^T)^T dY for one chunk."""
    token, inside = locate(tl.program_id(0), tl.program_id(1), T, H, C)
    dtype = d_local.dtype.element_ty
    score = tl.zeros([C, C], dtype=tl.float32)
    for start in range(0, K, BK):
        column = start + tl.arange(0, BK)
        q = load_rows(query, token, inside, column, K).to(dtype)
        k = load_rows(key, token, inside, column, K).to(dtype)
        score += product(q, tl.trans(k), PRECISION)
    score *= decay_through(load_scalars(log_alpha, token, inside), C)
    turned = tl.trans(score.to(dtype))
    for start in range(0, V, BV):
        column = start + tl.arange(0, BV)
        d_y = load_rows(d_output, token, inside, column, V).to(dtype)
        store_rows(d_local, product(turned, d_y, PRECISION), token, inside, column, V)


@triton.jit
def reverse_kernel(
    query, key, log_alpha, erase_vectors, d_output, d_local, d_final_state, d_writes, d_states, d_state, T,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """All chunks of one head from last to first, for BV value columns: dU, dS' of each chunk, d_state."""
    row_head = tl.program_id(1)
    key_column = tl.arange(0, BK)
    value_column = tl.program_id(0) * BV + tl.arange(0, BV)
    dtype = d_states.dtype.element_ty
    where, valid = turned_index(row_head, key_column, value_column, K, V)
    d_memory = tl.load(d_final_state + where, mask=valid, other=0.0).to(tl.float32)
    num_chunks = tl.cdiv(T, C)
    for step in range(num_chunks):
        chunk = num_chunks - 1 - step
        token, inside = locate(chunk, row_head, T, H, C)
        place, fits = square_index(row_head * num_chunks + chunk, key_column, value_column, K, V)
        held = d_memory.to(dtype)
        tl.store(d_states + place, held, mask=fits)
        rest = tl.exp(tl.cumsum(load_later(log_alpha, token, chunk, T, H, C), axis=0, reverse=True))
        k = load_rows(key, token, inside, key_column, K).to(dtype)
        d_u = load_rows(d_local, token, inside, value_column, V).to(tl.float32)
        d_u += rest[:, None] * product(k, held, PRECISION)
        store_rows(d_writes, d_u, token, inside, value_column, V)
        decay = load_scalars(log_alpha, token, inside)
        q = load_rows(query, token, inside, key_column, K).to(dtype)
        x = load_rows(erase_vectors, token, inside, key_column, K)
        d_y = load_rows(d_output, token, inside, value_column, V).to(tl.float32)
        d_y *= tl.exp(tl.cumsum(decay, axis=0))[:, None]
        d_memory = tl.exp(tl.sum(decay, axis=0)) * d_memory
        d_memory += product(tl.trans(q), d_y.to(dtype), PRECISION)
        d_memory -= product(tl.trans(x), d_u.to(dtype), PRECISION)
    tl.store(d_state + where, d_memory, mask=valid)


@triton.jit
def matrices_kernel(
    query, key, value, erase, write, log_alpha, inverse, writes, d_output, d_writes,
    residual, scores, solves, d_value, d_write, d_erase_slots, d_log_alpha_slots, T,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """R, dv, dw, the [C, C] matrices P and N, and what flows through D and E into erase and log_alpha (slot 0)."""
    token, inside = locate(tl.program_id(0), tl.program_id(1), T, H, C)
    row = tl.arange(0, C)
    dtype = inverse.dtype.element_ty
    turned = tl.trans(load_rows(inverse, token, inside, row, C))
    strength = load_scalars(write, token, inside)
    d_score = tl.zeros([C, C], dtype=tl.float32)
    d_lower = tl.zeros([C, C], dtype=tl.float32)
    d_strength = tl.zeros([C], dtype=tl.float32)
    for start in range(0, V, BV):
        column = start + tl.arange(0, BV)
        u = load_rows(writes, token, inside, column, V)
        d_y = load_rows(d_output, token, inside, column, V).to(dtype)
        r = product(turned, load_rows(d_writes, token, inside, column, V), PRECISION)
        store_rows(residual, r, token, inside, column, V)
        store_rows(d_value, strength[:, None] * r, token, inside, column, V)
        d_strength += tl.sum(r * load_rows(value, token, inside, column, V).to(tl.float32), axis=1)
        d_score += product(d_y, tl.trans(u), PRECISION)
        d_lower -= product(r.to(dtype), tl.trans(u), PRECISION)
    tl.store(d_write + token, d_strength, mask=inside)
    score = tl.zeros([C, C], dtype=tl.float32)
    gram = tl.zeros([C, C], dtype=tl.float32)
    for start in range(0, K, BK):
        column = start + tl.arange(0, BK)
        q = load_rows(query, token, inside, column, K).to(dtype)
        k = load_rows(key, token, inside, column, K).to(dtype)
        score += product(q, tl.trans(k), PRECISION)
        gram += product(k, tl.trans(k), PRECISION)
    d_score *= decay_through(load_scalars(log_alpha, token, inside), C)
    d_lower *= decay_before(load_earlier(log_alpha, token, inside, H, C), C)
    store_rows(scores, d_score, token, inside, row, C)
    strength = load_scalars(erase, token, inside)
    tl.store(d_erase_slots + token, tl.sum(d_lower * gram, axis=1), mask=inside)
    d_lower *= strength[:, None]
    store_rows(solves, d_lower, token, inside, row, C)
    before = d_lower * gram
    crossing = tl.cumsum(d_score * score + before, axis=0, reverse=True) - before
    crossing = tl.where(row[:, None] > row[None, :], crossing, 0.0)
    tl.store(d_log_alpha_slots + token, tl.sum(crossing, axis=1), mask=inside)


@triton.jit
def gradients_kernel(
    query, key, erase, log_alpha, writes, states, d_output, d_states, residual, scores, solves,
    d_query, d_key, d_erase_slots, d_log_alpha_slots, T, slot_size,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dq and dk for one chunk and BK key columns, and their share of d_erase and d_log_alpha (slot 1 + block)."""
    chunk = tl.program_id(0)
    row_head = tl.program_id(1)
    token, inside = locate(chunk, row_head, T, H, C)
    row = tl.arange(0, C)
    key_column = tl.program_id(2) * BK + tl.arange(0, BK)
    dtype = states.dtype.element_ty
    from_query = tl.zeros([C, BK], dtype=tl.float32)
    from_write = tl.zeros([C, BK], dtype=tl.float32)
    from_erase = tl.zeros([C, BK], dtype=tl.float32)
    kept = tl.zeros([BK], dtype=tl.float32)
    for start in range(0, V, BV):
        value_column = start + tl.arange(0, BV)
        place, fits = square_index(row_head * tl.cdiv(T, C) + chunk, key_column, value_column, K, V)
        s = tl.load(states + place, mask=fits, other=0.0)
        d_s = tl.load(d_states + place, mask=fits, other=0.0)
        kept += tl.sum(s.to(tl.float32) * d_s.to(tl.float32), axis=1)
        d_y = load_rows(d_output, token, inside, value_column, V).to(dtype)
        from_query += product(d_y, tl.trans(s), PRECISION)
        u = load_rows(writes, token, inside, value_column, V)
        from_write += product(u, tl.trans(d_s), PRECISION)
        r = load_rows(residual, token, inside, value_column, V)
        from_erase -= product(r, tl.trans(s), PRECISION)
    decay = load_scalars(log_alpha, token, inside)
    earlier = tl.exp(tl.cumsum(load_earlier(log_alpha, token, inside, H, C), axis=0))
    from_query *= tl.exp(tl.cumsum(decay, axis=0))[:, None]
    from_write *= tl.exp(tl.cumsum(load_later(log_alpha, token, chunk, T, H, C), axis=0, reverse=True))[:, None]
    from_erase *= earlier[:, None]
    q = load_rows(query, token, inside, key_column, K)
    k = load_rows(key, token, inside, key_column, K)
    strength = load_scalars(erase, token, inside)
    read = tl.sum(from_query * q.to(tl.float32), axis=1)
    written = tl.sum(from_write * k.to(tl.float32), axis=1)
    d_strength = tl.sum(from_erase * k.to(tl.float32), axis=1)
    erased = strength * d_strength
    flow = tl.cumsum(read + erased, axis=0, reverse=True) - erased + tl.cumsum(written, axis=0) - written
    flow += tl.exp(tl.sum(decay, axis=0)) * tl.sum(kept, axis=0)
    slot = (1 + tl.program_id(2)) * slot_size + token
    tl.store(d_erase_slots + slot, d_strength, mask=inside)
    tl.store(d_log_alpha_slots + slot, flow, mask=inside)
    score = load_rows(scores, token, inside, row, C)
    solve = load_rows(solves, token, inside, row, C)
    q = q.to(dtype)
    k = k.to(dtype)
    store_rows(d_query, from_query + product(score, k, PRECISION), token, inside, key_column, K)
    d_k = from_write + strength[:, None] * from_erase + product(tl.trans(score), q, PRECISION)
    d_k += product(solve, k, PRECISION) + product(tl.trans(solve), k, PRECISION)
    store_rows(d_key, d_k, token, inside, key_column, K)
