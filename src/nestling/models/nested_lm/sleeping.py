"""Sleep: what the exact memory of running text holds in many pairs, held in fewer, if nothing suffers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from nestling.memory.token_memory import TokenMemory
from nestling.models.nested_lm.contexts import Context
from nestling.models.nested_lm.levels import SHARPNESS

__all__ = ["Sleep", "lessons_stay", "prose_nats", "sleep"]

LIKENESS = (0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
TOLERANCE = 0.01
_ROWS = 1024
_LESSONS_STAY = (
    "lessons stay fast: no text of theirs is kept, so the questions that slower weights would have to be trained on "
    "cannot be asked again, and a lesson in slower weights could not be forgotten exactly"
)


@dataclass(frozen=True)
class Sleep:
    """What one night did to one context, or why it did nothing.

    Args:
        what: the context, or "lessons".   moved: pairs released because others stand for them.   left: pairs now.
        recall_before, recall_after: nats per pair, each predicted by the memory from the others; lower is better.
        drift_before, drift_after: nats per token of ordinary prose, with all that is known.
        why: what kept it from more; empty when it did all it could.
    """

    what: str
    moved: int
    left: int
    recall_before: float
    recall_after: float
    drift_before: float
    drift_after: float
    why: str


@torch.no_grad()
def sleep(context: Context, seconds: float) -> tuple[Context, Sleep]:
    """Let pairs of one token with like keys become one, as far as recall allows and time lasts.

    From the widest merging on, the first whose recall is within 0.01 nats of before is taken. A merged pair has the
    mean of the keys and the number of pairs it stands for, so counts stay exact.

    Args: seconds: after which no further merging is tried.
    """
    until = time.perf_counter() + seconds
    memory = context.memory
    if len(memory) < 2:
        return context, _report(context, 0, 0.0, 0.0, "there is nothing to merge")
    own = torch.arange(len(memory))
    before = recall(memory, memory, own)
    why = f"any merging that saves a pair costs more than {TOLERANCE} nats of recall"
    for likeness in LIKENESS:
        if time.perf_counter() > until:
            why = f"{seconds:.1f} s were over before a merging was found that costs nothing: allow more"
            break
        smaller, places = merged(memory, likeness)
        if len(smaller) == len(memory):
            why = "no two pairs of one token are alike enough"
            break
        after = recall(memory, smaller, places)
        if after <= before + TOLERANCE:
            slept = replace(context, memory=smaller)
            return slept, _report(slept, len(memory) - len(smaller), before, after, "")
    return context, _report(context, 0, before, before, why)


def merged(memory: TokenMemory, likeness: float) -> tuple[TokenMemory, Tensor]:
    """A memory of groups of pairs, and the group [N] of each pair: one token, keys within a cosine of the first's."""
    places = torch.empty(len(memory), dtype=torch.int64)
    keys: list[Tensor] = []
    tokens: list[int] = []
    counts: list[float] = []
    start = 0
    for token, size in zip(*(part.tolist() for part in torch.unique_consecutive(memory.tokens, return_counts=True))):
        stop = start + size
        group, weight = memory.keys[start:stop].float(), memory.counts[start:stop]
        left = torch.ones(size, dtype=torch.bool)
        while bool(left.any()):
            first = int(left.nonzero()[0])
            inside = left & (group @ group[first] >= likeness)
            inside[first] = True
            places[start:stop][inside] = len(keys)
            one = int(inside.sum()) == 1
            mean = group[first] if one else normalize(weight[inside] @ group[inside], dim=0)
            keys.append(mean)
            tokens.append(int(token))
            counts.append(float(weight[inside].sum()))
            left &= ~inside
        start = stop
    made = TokenMemory(torch.stack(keys).half(), torch.tensor(tokens), torch.tensor(counts))
    return made, places


def recall(asked: TokenMemory, memory: TokenMemory, places: Tensor) -> float:
    """Mean -log p of each pair of `asked` by `memory` without it. Args: places: [N], the pair of `memory` it is in."""
    keys, tokens = memory.keys.float(), memory.tokens
    total = 0.0
    for start in range(0, len(asked), _ROWS):
        rows = slice(start, start + _ROWS)
        query = asked.keys[rows].float()
        weights = (SHARPNESS * (query @ keys.T - 1)).exp() * memory.counts
        own = places[rows].unsqueeze(1)
        held = (SHARPNESS * ((query * keys[places[rows]]).sum(-1, keepdim=True) - 1)).exp() * asked.counts[
            rows
        ].unsqueeze(1)
        weights.scatter_add_(1, own, -held)
        weights = weights.clamp_min(0)
        hit = (weights * (tokens[None] == asked.tokens[rows].unsqueeze(1))).sum(1)
        # a floor, so that a token seen once, which the others cannot predict, counts the same before and after
        total -= float(((hit + 1e-6) / (weights.sum(1) + 1e-6)).clamp_min(1e-6).log().sum())
    return total / len(asked)


def lessons_stay(count: int) -> Sleep:
    """The report of the lessons. Args: count: of associations."""
    return Sleep("lessons", 0, count, 0.0, 0.0, 0.0, 0.0, _LESSONS_STAY)


@torch.no_grad()
def prose_nats(model: Any, texts: Sequence[list[int]], device: torch.device) -> float:
    """Nats per token of texts by a model as it answers now."""
    total, count = 0.0, 0
    for ids in texts:
        row = torch.tensor([ids], device=device)
        logits = model(input_ids=row, use_cache=False).logits[0, :-1].float()
        total += float(cross_entropy(logits, row[0, 1:], reduction="sum"))
        count += len(ids) - 1
    return total / count


def _report(context: Context, moved: int, before: float, after: float, why: str) -> Sleep:
    return Sleep(context.id, moved, len(context.memory), before, after, 0.0, 0.0, why)
