"""Measures of one arm: is a fact known, did an answer change, and what did ordinary text come to cost?"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nestling.recipes.facts.arms import Arm

__all__ = ["greedy", "is_sentence", "nats", "recalls", "share", "windows"]

WINDOW = 128
_WINDOWS_AT_ONCE = 4


def is_sentence(wording: str) -> bool:
    """Whether a wording is a sentence to be completed, not a question or request."""
    return wording[-1] not in "?.!"


def recalls(arm: Arm, asked: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether greedy decoding writes exactly the answer first: every token of it is the most probable one.

    Args: asked: (wording, answer), all questions or all sentences.
    """
    if not asked:
        return []
    answers = [
        arm.wording.continued(answer) if is_sentence(wording) else _bare(arm, answer) for wording, answer in asked
    ]
    rows = [
        arm.prompt(wording, is_sentence(wording)) + ids[:-1] for (wording, _), ids in zip(asked, answers, strict=True)
    ]
    logits = arm.logits(rows, [len(ids) for ids in answers])
    return [each.argmax(-1).tolist() == ids for each, ids in zip(logits, answers, strict=True)]


def greedy(arm: Arm, wordings: Sequence[str], num_tokens: int) -> list[list[int]]:
    """The first tokens that greedy decoding writes after each wording, the same way for every arm."""
    if not wordings:
        return []
    rows = [arm.prompt(wording, is_sentence(wording)) for wording in wordings]
    written: list[list[int]] = [[] for _ in rows]
    for _ in range(num_tokens):
        for new, logits in zip(written, arm.logits(rows, [1] * len(rows)), strict=True):
            new.append(int(logits[-1].argmax()))
        rows = [[*row, new[-1]] for row, new in zip(rows, written, strict=True)]
    return written


def windows(arm: Arm, text: str, count: int) -> list[list[int]]:
    """`count` windows of 128 tokens, evenly spread over a text."""
    ids = arm.wording.raw(text)
    last = max(0, len(ids) - WINDOW)
    starts = [round(n * last / max(1, count - 1)) for n in range(count)]
    return [ids[start : start + WINDOW] for start in starts]


def nats(arm: Arm, pieces: Sequence[Sequence[int]]) -> float:
    """Mean -log p of the next token over windows."""
    total, count = 0.0, 0
    for start in range(0, len(pieces), _WINDOWS_AT_ONCE):
        rows = pieces[start : start + _WINDOWS_AT_ONCE]
        for ids, logits in zip(rows, arm.logits(rows, [len(row) for row in rows]), strict=True):
            targets = torch.tensor(ids[1:])
            total += float(torch.nn.functional.cross_entropy(logits[:-1], targets, reduction="sum"))
            count += len(targets)
    return total / count


def share(flags: Sequence[bool]) -> float | None:
    """Of what is true; None of nothing."""
    return sum(flags) / len(flags) if flags else None


def _bare(arm: Arm, answer: str) -> list[int]:
    ids = arm.wording.answer(answer)
    text = answer if arm.wording.has_template else f" {answer}"
    return ids[: len(arm.wording.raw(text))]
