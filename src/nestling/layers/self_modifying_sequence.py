"""Chunks of self-modifying memories one after another, as one autograd function per kind.

One function for all chunks, so that nothing is spent on a graph, and the gradient of what matrix memories share is one
product over all tokens. What a chunk does is in `self_modifying_fused` and `self_modifying_mlp_fused`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nestling.layers.self_modifying_fused import Kept, Shared, backward_chunk, forward_chunk
from nestling.layers.self_modifying_mlp_fused import Inputs, backward_mlp_chunk, flat, forward_mlp_chunk, unflat
from nestling.layers.self_modifying_mlp_net import Known
from nestling.layers.self_modifying_options import Options

__all__ = ["MatrixSequence", "MlpSequence"]


class MatrixSequence(torch.autograd.Function):
    """(view, query [R, T, K], S, W, bias, taps, tail, lowest, how, chunk_size, keep) -> (y, S, tail).

    keep: whether there will be a backward pass; without, memory does not grow with what chunks would keep for it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        view: Tensor,
        query: Tensor,
        state: Tensor,
        maps: Tensor,
        bias: Tensor,
        taps: Tensor,
        tail: Tensor,
        lowest: Tensor | None,
        how: Options,
        chunk_size: int,
        keep: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Answers [R, T, K] before M_memory,0, S [R, K, K] and the tail [R, W - 1, 3 K] after all tokens."""
        shared, answers, seen_from = Shared(maps, bias, taps, lowest), torch.empty_like(view), torch.empty_like(view)
        kept: list[Tensor | None] = []
        for span in _spans(view.shape[1], chunk_size):
            chunk = forward_chunk(view[:, span], query[:, span], state, tail, shared, how)
            answers[:, span], seen_from[:, span] = chunk.answer, chunk.seen_from
            state, tail = chunk.state, chunk.tail
            kept += chunk.kept if keep else ()
        ctx.save_for_backward(*shared, seen_from, *kept)
        ctx.how, ctx.chunk_size = how, chunk_size
        return answers, state, tail

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of view, query, S, W, bias, taps and tail."""
        answers, state, tail = grads
        saved = ctx.saved_tensors
        places = len(Shared._fields)
        shared, seen_from, kept = Shared(*saved[:places]), saved[places], saved[places + 1 :]
        view, query = torch.empty_like(seen_from), torch.empty_like(seen_from)
        raw = view.new_empty(*view.shape[:2], shared.maps.shape[2])
        bias, taps = torch.zeros_like(shared.bias), torch.zeros_like(shared.taps)
        for i, span in reversed(list(enumerate(_spans(view.shape[1], ctx.chunk_size)))):
            chunk = Kept(*kept[i * len(Kept._fields) : (i + 1) * len(Kept._fields)])
            found = backward_chunk(chunk, shared, ctx.how, answers[:, span], state, tail)
            view[:, span], query[:, span], raw[:, span] = found.view, found.query, found.raw
            state, tail = found.state, found.tail
            bias += found.bias
            taps += found.taps
        return view, query, state, torch.bmm(seen_from.mT, raw), bias, taps, tail, None, None, None, None


class MlpSequence(torch.autograd.Function):
    """(`Inputs` of all tokens, limit, chunk_size, keep as in `MatrixSequence`) -> (y, first, second, tail)."""

    @staticmethod
    def forward(
        ctx: Any,
        view: Tensor,
        query: Tensor,
        first: Tensor,
        second: Tensor,
        bias: Tensor,
        taps: Tensor,
        tail: Tensor,
        lowest: Tensor | None,
        limit: float | None,
        chunk_size: int,
        keep: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Answers [R, T, K], both stacks and the tail [R, W - 1, 3 K] after all tokens."""
        answers, saved, flags = torch.empty_like(view), [], []
        for span in _spans(view.shape[1], chunk_size):
            given = Inputs(view[:, span], query[:, span], first, second, bias, taps, tail, lowest)
            chunk = forward_mlp_chunk(given, limit)
            answers[:, span] = chunk.answer
            if keep:
                saved.append((*given, *flat(chunk.made), *(known.solve for known in chunk.known)))
                flags.append([known.limited for known in chunk.known])
            first, second, tail = chunk.first, chunk.second, chunk.tail
        ctx.save_for_backward(*(tensor for tensors in saved for tensor in tensors))
        ctx.limit, ctx.chunk_size, ctx.flags = limit, chunk_size, flags
        return answers, first, second, tail

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of view, query, both stacks, bias, taps and tail."""
        answers, first, second, tail = grads
        saved, spans = ctx.saved_tensors, _spans(answers.shape[1], ctx.chunk_size)
        count, places = len(saved) // len(spans), len(Inputs._fields)
        view, query = torch.empty_like(answers), torch.empty_like(answers)
        given = Inputs(*saved[:places])
        bias, taps = torch.zeros_like(given.bias), torch.zeros_like(given.taps)
        for i, span in reversed(list(enumerate(spans))):
            part = saved[i * count : (i + 1) * count]
            solves = part[count - second.shape[1] :]
            known = tuple(map(Known, ctx.flags[i], solves))
            made = unflat(part[places : count - len(solves)], ctx.limit)
            found = backward_mlp_chunk(Inputs(*part[:places]), made, known, answers[:, span], first, second, tail)
            view[:, span], query[:, span] = found.view, found.query
            first, second, tail = found.first, found.second, found.tail
            bias += found.bias
            taps += found.taps
        return view, query, first, second, bias, taps, tail, None, None, None, None


def _spans(length: int, chunk_size: int) -> list[slice]:
    return [slice(first, min(first + chunk_size, length)) for first in range(0, length, chunk_size)]
