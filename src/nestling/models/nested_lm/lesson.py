"""What a learner hands back: lessons, receipts, snapshots, and how full it is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import torch

from nestling.memory.association import Association
from nestling.models.nested_lm.contexts import ReadState

__all__ = ["Capacity", "Lesson", "Recall", "Receipt", "Snapshot", "Stored", "fingerprint"]


@dataclass(frozen=True)
class Lesson:
    """What came of teaching something.

    Args:
        id: of this lesson, made from its weights.   tags: given by the teacher.
        surprise_before, surprise_after: nats per token of what was taught, without and with this lesson.
        seconds: it took, without measuring the model at the first one.   num_bytes: it adds to a saved memory.
        replaced: lessons on the same question that it took the place of.   warnings: what the teacher should know.
    """

    id: str
    tags: tuple[str, ...]
    surprise_before: float
    surprise_after: float
    seconds: float
    num_bytes: int
    replaced: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stored:
    """One lesson in the memory: its weights, and no text."""

    lesson: Lesson
    associations: tuple[Association, ...]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of its weights."""
        return fingerprint(self.associations)


@dataclass(frozen=True)
class Receipt:
    """Proof of a deletion: the hash of the memory before and after, and how many lessons are left."""

    lesson: str
    before: str
    after: str
    remaining: int


@dataclass(frozen=True)
class Snapshot:
    """A state to go back to. Lessons and contexts never change once stored, so it costs nothing to keep."""

    stored: tuple[Stored, ...]
    hash: str
    read: ReadState = field(default_factory=ReadState)


@dataclass(frozen=True)
class Recall:
    """Whether every lesson is still the one that its own keys open. Args: checked, kept: numbers of associations.
    lost: ids of lessons that others answer for now.
    """

    checked: int
    kept: int
    lost: tuple[str, ...]


@dataclass(frozen=True)
class Capacity:
    """How full the memory is, in associations (a taught answer is one) and bytes."""

    used: int
    limit: int
    num_bytes: int


def fingerprint(associations: Iterable[Association]) -> str:
    """SHA-256 of the weights of associations."""
    digest = hashlib.sha256()
    for association in associations:
        for tensor in association.tensors():
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()
