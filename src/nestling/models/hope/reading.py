"""Reading a text while the levels learn to predict it."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from nestling.errors import InputError
from nestling.layers.continuum_memory import ContinuumMemory
from nestling.layers.continuum_state import ContinuumState
from nestling.models.hope.block import HopeBlock
from nestling.models.hope.cache import HopeCache
from nestling.models.hope.model import HopeForCausalLM

__all__ = ["read"]


def read(
    model: HopeForCausalLM, input_ids: Tensor, *, cache: HopeCache | None = None, learn: bool = True
) -> tuple[Tensor, HopeCache]:
    """Read a text chunk by chunk; with objective "next_token" the levels move after every chunk.

    Within a chunk the levels stand still. After it, each takes a step on the sum of the losses of the tokens that
    are predicted inside it from the chunk itself; its first token, predicted from the chunk before, moves nothing. So
    a text in pieces is the text as a whole if pieces end where chunks do (multiples of the shortest update period).

    Source: NL 7, eq. 71; test-time objective of section 7: next-token loss.

    Args:
        model: any Hope model; levels move by next-token loss where its objective says so, otherwise as they do.
        input_ids: [B, T] without padding, T >= 2.
        cache: of an earlier call, which is brought up to date; None begins a context.
        learn: False reads with the levels as they are.

    Returns:
        loss [B, T - 1] in nats, of tokens 2 to T, each predicted before anything was learned from it; and the cache.

    Raises:
        InputError: fewer than two tokens.
    """
    if input_ids.ndim != 2 or input_ids.shape[1] < 2:
        raise InputError(f"input_ids: expected [B, T] with T >= 2, got {list(input_ids.shape)}")
    cache = HopeCache() if cache is None else cache
    blocks = [cast(HopeBlock, block) for block in model.model.layers]
    memory = blocks[0].continuum
    moves = learn and memory.learns and memory.objective == "given"
    if moves and not cache.blocks:
        rows = len(input_ids)
        cache.blocks = [(block.mixer.initial_state(rows), block.continuum.initial_state(rows)) for block in blocks]
    losses, done, length = [], 0, input_ids.shape[1]
    while done < length:
        left = memory.tokens_left(cast(ContinuumState, cache.blocks[0][1])) if moves else length
        end = min(length, done + left)
        with torch.set_grad_enabled(moves):
            losses.append(_read_chunk(model, input_ids, done, end, cache, moves))
        done = end
    return torch.cat(losses, dim=1)[:, : length - 1], cache


def _read_chunk(
    model: HopeForCausalLM, input_ids: Tensor, first: int, end: int, cache: HopeCache, moves: bool
) -> Tensor:
    """Losses [B, C] of the tokens after each of a chunk (the last has none at the end of the text)."""
    blocks = [cast(HopeBlock, block).continuum for block in model.model.layers]
    if moves:
        cache.blocks = [
            (mixer, memory.watch(cast(ContinuumState, state))) for memory, (mixer, state) in zip(blocks, cache.blocks)
        ]
    deltas = [delta for _, state in cache.blocks for delta in cast(ContinuumState, state).delta] if moves else []
    logits = model(input_ids[:, first:end], past_key_values=cache).logits
    labels = input_ids[:, first + 1 : end + 1]
    scores = logits[:, : labels.shape[1]].to(torch.promote_types(logits.dtype, torch.float32))
    loss = F.cross_entropy(scores.mT, labels, reduction="none")
    if moves:
        inside = loss[:, : end - first - 1].sum()
        gradients = torch.autograd.grad(inside, deltas) if end - first > 1 else [torch.zeros_like(d) for d in deltas]
        cache.detach()
        _write(blocks, cache, list(gradients), end - first)
    return loss.detach()


def _write(memories: list[ContinuumMemory], cache: HopeCache, gradients: list[Tensor], num_tokens: int) -> None:
    count = len(gradients) // len(memories)
    cache.blocks = [
        (
            mixer,
            memory.write(
                cast(ContinuumState, state), gradients[place * count : (place + 1) * count], num_tokens=num_tokens
            ),
        )
        for place, (memory, (mixer, state)) in enumerate(zip(memories, cache.blocks))
    ]
