"""The words every stream and strategy shares: examples, experience, stream."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from nestling.errors import DataError

Kind = Literal["classification", "regression", "language"]
Order = Literal["given", "shuffled"]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Inputs and targets in matching order.

    classification: inputs [N, ...] float32, targets [N] int64 in 0..num_outputs-1
    regression:     inputs [N, ...] float32, targets [N, D] float32 (behaviour cloning included)
    language:       inputs [N, L] int64 tokens, targets [N, L] int64 the next tokens
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise DataError(
                f"expected as many targets as inputs, got {len(self.inputs)} inputs and {len(self.targets)} targets"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def subset(self, index: Tensor) -> Examples:
        """The examples at `index` [M] int64 (or a bool mask [N])."""
        return Examples(inputs=self.inputs[index], targets=self.targets[index])


def concatenate(parts: Sequence[Examples]) -> Examples:
    """All examples of `parts`, in order."""
    return Examples(
        inputs=torch.cat([part.inputs for part in parts]),
        targets=torch.cat([part.targets for part in parts]),
    )


@dataclass(frozen=True, kw_only=True)
class Experience:
    """One task as it arrives: a name for people, a training part, a test part."""

    name: str
    train: Examples
    test: Examples


@dataclass(frozen=True, kw_only=True)
class Problem:
    """All a strategy is told about a stream before the first experience arrives."""

    kind: Kind
    input_shape: tuple[int, ...]
    num_outputs: int


@dataclass(frozen=True, kw_only=True)
class Training:
    """How strategies that train by gradient spend their effort on one experience.

    epochs: passes over the training part, but at least `min_steps` optimizer steps.
    batch_size: examples (rows) per step.   lr: AdamW learning rate.
    """

    epochs: int = 10
    min_steps: int = 0
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.0


class Predictor(Protocol):
    """Anything that maps inputs [N, ...] to outputs [N, ...]: class scores, actions or logits."""

    def __call__(self, inputs: Tensor, /) -> Tensor:
        """Outputs for inputs."""
        ...


Evaluator = Callable[[Predictor, Experience], float]
Arranger = Callable[[int], Sequence[Experience]]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Experiences in the order in which they arrive, and how success on one is measured.

    name:              what the user asked for, e.g. "digits".
    experiences:       in the order of arrival.
    metric:            name of the score for people, e.g. "accuracy", "success rate", "bits per byte".
    higher_is_better:  False for bits per byte.
    make_model:        fresh module for the gradient strategies; the caller seeds torch before.
    evaluate:          score of a predictor on the test part of one experience.
    arrange:           seed -> experiences in another order (for class-incremental streams: other classes
                       together); None permutes the experiences themselves.
    training:          effort that gradient strategies spend per experience.
    source_hash:       hash of the experiences in the given order; kept when the order is shuffled.
    details:           choices made while building it that a reader of the results must know, in plain JSON values
                       (which features, how many bytes a window, ...).
    """

    name: str
    kind: Kind
    experiences: tuple[Experience, ...]
    num_outputs: int
    metric: str
    higher_is_better: bool
    make_model: Callable[[], nn.Module]
    evaluate: Evaluator
    arrange: Arranger | None = None
    training: Training = field(default_factory=Training)
    source_hash: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.experiences) < 2:
            raise DataError(
                f"stream {self.name!r} has {len(self.experiences)} experience(s): expected at least 2 that "
                "arrive one after another; add another file or lower the classes per experience"
            )
        if not self.source_hash:
            object.__setattr__(self, "source_hash", hash_experiences(self.experiences))

    @property
    def problem(self) -> Problem:
        """What strategies are told."""
        first = self.experiences[0].train.inputs
        return Problem(kind=self.kind, input_shape=tuple(first.shape[1:]), num_outputs=self.num_outputs)

    def arranged(self, seed: int, order: Order = "given") -> Stream:
        """The same stream in the order that `seed` draws; the given order unless `order` is "shuffled"."""
        if order == "given":
            return self
        if self.arrange is not None:
            experiences = tuple(self.arrange(seed))
        else:
            generator = torch.Generator().manual_seed(seed)
            permutation = torch.randperm(len(self.experiences), generator=generator).tolist()
            experiences = tuple(self.experiences[i] for i in permutation)
        return replace(self, experiences=experiences)


def hash_experiences(experiences: Sequence[Experience]) -> str:
    """SHA-256 over names, shapes, types and values of all parts."""
    digest = hashlib.sha256()
    for experience in experiences:
        digest.update(experience.name.encode())
        for part in (experience.train, experience.test):
            for tensor in (part.inputs, part.targets):
                digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
                digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
