"""Chunk-parallel `erase_write` as an autograd function that keeps its inputs and per chunk a state and an inverse.

The mathematics of a segment (several chunks) is in `erase_write_segment`; here sequences are cut into segments, so that
what is worked on stays in a CPU's cache and memory does not grow with every intermediate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nestling.ops.chunks import join_chunks, split_chunks
from nestling.ops.erase_write_segment import Tokens, backward_segment, forward_segment, prepare

# Matrices of one chunk, row and head that are worked on at once.
SEGMENT_MATRICES_CPU = 32
SEGMENT_MATRICES_GPU = 4096

Inputs = tuple[Tensor | None, ...]


class EraseWriteChunked(torch.autograd.Function):
    """`erase_write` with recomputation."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        erase: Tensor | None,
        write: Tensor,
        log_alpha: Tensor,
        state: Tensor,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor]:
        """Output and final state."""
        inputs = (query, key, value, erase, write, log_alpha)
        state_t = state.mT.reshape(-1, *state.mT.shape[-2:]).contiguous()
        output = torch.empty_like(value)
        kept: list[Tensor | None] = []
        with torch.autocast(query.device.type, enabled=False):
            for span in _segments(query, chunk_size):
                tokens = _load(inputs, span, chunk_size, state.dtype)
                parts = prepare(tokens)
                chunks, states = forward_segment(tokens, parts, state_t)
                _store(output, span, chunks)
                kept += [states, None if parts.erasing is None else parts.erasing.inverse]
                state_t = states[-1]
        ctx.save_for_backward(*inputs, *kept)
        ctx.chunk_size = chunk_size
        ctx.state_shape = state.shape
        return output, state_t.mT.reshape(state.shape).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of all inputs, segments in reverse order."""
        grad_output, grad_state = grads
        saved = ctx.saved_tensors  # read once: checkpointing hands them out a single time
        inputs, boundaries, inverses = saved[:6], saved[6::2], saved[7::2]
        query, dtype = inputs[0], grad_state.dtype
        results = tuple(None if tensor is None else torch.empty_like(tensor) for tensor in inputs)
        grad_t = grad_state.mT.reshape(-1, *grad_state.mT.shape[-2:]).contiguous()
        with torch.autocast(query.device.type, enabled=False):
            spans = _segments(query, ctx.chunk_size)
            for span, states, inverse in reversed(list(zip(spans, boundaries, inverses))):
                tokens = _load(inputs, span, ctx.chunk_size, dtype)
                grad_chunks = _chunks(grad_output, span, ctx.chunk_size, dtype)
                segment, grad_t = backward_segment(tokens, prepare(tokens, inverse), states, grad_chunks, grad_t)
                for result, grad in zip(results, segment):
                    if result is not None and grad is not None:
                        _store(result, span, grad)
        return *results, grad_t.mT.reshape(ctx.state_shape), None


def _segments(query: Tensor, chunk_size: int) -> list[slice]:
    """Spans of tokens that are worked on at once, each a whole number of chunks but the last."""
    batch, length, heads = query.shape[:3]
    matrices = SEGMENT_MATRICES_GPU if query.is_cuda else SEGMENT_MATRICES_CPU
    step = chunk_size * max(1, matrices // max(1, batch * heads))
    return [slice(first, min(first + step, length)) for first in range(0, length, step)]


def _load(inputs: Inputs, span: slice, chunk_size: int, dtype: torch.dtype) -> Tokens:
    query, key, value, erase, write, log_alpha = (
        None if tensor is None else _chunks(tensor, span, chunk_size, dtype) for tensor in inputs
    )
    assert query is not None
    assert key is not None
    assert value is not None
    assert write is not None
    assert log_alpha is not None
    return Tokens(query, key, value, erase, write, log_alpha)


def _chunks(tensor: Tensor, span: slice, chunk_size: int, dtype: torch.dtype) -> Tensor:
    """[B, T, H, D] or [B, T, H] to [M, C, D] or [M, C, 1], M = chunks of the span * B * H."""
    part = tensor[:, span]
    chunks = split_chunks(part if part.ndim == 4 else part.unsqueeze(-1), chunk_size)
    return chunks.flatten(0, 1).to(dtype)


def _store(result: Tensor, span: slice, chunks: Tensor) -> None:
    """Write what `_chunks` would read."""
    batch, heads, length = result.shape[0], result.shape[2], span.stop - span.start
    tokens = join_chunks(chunks.unflatten(0, (-1, batch * heads)), batch, length)
    result[:, span] = tokens if result.ndim == 4 else tokens.squeeze(-1)
