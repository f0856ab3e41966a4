"""Self-modifying Titans token by token, one memory after the other, as eq. 83-90 are printed: the reference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nestling.layers.self_modifying import SelfModifyingTitans
from nestling.memory.output import answer as through
from nestling.memory.state import Weights
from nestling.ops.activations import activation_named
from nestling.rules.matrix import apply, outer, spread

__all__ = ["run"]

Memories = dict[str, Weights]


def run(layer: SelfModifyingTitans, x: Tensor) -> tuple[Tensor, Memories, Memories]:
    """Read x [B, T, D] from a new context.

    for every token:
        k, v, eta, alpha from the memories at the anchor of the projections                            (83, 86, 90)
        vhat_b = M_b(v) at the anchor of M_b                                                           (84, 87)
        M_b <- M_b (alpha I - eta k k^T) - eta grad L(M_b; k, vhat_b), or the other forms              (88)
        y = W_out M_memory(q)

    With decay_to "initial" the decay and the erase of (88) act on M_b - M_b,0.

    The limit of targets: a residual memory scales its own target. Matrix memories scale all targets of a token alike,
    by the length of the target of a probe, a memory that starts as the identity and is written like the others.

    Reads the parameters and options of `layer`, none of its functions; any order of derivatives, slow.

    Returns:
        y [B, T, D], the memories and the accumulators after the last token, by name; a memory is a tuple of weights
        [B, H, out, in] in the order in which they are applied.
    """
    how, heads = layer.how, layer.num_heads
    memories = {
        name: tuple(weight.expand(len(x), *weight.shape) for weight in weights)
        for name, weights in layer.memories.initial_memories().items()
    }
    if layer.kind == "matrix":
        probe = torch.eye(layer.head_dim, dtype=x.dtype).expand(len(x), heads, -1, -1)
        memories |= {"probe": (probe,), "memory_probe": (probe,)}
    start = {name: tuple(float(how.keeps_start) * weight for weight in weights) for name, weights in memories.items()}
    surprise = {name: tuple(torch.zeros_like(weight) for weight in weights) for name, weights in memories.items()}
    of_memory = ("memory", "memory_probe")
    moving = [name for name in memories if name in (*how.adaptive, *of_memory, "probe")]
    anchors = dict(memories)
    seen: dict[str, list[Tensor]] = {"key": [], "value": [], "query": []}
    outputs = []
    for t in range(x.shape[1]):
        for name in moving:
            if t % layer.chunk_sizes[1 if name in of_memory else 0] == 0:
                anchors[name] = memories[name]
        view, query = _views(layer, x[:, t])
        key = F.normalize(_convolved(layer, "key", answer(anchors["key"], view), seen), dim=-1)
        value = _convolved(layer, "value", answer(anchors["value"], view), seen)
        query = answer(anchors["query"], view) if query is None else query
        query = F.normalize(_convolved(layer, "query", query, seen), dim=-1)
        eta, alpha, momentum = _rates(layer, anchors, view, x[:, t])
        for name in moving:
            target = answer(anchors[name], value)
            judged = {"mlp": name, "matrix": "memory_probe" if name in of_memory else "probe"}[layer.kind]
            target = target * _limiting(answer(anchors[judged], value), how.limit)
            gradient_at = memories[name] if how.gradient == "current" else anchors[name]
            new = _write(layer, memories[name], gradient_at, start[name], key, target, eta, alpha)
            decayed = _decayed(memories[name], start[name], alpha)
            surprise[name] = tuple(
                spread(momentum) * past + weight - kept for past, weight, kept in zip(surprise[name], new, decayed)
            )
            memories[name] = tuple(kept + push for kept, push in zip(decayed, surprise[name]))
        read = anchors["memory"] if how.read == "anchor" else memories["memory"]
        outputs.append(through(layer.output, answer(read, query).reshape(len(x), heads * layer.head_dim), x[:, t]))
    return torch.stack(outputs, dim=1), memories, surprise


def answer(memory: Weights, vector: Tensor) -> Tensor:
    """M(x) = W x, or x + W_2 silu(W_1 x) for two maps."""
    if len(memory) == 1:
        return apply(memory[0], vector)
    return vector + apply(memory[1], F.silu(apply(memory[0], vector)))


def _views(layer: SelfModifyingTitans, x: Tensor) -> tuple[Tensor, Tensor | None]:
    mapped = layer.input(x).unflatten(-1, (-1, layer.num_heads, layer.head_dim))
    return mapped[:, 0], None if layer.how.adaptive_query else mapped[:, 1]


def _convolved(layer: SelfModifyingTitans, name: str, vector: Tensor, seen: dict[str, list[Tensor]]) -> Tensor:
    """sum_j taps_j of the last tokens, oldest first; zeros before the first."""
    seen[name].append(vector)
    if layer.conv_width == 1:
        return vector
    taps = _taps(layer, name)
    recent = seen[name][-layer.conv_width :]
    return torch.stack([tap * past for tap, past in zip(taps[-len(recent) :], recent)]).sum(0)


def _taps(layer: SelfModifyingTitans, name: str) -> Tensor:
    """[W, H, K]."""
    assert layer.taps is not None
    place = ("key", "query", "value").index(name)
    return layer.taps.transpose(0, 1).unflatten(-1, (3, -1))[:, :, place]


def _rates(layer: SelfModifyingTitans, anchors: Memories, view: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """eta, alpha and momentum, [B, H]."""
    how = layer.how
    logits = {
        name: answer(anchors[name], view).squeeze(-1) + how.rate_gain * layer.rate_bias[:, row]
        for row, name in enumerate(how.rates)
    }
    gate = torch.sigmoid(logits["eta"])
    alpha = torch.sigmoid(logits["alpha"]) if how.weight_decay else torch.ones_like(gate)
    if how.weight_decay and layer.lowest is not None:
        lowest = torch.tensor(layer.lowest, dtype=alpha.dtype)
        alpha = lowest + (1 - lowest) * alpha
    eta = {"implicit": gate, "explicit": alpha * gate / 2, "off": alpha * gate}[how.dgd]
    if how.negative_eigenvalues:
        eta = gate / (1 - gate) if how.dgd == "implicit" else 2 * eta
    if layer.momentum is None:
        return eta, alpha, torch.zeros_like(eta)
    momentum = torch.sigmoid(layer.momentum(x))
    return eta * (1 - momentum), alpha, momentum


def _limiting(target: Tensor, limit: float | None) -> Tensor:
    """What brings the length of a target down to the limit, [B, H, 1]."""
    if limit is None:
        return torch.ones_like(target[..., :1])
    return torch.clamp(limit / target.norm(dim=-1, keepdim=True), max=1)


def _write(
    layer: SelfModifyingTitans,
    memory: Weights,
    gradient_at: Weights,
    start: Weights,
    key: Tensor,
    target: Tensor,
    eta: Tensor,
    alpha: Tensor,
) -> Weights:
    """The memory after one write without momentum, map by map."""
    dgd = layer.how.dgd
    if dgd == "implicit":
        gradient_at = _decayed(gradient_at, start, alpha)
    updated = []
    slopes = _gradients(gradient_at, key, target, layer.memories.surprise_limit)
    for weight, first, (seen, slope) in zip(memory, start, slopes):
        rate = eta / (1 + eta * seen.square().sum(-1)) if dgd == "implicit" else eta
        moved = weight - first
        erased = {
            "implicit": spread(alpha) * (moved - spread(rate) * outer(apply(moved, seen), seen)),
            "explicit": spread(alpha) * moved - spread(rate) * outer(apply(moved, seen), seen),
            "off": spread(alpha) * moved,
        }[dgd]
        updated.append(first + erased - spread(rate) * outer(slope, seen))
    return tuple(updated)


def _decayed(memory: Weights, start: Weights, alpha: Tensor) -> Weights:
    """Decayed towards 0, or towards the start."""
    return tuple(first + spread(alpha) * (weight - first) for weight, first in zip(memory, start))


def _gradients(memory: Weights, key: Tensor, target: Tensor, limit: float | None) -> list[tuple[Tensor, Tensor]]:
    """Per map its input and its local surprise on 1/2 |M(k) - target|^2."""
    if len(memory) == 1:
        return [(key, apply(memory[0], key) - target)]
    below = apply(memory[0], key)
    hidden = F.silu(below)
    error = key + apply(memory[1], hidden) - target
    back = activation_named("silu").derivative(below) * apply(memory[1].mT, error)
    pairs = [(key, back), (hidden, error)]
    if limit is None:
        return pairs
    return [(seen, _scaled(error, seen, limit)) for seen, error in pairs]


def _scaled(error: Tensor, seen: Tensor, limit: float) -> Tensor:
    size = error.norm(dim=-1, keepdim=True) * seen.norm(dim=-1, keepdim=True)
    return error * torch.clamp(limit / size, max=1)
