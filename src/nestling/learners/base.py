"""The contract of a strategy: it learns one experience after another and says what it keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from nestling.streams.base import Examples, Kind, Problem, Training


class Progress(NamedTuple):
    """How far `Strategy.learn` is within the current experience."""

    done: int
    total: int


class Strategy(ABC):
    """A way of learning tasks that arrive in order.

    A strategy sees only the training part of one experience at a time, never a test part, and no task identity.
    Everything it knows is in `state_dict()`, so that a run can be killed and resumed bit for bit.

    Args:
        module: any `nn.Module` from inputs [N, ...] to outputs [N, num_outputs] (language: [N, L, num_outputs]).
            Its initial weights are the starting point. Closed-form strategies may ignore it.
        problem: kind, input shape and number of outputs.
        training: effort per experience for gradient strategies.
        seed: everything random in the strategy derives from it.

    Further keyword arguments with defaults are the options that a user may set (`learners.spec`). A strategy that only
    chooses another by the kind of problem names those in `parts`, and has their options.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification", "regression", "language"})
    parts: ClassVar[Mapping[Kind, type[Strategy]]] = {}

    def __init__(self, module: nn.Module, problem: Problem, *, training: Training, seed: int) -> None:
        self.module = module
        self.problem = problem
        self.training = training
        self.seed = seed

    @abstractmethod
    def learn(self, train: Examples) -> Iterator[Progress]:
        """Learn one experience; every yield is a safe point.

        At a yield `state_dict()` is complete: after `load_state_dict` into a fresh strategy, `learn` with the same
        examples goes on from that point and ends in the same state, bit for bit. The last yield has done == total.
        """

    @abstractmethod
    def predict(self, inputs: Tensor) -> Tensor:
        """Outputs for inputs [N, ...]: class scores, actions, or next-token logits. No gradient, no side effect."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything learned and everything needed to go on: tensors, numbers, strings, and dicts/lists of them."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""

    def stored_bytes(self) -> int:
        """Bytes of training examples kept for later; 0 unless the strategy replays."""
        return 0

    def state_bytes(self) -> int:
        """Bytes of everything learned that is kept between experiences: weights, sums, importances, statistics."""
        return sum_bytes(self.state_dict()) - self.stored_bytes()

    def num_parameters(self) -> int:
        """Numbers that are read when predicting (weights), not counting statistics used only for learning."""
        return sum(parameter.numel() for parameter in self.module.parameters())


def sum_bytes(state: Any) -> int:
    """Bytes of all tensors in nested dicts and lists."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(sum_bytes(value) for value in state.values())
    if isinstance(state, list | tuple):
        return sum(sum_bytes(value) for value in state)
    return 0


def seeded_generator(seed: int) -> torch.Generator:
    """A CPU generator for everything random in one strategy."""
    return torch.Generator().manual_seed(seed)
