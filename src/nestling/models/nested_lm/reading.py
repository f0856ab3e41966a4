"""Reading on and on: predict a chunk, then learn it, each level at its own pace."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nestling.errors import InputError
from nestling.memory.key_gate import KeyGate, KeySums
from nestling.memory.token_memory import TokenMemory
from nestling.models.nested_lm.contexts import Context, Delta, ReadState, rounded
from nestling.models.nested_lm.frames import SINK, Frames
from nestling.models.nested_lm.levels import SHARE, Levels
from nestling.models.nested_lm.wording import check_text

__all__ = ["MAX_CONTEXTS", "PERIODS", "Reading", "Student", "tokens_of"]

CHUNK = 256
PERIODS = (256, 512)  # tokens between two updates of the upper and of the lower level
LR, BETAS, EPSILON = 3e-3, (0.9, 0.99), 1e-8
MAX_CONTEXTS = 32
JOIN, LEAVE, FAR = 0.155, 0.196, 0.45  # times the root of the width of keys; chosen on texts of one model
FEW = 64
NOISE = 1 + 1 / 6  # of a chunk against a context of six
_LEAST = 16
_BLOCK = 4096


@dataclass(frozen=True)
class Reading:
    """What came of reading. Args: id: by which it can be forgotten.   num_tokens: read.
    nats: per token, before it was learned: each chunk is predicted with what was learned up to it.
    seconds.   contexts: ids of the contexts it fed.
    """

    id: str
    num_tokens: int
    nats: float
    seconds: float
    contexts: tuple[str, ...]


@dataclass
class Steps:
    """Adam on the changes of one context for the time of one reading; gradients add up for the period of their level.

    Source: Kingma & Ba 2015; the accumulated update of a level NL eq. 71.
    """

    moments: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: list[int] = field(default_factory=lambda: [0] * len(PERIODS))
    waiting: list[int] = field(default_factory=lambda: [0] * len(PERIODS))

    def update(self, part: str, level: int, value: Tensor) -> Tensor:
        """The next value of one tensor from the mean of its gradients since the last."""
        mean = self.sums.pop(part) / self.waiting[level]
        first, second = self.moments.get(part, (torch.zeros_like(value), torch.zeros_like(value)))
        first = BETAS[0] * first + (1 - BETAS[0]) * mean
        second = BETAS[1] * second + (1 - BETAS[1]) * mean.square()
        self.moments[part] = first, second
        size = self.counts[level]
        root = (second / (1 - BETAS[1] ** size)).sqrt() + EPSILON
        return value - LR * (first / (1 - BETAS[0] ** size)) / root


class Student:
    """Learns a stream of tokens into contexts.

    objective of a step: the mean of -log p(x_t | x_<t) over a chunk, with the context's changes everywhere, in the
    changes alone; backpropagation ends at the lowest of them.

    A text begins in the nearest context within JOIN, or in a new one. It stays there unless the mean of a chunk's keys
    lies further than FAR from it, or further than LEAVE and nearer to another. Distances are Mahalanobis distances
    (`KeyGate.distances`). So languages that are alike are told apart by their own readings, not within one.

    Args: levels: of the model.   state: to begin with.   frames: keys of the model.   model.   device: of its weights.
    """

    def __init__(self, levels: Levels, state: ReadState, frames: Frames, model: Any, device: torch.device) -> None:
        self.levels, self.frames, self.model, self.device = levels, frames, model, device
        self.state = state
        self._steps: dict[str, Steps] = {}
        self._current: str | None = None

    def read(self, tokens: Iterator[int], progress: Callable[[int], None] | None = None) -> Reading:
        """Learn tokens to their end; `state` is what is known then. The levels in use are left as they are."""
        began = time.perf_counter()
        total, count, used = 0.0, 0, dict[str, None]()
        digest = hashlib.sha256(self.state.hash().encode())
        for ids in chunks(tokens):
            digest.update(str(ids).encode())
            nats, number = self._chunk(torch.tensor([ids], device=self.device))
            total, count = total + nats, count + number
            if self._current is not None:
                used[self._current] = None
            if progress is not None:
                progress(count)
        if count == 0:
            raise InputError("there is nothing to read: expected at least two tokens")
        id_ = "r" + digest.hexdigest()[:11]
        for name in used:
            context = self._finish(self._of(name))
            self.state = self.state.with_context(replace(context, readings=(*context.readings, id_)))
        return Reading(id_, count, total / count, time.perf_counter() - began, tuple(used))

    def _chunk(self, ids: Tensor) -> tuple[float, int]:
        """Nats that one chunk cost before it was learned, and how many tokens were predicted."""
        context = self._of(self._current) if self._current is not None else self._new()
        loss, nats, parameters = self._predict(ids, context)
        assert self.levels.early is not None
        keys = self.frames.early(self.levels.early)[0, SINK:]
        count = ids.shape[1] - 1
        if count < _LEAST:
            return nats * count, count
        chosen = self._choose(keys, context)
        if chosen.id != context.id:
            context = chosen
            loss, _, parameters = self._predict(ids, context)
        self._learn(ids, context, loss, parameters, keys)
        return nats * count, count

    def _predict(self, ids: Tensor, context: Context) -> tuple[Tensor, float, dict[str, Delta]]:
        """The loss of the levels with its gradient, and nats of the whole answer, exact memory included."""
        deltas = {name: Delta(each.a.clone(), each.b.clone()) for name, each in context.deltas.items()}
        parameters = {name: _required(each) for name, each in deltas.items()}
        with torch.enable_grad(), self.levels.learning(parameters):
            logits = self.model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            log_probs = logits.log_softmax(-1)
            loss = -log_probs.gather(1, ids[0, 1:, None]).mean()
        nats = float(loss.detach())
        if len(context.memory):
            assert self.levels.keys is not None
            query = self.levels.memory_keys(self.levels.keys[0, :-1])
            share = torch.full((len(query),), context.share, device=query.device)
            answer = self.levels.recall(context, log_probs.detach(), query, share)
            nats = -float(answer.gather(1, ids[0, 1:, None]).mean())
        return loss, nats, parameters

    def _learn(self, ids: Tensor, context: Context, loss: Tensor, deltas: dict[str, Delta], keys: Tensor) -> None:
        """One chunk into one context: changes by their periods, sums and pairs exactly."""
        parts = [(f"{name} {part}", getattr(each, part)) for name, each in deltas.items() for part in ("a", "b")]
        gradients = torch.autograd.grad(loss, [value for _, value in parts])
        steps = self._steps.setdefault(context.id, Steps())
        for (part, _), gradient in zip(parts, gradients, strict=True):
            steps.sums[part] = steps.sums[part] + gradient if part in steps.sums else gradient
        steps.waiting = [each + 1 for each in steps.waiting]
        assert self.levels.keys is not None
        pairs = self.levels.memory_keys(self.levels.keys[0, :-1])
        context = replace(
            context,
            keys=context.keys.plus(keys),
            memory=context.memory.written(pairs, ids[0, 1:]),
            num_tokens=context.num_tokens + ids.shape[1] - 1,
        )
        due = [level for level, period in enumerate(PERIODS) if steps.waiting[level] * CHUNK >= period]
        self.state = self.state.with_context(self._apply(context, due))
        self._current = context.id

    def _apply(self, context: Context, due: list[int]) -> Context:
        """The context with the updates of some levels."""
        steps = self._steps[context.id]
        due = [level for level in due if steps.waiting[level]]
        for level in due:
            steps.counts[level] += 1
        deltas = dict(context.deltas)
        for each in self.levels.maps:
            if each.level in due:
                old = deltas[each.name]
                new = (steps.update(f"{each.name} {n}", each.level, getattr(old, n)) for n in ("a", "b"))
                deltas[each.name] = Delta(*(value.detach() for value in new))
        for level in due:
            steps.waiting[level] = 0
        return replace(context, deltas=deltas)

    def _finish(self, context: Context) -> Context:
        """With what the slower level still waits with, rounded as it is saved."""
        return rounded(self._apply(context, list(range(len(PERIODS)))))

    def _choose(self, keys: Tensor, current: Context) -> Context:
        """The context a chunk belongs to."""
        known = self.state.contexts
        if not known:
            return current
        distances = KeyGate([each.keys for each in known], self.state.background).distances(keys.mean(0))
        near = {each.id: float(far) for each, far in zip(known, distances, strict=True)}
        best = min(known, key=lambda each: near[each.id])
        unit = math.sqrt(keys.shape[1])
        if current.id in near and (
            len(keys) < FEW or near[current.id] <= min(FAR * unit, max(LEAVE * unit, near[best.id]))
        ):
            return current
        noise = min(2.0, math.sqrt((CHUNK / len(keys) + CHUNK / max(1, best.keys.count)) / NOISE))
        if near[best.id] <= JOIN * unit * noise or len(known) >= MAX_CONTEXTS:
            return best
        return self._new()

    def _new(self) -> Context:
        """One that has learned nothing; its id says only which it is."""
        taken = {each.id for each in self.state.contexts}
        number = next(n for n in range(1, MAX_CONTEXTS + 2) if f"c{n}" not in taken)
        generator = torch.Generator().manual_seed(number)
        width = self.frames.mean.shape[0]
        memory = TokenMemory.empty(self.frames.width)
        return Context(f"c{number}", KeySums.empty(width), self.levels.fresh_deltas(generator), memory, SHARE)

    def _of(self, id_: str) -> Context:
        return next(each for each in self.state.contexts if each.id == id_)


def chunks(tokens: Iterator[int]) -> Iterator[list[int]]:
    """Chunks of 256 tokens; each begins with the last token of the one before, so that every token is predicted."""
    ids: list[int] = []
    for token in tokens:
        ids.append(token)
        if len(ids) == CHUNK + 1:
            yield ids
            ids = ids[-1:]
    if len(ids) > 1:
        yield ids


def tokens_of(text: str | Iterable[str], encode: Callable[[str], list[int]]) -> Iterator[int]:
    """Tokens of a text that may come in pieces: the same ones however it is cut.

    Text is encoded up to a space between two words, where tokenizers that split at spaces begin a token anyway.

    Raises: InputError for what is not text, and for nothing.
    """
    waiting, any_text = "", False
    for piece in (text,) if isinstance(text, str | bytes | bytearray) else text:
        if not isinstance(piece, str):
            check_text("the text", piece)
        elif piece:
            check_text("the text", piece + "." if not piece.strip() else piece)
        any_text, waiting = any_text or bool(piece.strip()), waiting + piece
        while (cut := _cut(waiting)) > 0:
            yield from encode(waiting[:cut])
            waiting = waiting[cut:]
    if not any_text:
        check_text("the text", "")
    yield from encode(waiting)


def _cut(text: str) -> int:
    """Where to cut: the first space between two words behind 4,096 characters, 0 where there is none yet."""
    for place in range(_BLOCK, len(text) - 1):
        if text[place] == " " and text[place - 1].isalnum() and text[place + 1].isalnum():
            return place
    return 0


def _required(delta: Delta) -> Delta:
    return Delta(delta.a.requires_grad_(True), delta.b.requires_grad_(True))
