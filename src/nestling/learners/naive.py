"""Fine-tuning on one experience after another: the reference that forgets."""

from __future__ import annotations

from typing import ClassVar

from nestling.learners.gradient import GradientStrategy


class Naive(GradientStrategy):
    """Train on each experience in turn and do nothing against forgetting.

    McCloskey & Cohen 1989 named what happens then: catastrophic interference.
    """

    name: ClassVar[str] = "naive"
    summary: ClassVar[str] = "fine-tune on each experience in turn; forgets, the lower reference"
