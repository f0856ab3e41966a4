"""All lessons of a learner and how much room there is for more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nestling.errors import InputError
from nestling.memory.association import Association
from nestling.models.nested_lm.lesson import Capacity, Lesson, Stored

__all__ = ["Lessons"]

_NEARLY_FULL = 0.9


class Lessons:
    """Lessons by their id, oldest first. It is never changed: each change makes another one.

    Args: stored: the lessons.   limit: >= 1, how many associations there may be (a taught answer is one).
    """

    def __init__(self, stored: Iterable[Stored] = (), *, limit: int) -> None:
        self.by_id, self.limit = {each.lesson.id: each for each in stored}, limit

    def __contains__(self, id_: str) -> bool:
        return id_ in self.by_id

    def __len__(self) -> int:
        return len(self.by_id)

    @property
    def stored(self) -> tuple[Stored, ...]:
        """With their weights."""
        return tuple(self.by_id.values())

    @property
    def facts(self) -> list[Lesson]:
        """What is known of them."""
        return [each.lesson for each in self.stored]

    @property
    def associations(self) -> list[Association]:
        """Of all lessons, in order."""
        return [pair for each in self.stored for pair in each.associations]

    @property
    def owners(self) -> list[str]:
        """The lesson of each association, in order."""
        return [each.lesson.id for each in self.stored for _ in each.associations]

    def without(self, ids: Sequence[str]) -> Lessons:
        """All but these."""
        return Lessons((each for id_, each in self.by_id.items() if id_ not in ids), limit=self.limit)

    def with_more(self, more: Iterable[Stored]) -> Lessons:
        """These too; one that is here already stays as it is. Raises InputError when there is no room."""
        together = Lessons((*self.stored, *(each for each in more if each.lesson.id not in self)), limit=self.limit)
        if together.used > self.limit:
            raise InputError(
                f"the memory is full: {together.used} associations of {self.limit}; forget something or raise it"
            )
        return together

    @property
    def used(self) -> int:
        """How many associations there are."""
        return sum(len(each.associations) for each in self.stored)

    def warnings(self) -> list[str]:
        """That it is nearly full."""
        if self.used < _NEARLY_FULL * self.limit:
            return []
        return [f"the memory is nearly full: {self.used} of {self.limit} associations"]

    def capacity(self) -> Capacity:
        """How full it is."""
        return Capacity(self.used, self.limit, sum(each.lesson.num_bytes for each in self.stored))
