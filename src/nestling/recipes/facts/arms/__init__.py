"""Ways to make a language model know facts, one after another. One arm = one class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor

from nestling.models.nested_lm.wording import Wording
from nestling.recipes.facts.arms.memory import Memory
from nestling.recipes.facts.arms.notes import Notes, Retrieval
from nestling.recipes.facts.arms.plain import Untaught
from nestling.recipes.facts.arms.tuning import EWC, FineTuning, Lora, Replay

__all__ = ["ARMS", "EWC", "Arm", "FineTuning", "Lora", "Memory", "Notes", "Replay", "Retrieval", "Untaught"]


class Arm(Protocol):
    """What the benchmark needs of an arm."""

    summary: ClassVar[str]
    wording: Wording

    def teach(self, question: str, answer: str) -> Any:
        """Learn one fact."""
        ...

    def prompt(self, question: str, raw: bool) -> list[int]:
        """Ids to answer from."""
        ...

    def logits(self, rows: Sequence[Sequence[int]], keep: Sequence[int]) -> list[Tensor]:
        """[keep, V] of the last positions of each text."""
        ...

    def num_bytes(self) -> int:
        """Kept beside the pretrained model."""
        ...


ARMS: dict[str, Callable[[Any, Any], Arm]] = {
    "memory": Memory,
    "untaught": Untaught,
    "notes": Notes,
    "retrieval": Retrieval,
    "finetuning": FineTuning,
    "lora": Lora,
    "ewc": EWC,
    "replay": Replay,
}
