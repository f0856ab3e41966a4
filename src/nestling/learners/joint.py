"""Training on everything seen so far: the upper reference, which stores all examples."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from nestling.learners.base import sum_bytes
from nestling.learners.gradient import GradientStrategy, clone_state, load_module
from nestling.streams.base import Examples, Problem, Training, concatenate


class Joint(GradientStrategy):
    """With every experience, train the initial module anew on all examples seen so far.

    After experience t the module minimises the mean loss over the union of experiences 0..t, so the last row of the
    accuracy matrix is ordinary training on shuffled data. It stores everything, as `stored_bytes` says.
    """

    name: ClassVar[str] = "joint"
    summary: ClassVar[str] = "train anew on everything seen so far; stores all examples, the upper reference"

    def __init__(
        self, module: nn.Module, problem: Problem, *, training: Training, seed: int, num_copies: int = 1
    ) -> None:
        super().__init__(module, problem, training=training, seed=seed, num_copies=num_copies)
        self.initial = clone_state(self.module)
        self.seen: list[Examples] = []

    def begin(self, train: Examples) -> None:
        """Keep the examples and go back to the initial weights."""
        self.seen.append(train)
        load_module(self.module, self.initial)

    def material(self, train: Examples) -> Examples:  # noqa: ARG002
        """All examples seen so far."""
        return concatenate(self.seen)

    def state_dict(self) -> dict[str, Any]:
        """Also the initial weights and every example."""
        seen = [{"inputs": part.inputs, "targets": part.targets} for part in self.seen]
        return {**super().state_dict(), "initial": dict(self.initial), "seen": seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.initial = dict(state["initial"])
        self.seen = [Examples(inputs=part["inputs"], targets=part["targets"]) for part in state["seen"]]

    def stored_bytes(self) -> int:
        """Bytes of all examples seen so far."""
        return sum_bytes([[part.inputs, part.targets] for part in self.seen])
