"""What is left of lessons that were forgotten, in a memory that can forget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nestling.models.nested_lm import Lesson
from nestling.models.nested_lm.lesson import Stored
from nestling.recipes.facts.arms import Memory
from nestling.recipes.facts.invented import Fact
from nestling.recipes.facts.measure import recalls

__all__ = ["Forgetting", "measure_forgetting"]

EVERY, MOST_TAUGHT_ANEW = 4, 30


@dataclass(frozen=True)
class Forgetting:
    """Every fourth lesson was forgotten.

    Args:
        lessons: how many.   recalled: share of them still recalled in the taught wording or the first unseen one.
        rest_changed: share of the others' answers to the taught question that changed.
        weights, outputs: greatest difference, relative to the greatest value, of stored weights and of the model's
            logits between the memory from which all but `taught_anew` lessons were forgotten, and one that was taught
            only these.   same_hash: whether both memories are equal to the bit.
    """

    lessons: int
    recalled: float
    rest_changed: float
    weights: float
    outputs: float
    same_hash: bool
    taught_anew: int


def measure_forgetting(
    arm: Memory, facts: Sequence[Fact], lessons: Sequence[Lesson], known: Sequence[bool]
) -> Forgetting:
    """Forget and look; the arm knows little afterwards.

    Args: lessons: of the facts, in order.   known: whether each taught question was answered before.
    """
    gone = list(range(0, len(facts), EVERY))
    rest = [n for n in range(len(facts)) if n % EVERY]
    for n in gone:
        arm.learner.forget(lessons[n])
    asked = [(wording, facts[n].answer) for n in gone for wording in (facts[n].question, facts[n].wordings[0])]
    recalled = recalls(arm, asked)
    again = recalls(arm, [(facts[n].question, facts[n].answer) for n in rest])
    changed = [new != known[n] for new, n in zip(again, rest, strict=True)]
    kept = rest[:: max(1, -(-len(rest) // MOST_TAUGHT_ANEW))]
    for n in set(rest) - set(kept):
        arm.learner.forget(lessons[n])
    questions = [arm.prompt(facts[n].question, raw=False) for n in [*kept[:8], *gone[:8]]]
    after, hash_after = _state(arm, questions), arm.learner.hash()
    for n in kept:
        arm.learner.forget(lessons[n])
    for n in kept:
        arm.teach(facts[n].question, facts[n].answer)
    never = _state(arm, questions)
    return Forgetting(
        lessons=len(gone),
        recalled=sum(recalled) / max(1, len(recalled)),
        rest_changed=sum(changed) / max(1, len(changed)),
        weights=_apart(after[0], never[0]),
        outputs=_apart(after[1], never[1]),
        same_hash=arm.learner.hash() == hash_after,
        taught_anew=len(kept),
    )


def _state(arm: Memory, questions: Sequence[list[int]]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    stored: tuple[Stored, ...] = arm.learner.snapshot().stored
    weights = [part for each in stored for pair in each.associations for part in pair.tensors()]
    return weights, arm.logits(questions, [1] * len(questions))


def _apart(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> float:
    if [part.shape for part in left] != [part.shape for part in right]:
        return float("inf")
    pairs = [(one, two) for one, two in zip(left, right, strict=True) if one.numel()]
    return max((float((one - two).abs().max() / two.abs().max().clamp_min(1e-12)) for one, two in pairs), default=0.0)
