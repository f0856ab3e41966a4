"""Chunk-wise learning with gradients at the chunk's anchor, for memories whose rule has no exact parallel form.

The gradient of every write of a chunk is taken at the state at the end of the previous chunk (the anchor); the writes
themselves, their decay, the erase of Delta Gradient Descent and momentum are then applied token by token, exactly and
in parallel, and reads see all writes up to their own token. With chunk_size 1 this is the recurrence itself; for larger
chunks it is an approximation (NL eq. 90), whose gap is measured in docs/results.

A memory is a tuple of linear maps in the order in which they are applied, an elementwise function between them:
    M(x) = x + W_L sigma(... sigma(W_1 x))      (residual), or W_1 x (a matrix memory)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nestling.ops.activations import activation_named
from nestling.ops.anchored_chunk import AnchoredChunk, Form, limit_factor
from nestling.ops.spans import advance, pushes, read, spans

Weights = tuple[Tensor, ...]
Erase = Literal["none", "explicit", "implicit"]


@dataclass(frozen=True, kw_only=True)
class Anchoring:
    """How one write acts on a memory of linear maps.

    surprise:   (answer, value) -> dL/d answer, elementwise.
    erase:      "none" is the plain gradient rule; "explicit" and "implicit" are the two forms of Delta Gradient Descent
                on each map. With momentum, "explicit" erases inside the accumulator: S <- mu S - eta (W x + delta) x^T.
    activation: between the maps.
    residual:   whether the answer is x + W_L(...).
    limit:      largest |surprise_l| |input_l| of one write, on each map; None does not limit. Keeps a deep memory
                finite on any input.
    """

    surprise: Callable[[Tensor, Tensor], Tensor]
    erase: Erase = "none"
    activation: str = "silu"
    residual: bool = True
    limit: float | None = None


class AnchoredState(NamedTuple):
    """A memory in the middle of a chunk.

    memory:   L weights [B, H, out, in], up to date.
    anchor:   the same at the end of the previous chunk, where gradients are taken.
    surprise: the momentum accumulator in the same shapes, or empty.
    position: [B] int64, tokens since the anchor, per row.
    """

    memory: Weights
    anchor: Weights
    surprise: Weights
    position: Tensor


def anchored(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    eta: Tensor,
    log_alpha: Tensor,
    momentum: Tensor | None,
    state: AnchoredState,
    *,
    chunk_size: int,
    how: Anchoring,
) -> tuple[Tensor, AnchoredState]:
    """Write and read T tokens.

    Any split of the tokens over calls gives the same answers: the state knows where in its chunk each row is. Gradients
    of rules without erase are written by hand (`anchored_chunk`); with erase, and for the rest of a chunk that an
    earlier call began, a chunk is computed again in the backward pass and only chunk boundaries are kept.

    Args:
        query: [B, T, H, K].
        key: [B, T, H, K].
        value: [B, T, H, V], V = K when residual.
        eta: [B, T, H] >= 0, inner learning rate.
        log_alpha: [B, T, H] <= 0, logarithm of the retention.
        momentum: [B, T, H] in [0, 1), or None.
        state: before the first token, in the type of the arithmetic; the input is unchanged.
        chunk_size: tokens whose gradients share one anchor, >= 1. 1 is the recurrence.
        how: the rule.

    Returns:
        output [B, T, H, V] and the state after the last token.
    """
    dtype = state.memory[0].dtype
    query, key, value = (_heads_first(tensor).to(dtype) for tensor in (query, key, value))
    eta, log_alpha = (rate.to(dtype).transpose(1, 2) for rate in (eta, log_alpha))
    momentum = None if momentum is None else momentum.to(dtype).transpose(1, 2)
    position, outputs, first = state.position.tolist(), [], 0
    memory, anchor, surprise = state.memory, state.anchor, state.surprise
    depth = len(memory)
    while first < query.shape[2]:
        last = min(query.shape[2], first + chunk_size - max(position))
        span = slice(first, last)
        tokens: list[Any] = [
            None if x is None else x[:, :, span] for x in (query, key, value, eta, log_alpha, momentum)
        ]
        if how.erase == "none" and not any(position):
            output, *weights = _chunk_at_anchor(how, depth, *tokens, *memory, *surprise)
        elif torch.is_grad_enabled():
            arguments = (how, depth, *tokens, *memory, *anchor, *surprise)
            output, *weights = checkpoint(_chunk, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            output, *weights = _chunk(how, depth, *tokens, *memory, *anchor, *surprise)
        memory, surprise = tuple(weights[:depth]), tuple(weights[depth:])
        position = [(place + last - first) % chunk_size for place in position]
        anchor = _move_anchor(anchor, memory, position)
        outputs.append(output)
        first = last
    joined = torch.cat(outputs, dim=2).transpose(1, 2) if outputs else value.transpose(1, 2)
    return joined, AnchoredState(memory, anchor, surprise, state.position.new_tensor(position))


def _heads_first(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, 2)


def _move_anchor(anchor: Weights, memory: Weights, position: list[int]) -> Weights:
    """The memory itself becomes the anchor of the rows whose chunk has ended."""
    if not any(position):
        return memory
    if all(position):
        return anchor
    ended = torch.tensor([place == 0 for place in position], device=memory[0].device)[:, None, None, None]
    return tuple(torch.where(ended, new, old) for new, old in zip(memory, anchor))


def _chunk_at_anchor(
    how: Anchoring,
    depth: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    eta: Tensor,
    log_alpha: Tensor,
    momentum: Tensor | None,
    *weights: Tensor,
) -> tuple[Tensor, ...]:
    """`_chunk` without erase for tokens that follow their anchor at once, with its gradients by hand."""
    form = Form(how.surprise, activation_named(how.activation), how.residual, how.limit, depth)
    tokens = (tensor.flatten(0, 1) for tensor in (query, key, value, eta.unsqueeze(-1)))
    coefficients = spans(log_alpha.flatten(0, 1), None if momentum is None else momentum.flatten(0, 1))
    made = AnchoredChunk.apply(form, *tokens, *coefficients, *(weight.flatten(0, 1) for weight in weights))
    return tuple(tensor.unflatten(0, query.shape[:2]) for tensor in made)


def _chunk(
    how: Anchoring,
    depth: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    eta: Tensor,
    log_alpha: Tensor,
    momentum: Tensor | None,
    *weights: Tensor,
) -> tuple[Tensor, ...]:
    """One chunk, or a part of one: output [B, H, C, V], the new memory and the new accumulator."""
    batch, heads = query.shape[:2]
    query, key, value = (tensor.flatten(0, 1) for tensor in (query, key, value))
    eta, log_alpha = eta.flatten(0, 1).unsqueeze(-1), log_alpha.flatten(0, 1)
    flat = [weight.flatten(0, 1) for weight in weights]
    memory, anchor, surprise = flat[:depth], flat[depth : 2 * depth], flat[2 * depth :]
    coefficients = spans(log_alpha, None if momentum is None else momentum.flatten(0, 1))

    # The implicit form takes its gradient at the decayed memory.
    scale = log_alpha.exp().unsqueeze(-1) if how.erase == "implicit" else None
    inputs, surprises = _factors(how, anchor, key, value, scale)
    activate = activation_named(how.activation).function
    answer, new_memory, new_surprise = query, [], []
    for layer in range(depth):
        past = surprise[layer] if surprise else None
        write, erase = _rates(how, eta, inputs[layer], scale)
        push = pushes(inputs[layer], -write * surprises[layer], erase, memory[layer], past, coefficients)
        answer = read(answer, inputs[layer], push, memory[layer], past, coefficients)
        if layer < depth - 1:
            answer = activate(answer)
        memory_now, surprise_now = advance(inputs[layer], push, memory[layer], past, coefficients)
        new_memory.append(memory_now)
        if surprise_now is not None:
            new_surprise.append(surprise_now)
    if how.residual:
        answer = query + answer
    return tuple(tensor.unflatten(0, (batch, heads)) for tensor in (answer, *new_memory, *new_surprise))


def _factors(
    how: Anchoring, weights: list[Tensor], key: Tensor, value: Tensor, scale: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Input and local surprise of every map for every token: backpropagation by hand, as in rules.deep.factors."""
    activation = activation_named(how.activation)
    inputs, sums = [key], []
    for layer, weight in enumerate(weights):
        total = torch.bmm(inputs[-1], weight.mT)
        sums.append(total if scale is None else total * scale)
        if layer < len(weights) - 1:
            inputs.append(activation.function(sums[-1]))
    output = key + sums[-1] if how.residual else sums[-1]
    surprises = [how.surprise(output, value)]
    for weight, below in zip(reversed(weights[1:]), reversed(sums[:-1])):
        back = torch.bmm(surprises[-1], weight)
        surprises.append(activation.derivative(below) * (back if scale is None else back * scale))
    surprises.reverse()
    if how.limit is not None:
        surprises = [error * limit_factor(error, seen, how.limit) for error, seen in zip(surprises, inputs)]
    return inputs, surprises


def _rates(how: Anchoring, eta: Tensor, seen: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Write and erase rate of one map, [R, C, 1]."""
    if how.erase == "none":
        return eta, None
    if how.erase == "explicit" or scale is None:
        return eta, eta
    rate = eta / (1 + eta * seen.square().sum(-1, keepdim=True))
    return rate, scale * rate
