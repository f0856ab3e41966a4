"""The linear recurrence of Oja's rule: erase along the value, then write.

    M_t = (alpha_t I - erase_t v_t v_t^T) M_{t-1} + write_t v_t k_t^T,      y_t = M_t q_t

M^T follows the erase-write recurrence with key and value exchanged, only the read differs. Written as
M_t = alpha_t M_{t-1} + v_t u_t^T, the pushes u_t = write_t k_t - erase_t M_{t-1}^T v_t come from a first pass of
`erase_write` that asks M_{t-1}^T for v_t; a second pass without erase, with u_t in the place of the key, reads.

Source: NL eq. 66-67.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nestling.ops.erase_write import DEFAULT_CHUNK_SIZE, erase_write

__all__ = ["erase_value", "erase_value_token"]


def erase_value(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    erase: Tensor,
    write: Tensor,
    log_alpha: Tensor,
    state: Tensor,
    *,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence over T tokens, exactly, a chunk at a time; costs two runs of `erase_write`.

    M_t = (alpha_t I - erase_t v_t v_t^T) M_{t-1} + write_t v_t k_t^T,   y_t = M_t q_t

    Args:
        query: [B, T, H, K].
        key: [B, T, H, K].
        value: [B, T, H, V], any norm. Stable when erase |v|^2 <= 1 + alpha.
        erase: [B, T, H], how much of the content along the value is removed.
        write: [B, T, H], weight of the new pair.
        log_alpha: [B, T, H] <= 0, logarithm of the retention; -inf (alpha = 0) is allowed.
        state: [B, H, V, K] float32 or float64, the memory before the first token; its type is that of the arithmetic.
        chunk_size: tokens per chunk, >= 1; changes speed, not the result.

    Returns:
        output [B, T, H, V] in the type of `value`, and the state after the last token. T = 0 gives the state back.

    Raises:
        ShapeError: naming an argument of `erase_write`, where key and value are exchanged.
        InputError: chunk_size below 1, or a state in half precision.
    """
    if query.shape[1] == 0:
        return value, state
    dtype, given = state.dtype, value.dtype
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    erase, write = erase.to(dtype), write.to(dtype)
    # What the memory after token t holds along the next value; nobody asks after the last.
    asked = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], dim=1)
    found, _ = erase_write(asked, value, key, erase, write, log_alpha, state.mT, chunk_size=chunk_size)
    first = (state.mT @ value[:, 0].unsqueeze(-1)).mT
    found = torch.cat([first.transpose(1, 2), found[:, :-1]], dim=1)
    push = write.unsqueeze(-1) * key - erase.unsqueeze(-1) * found
    ones = torch.ones_like(write)
    output, state = erase_write(query, push, value, None, ones, log_alpha, state, chunk_size=chunk_size)
    return output.to(given), state


def erase_value_token(
    query: Tensor, key: Tensor, value: Tensor, erase: Tensor, write: Tensor, alpha: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token of the recurrence for generation, everything in the type of the state; R counts rows and heads.

    Args:
        query: [R, K, 1].
        key: [R, K, 1].
        value: [R, V, 1].
        erase: [R, 1, 1].
        write: [R, 1, 1].
        alpha: [R, 1, 1] in [0, 1], retention.
        state: [R, V, K].

    Returns:
        output [R, V, 1] and the new state; the input is unchanged.
    """
    push = write * key.mT - erase * torch.bmm(value.mT, state)
    state = torch.addcmul(alpha * state, value, push)
    return torch.bmm(state, query), state
