"""The linear recurrence of the Omega rule: every token corrects the last W pairs at once.

    M_t = alpha_t M_{t-1} - sum_{i=1..W} rate_ti (M_{t-1} k_{t-W+i} - v_{t-W+i}) k_{t-W+i}^T,      y_t = M_t q_t

All W corrections of a token are taken at M_{t-1}, so they are W pushes u = rate (v - M_{t-1} k) that see the pushes of
earlier tokens but not each other: one unit lower-triangular system of C W rows for a chunk of C tokens, exact for every
chunk size.

Source: NL eq. 68; Atlas (arXiv 2505.23735).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nestling.errors import InputError
from nestling.ops.spans import Spans, advance, pushes, read, spans
from nestling.shapes import check_shape

__all__ = ["WindowState", "window_write"]


class WindowState(NamedTuple):
    """A memory [B, H, V, K] and the W - 1 pairs before the next token, oldest first; unused places are zero.

    memory: [B, H, V, K] float32 or float64; its type is that of the arithmetic.
    key:    [B, H, W - 1, K].
    value:  [B, H, W - 1, V].
    """

    memory: Tensor
    key: Tensor
    value: Tensor


def window_write(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rate: Tensor,
    log_alpha: Tensor,
    state: WindowState,
    *,
    chunk_size: int = 16,
) -> tuple[Tensor, WindowState]:
    """Write and read T tokens, exactly, a chunk at a time.

    Under autograd every chunk is computed again in the backward pass; only chunk boundaries are kept.

    Args:
        query: [B, T, H, K].
        key: [B, T, H, K].
        value: [B, T, H, V].
        rate: [B, T, H, C] >= 0 for a window of C pairs: eta times the weight of each pair, oldest first.
        log_alpha: [B, T, H] <= 0, logarithm of the retention.
        state: before the first token; the input is unchanged.
        chunk_size: tokens worked on in parallel, >= 1; changes speed, not the result.

    Returns:
        output [B, T, H, V] in the type of `value`, and the state after the last token.

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
        InputError: chunk_size below 1.
    """
    _check(query, key, value, rate, log_alpha, state)
    if chunk_size < 1:
        raise InputError(f"chunk_size: expected a number >= 1, got {chunk_size}")
    length, window, dtype, given = query.shape[1], rate.shape[-1], state.memory.dtype, value.dtype
    query, rate, log_alpha = (tensor.to(dtype).transpose(1, 2) for tensor in (query, rate, log_alpha))
    # [B, H, W - 1 + T, ...]: token t sees the places t ... t + W - 1.
    key = torch.cat([state.key, key.to(dtype).transpose(1, 2)], dim=2)
    value = torch.cat([state.value, value.to(dtype).transpose(1, 2)], dim=2)
    memory, outputs = state.memory, []
    for first in range(0, length, chunk_size):
        now = slice(first, min(first + chunk_size, length))
        seen = slice(first, now.stop + window - 1)
        arguments = (query[:, :, now], key[:, :, seen], value[:, :, seen], rate[:, :, now], log_alpha[:, :, now])
        if torch.is_grad_enabled():
            output, memory = checkpoint(_chunk, *arguments, memory, use_reentrant=False, preserve_rng_state=False)
        else:
            output, memory = _chunk(*arguments, memory)
        outputs.append(output)
    joined = torch.cat(outputs, dim=2) if outputs else value[:, :, :0]
    return joined.transpose(1, 2).to(given), WindowState(memory, key[:, :, length:], value[:, :, length:])


def _chunk(
    query: Tensor, key: Tensor, value: Tensor, rate: Tensor, log_alpha: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """One chunk [B, H, C, ...], keys and values with the W - 1 pairs before it: output and the new memory."""
    batch, heads, _, window = rate.shape
    rate = rate.flatten(0, 1).flatten(1).unsqueeze(-1)
    seen, wanted = _windows(key, window), _windows(value, window)
    memory = memory.flatten(0, 1)
    reading, writing = _spans(log_alpha.flatten(0, 1), window)
    push = pushes(seen, rate * wanted, rate, memory, None, writing)
    output = read(query.flatten(0, 1), seen, push, memory, None, reading)
    memory, _ = advance(seen, push, memory, None, writing)
    return output.unflatten(0, (batch, heads)), memory.unflatten(0, (batch, heads))


def _windows(places: Tensor, window: int) -> Tensor:
    """[B, H, C + W - 1, D] to [B H, C W, D]: for every token of the chunk its W pairs, oldest first."""
    return places.unfold(2, window, 1).transpose(-1, -2).flatten(2, 3).flatten(0, 1)


def _spans(log_alpha: Tensor, window: int) -> tuple[Spans, Spans]:
    """Coefficients with one column per push: a row per token to read by, and a row per push to write by.

    All pushes of token t stand after t - 1 tokens, so none of them reaches another of the same token.
    """
    tokens = spans(log_alpha, None)
    reach = tokens.reach.repeat_interleave(window, dim=2)
    length = log_alpha.shape[1]
    turn = torch.arange(length + 1, device=reach.device).repeat_interleave(window)[: length * window + 1]
    reading = tokens._replace(reach=reach)
    return reading, tokens._replace(reach=reach[:, turn], keep=tokens.keep[:, turn])


def _check(query: Tensor, key: Tensor, value: Tensor, rate: Tensor, log_alpha: Tensor, state: WindowState) -> None:
    sizes = check_shape("query", query, "BTHK")
    check_shape("key", key, "BTHK", sizes)
    sizes = check_shape("value", value, "BTHV", sizes)
    check_shape("log_alpha", log_alpha, "BTH", sizes)
    window = check_shape("rate", rate, "BTHC", sizes)["C"]
    check_shape("state.memory", state.memory, "BHVK", sizes)
    before = {**sizes, "C": window - 1}
    check_shape("state.key", state.key, "BHCK", before)
    check_shape("state.value", state.value, "BHCV", before)
