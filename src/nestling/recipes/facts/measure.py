"""Measures of one arm: is a fact known, did an answer change, and what did ordinary text come to cost?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nestling.recipes.facts.arms import Arm

__all__ = ["greedy", "is_sentence", "nats", "recalls", "windows"]

WINDOW = 128


def is_sentence(wording: str) -> bool:
    """Whether a wording is a sentence to be completed, not a question or request."""
    return wording[-1] not in "?.!"


def recalls(arm: Arm, wording: str, answer: str) -> bool:
    """Whether greedy decoding writes exactly the answer first: every token of it is the most probable one."""
    raw = is_sentence(wording)
    ids = arm.wording.continued(answer) if raw else _bare(arm, answer)
    logits = arm.logits(arm.prompt(wording, raw) + ids[:-1])
    return logits[-len(ids) :].argmax(-1).tolist() == ids


def greedy(arm: Arm, wording: str, num_tokens: int) -> list[int]:
    """The first tokens that greedy decoding writes, without a cache: the same for every arm."""
    ids = arm.prompt(wording, is_sentence(wording))
    written: list[int] = []
    for _ in range(num_tokens):
        written.append(int(arm.logits(ids + written)[-1].argmax()))
    return written


def windows(arm: Arm, text: str, count: int) -> list[list[int]]:
    """`count` windows of 128 tokens, evenly spread over a text."""
    ids = arm.wording.raw(text)
    last = max(0, len(ids) - WINDOW)
    starts = [round(n * last / max(1, count - 1)) for n in range(count)]
    return [ids[start : start + WINDOW] for start in starts]


def nats(arm: Arm, pieces: Sequence[list[int]]) -> float:
    """Mean -log p of the next token over windows."""
    losses: list[Tensor] = []
    for ids in pieces:
        logits = arm.logits(ids)[:-1].float()
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none"))
    return float(torch.cat(losses).mean())


def _bare(arm: Arm, answer: str) -> list[int]:
    ids = arm.wording.answer(answer)
    text = answer if arm.wording.has_template else f" {answer}"
    return ids[: len(arm.wording.raw(text))]
