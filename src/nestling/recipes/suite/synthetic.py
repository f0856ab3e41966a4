"""What a synthetic task is: sequences drawn at random, what must be predicted, and how it is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestling.errors import InputError, UnknownNameError

__all__ = ["Batch", "Predict", "SyntheticTask", "loss_of", "score"]

Predict = Callable[[Tensor], Tensor]
KINDS = ("token", "set")


class Batch(NamedTuple):
    """Sequences and what must be predicted.

    tokens: [B, T] int64.
    target: [B, T] int64, the token to name at a place; or [B, T, S] bool, the set of symbols that may come next.
    asked:  [B, T] bool, the places that count.
    """

    tokens: Tensor
    target: Tensor
    asked: Tensor


@dataclass(frozen=True, kw_only=True)
class SyntheticTask:
    """One task for a model trained from nothing.

    name, summary: for people.
    source:     where the task is defined.
    vocab_size: tokens of the input.
    kind:       "token" (one right answer at a place) or "set" (a yes or no for every symbol).
    num_answers: symbols that can be answered, the first of the vocabulary; the width S of sets.
    draw:       (batch, part of `parts`, generator) -> Batch.
    parts:      names of the parts; the first is trained on, the others are harder or longer.
    chance:     score of a guess that knows how often each answer is right, by the name of a score.
    decoder:    None (answers are read at each place), or "compression" (all answers from the state at the last token).
    """

    name: str
    summary: str
    source: str
    vocab_size: int
    kind: str
    num_answers: int
    draw: Callable[[int, str, torch.Generator], Batch]
    parts: tuple[str, ...] = ("1x",)
    chance: Mapping[str, float] = field(default_factory=dict)
    decoder: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownNameError("kind of task", self.kind, KINDS)

    def batch(self, size: int, part: str, generator: torch.Generator) -> Batch:
        """`size` fresh sequences of a part.

        Raises:
            UnknownNameError: no such part.
            InputError: size < 1.
        """
        if part not in self.parts:
            raise UnknownNameError(f"part of task {self.name}", part, self.parts)
        if size < 1:
            raise InputError(f"batch: expected a size >= 1, got {size}")
        return self.draw(size, part, generator)


class Answers(nn.Module):
    """The logits of the answers of a causal language model, [B, T, S] from tokens [B, T]."""

    def __init__(self, model: nn.Module, num_answers: int) -> None:
        super().__init__()
        self.model, self.num_answers = model, num_answers

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the first S symbols."""
        return self.model(input_ids=tokens, use_cache=False).logits[..., : self.num_answers]


def loss_of(logits: Tensor, batch: Batch, kind: str) -> Tensor:
    """Mean over the places that count: cross-entropy, or binary cross-entropy over symbols. In nats."""
    asked = logits[batch.asked]
    if kind == "token":
        return F.cross_entropy(asked, batch.target[batch.asked])
    return F.binary_cross_entropy_with_logits(asked, batch.target[batch.asked].to(asked.dtype))


@torch.no_grad()
def score(predict: Predict, batch: Batch, kind: str) -> dict[str, float]:
    """How much is right.

    place:    share of the places that count where the answer (the whole set) is right.
    sequence: share of the sequences where every place that counts is right.

    Args:
        predict: tokens [B, T] -> logits [B, T, S]; the answer is the largest, a set those above 0.
        batch: the sequences.
        kind: of the task.
    """
    logits = predict(batch.tokens)
    right = logits.argmax(-1) == batch.target if kind == "token" else ((logits > 0) == batch.target).all(-1)
    return {
        "place": right[batch.asked].double().mean().item(),
        "sequence": (right | ~batch.asked).all(1).double().mean().item(),
    }
