"""Streams in which every experience brings new classes for one shared output head."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nestling.streams.base import Examples, Experience, Predictor


def accuracy(predict: Predictor, experience: Experience) -> float:
    """Share of the test examples whose highest output, over all classes, is the target: 0 to 1."""
    outputs = predict(experience.test.inputs)
    return (outputs.argmax(dim=-1) == experience.test.targets).double().mean().item()


def stratified_split(targets: torch.Tensor, test_share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of a train and a test part with the same share of every class, each in ascending order.

    Args:
        targets: [N] int64 classes.
        test_share: in (0, 1); of n examples of a class, round(n * test_share) go to the test part.
        seed: draws which ones.
    """
    generator = torch.Generator().manual_seed(seed)
    is_test = torch.zeros(len(targets), dtype=torch.bool)
    for label in targets.unique().tolist():
        members = torch.nonzero(targets == label).squeeze(1)
        drawn = torch.randperm(len(members), generator=generator)[: round(len(members) * test_share)]
        is_test[members[drawn]] = True
    return torch.nonzero(~is_test).squeeze(1), torch.nonzero(is_test).squeeze(1)


def split_by_class(
    train: Examples, test: Examples, groups: Sequence[Sequence[int]], names: Sequence[str] | None = None
) -> tuple[Experience, ...]:
    """One experience for each group of classes; targets keep their number in the shared head.

    Args:
        train: training examples of all classes.
        test: test examples of all classes.
        groups: classes of each experience, in the order of arrival.
        names: of the experiences; the classes joined by "-" when not given.
    """
    names = names or ["-".join(str(label) for label in group) for group in groups]
    return tuple(
        Experience(name=name, train=_members(train, group), test=_members(test, group))
        for name, group in zip(names, groups, strict=True)
    )


def draw_groups(num_classes: int, group_size: int, seed: int) -> list[list[int]]:
    """The classes in an order drawn by `seed`, cut into groups; within a group in ascending order."""
    order = torch.randperm(num_classes, generator=torch.Generator().manual_seed(seed)).tolist()
    return [sorted(order[start : start + group_size]) for start in range(0, num_classes, group_size)]


def _members(examples: Examples, group: Sequence[int]) -> Examples:
    return examples.subset(torch.isin(examples.targets, torch.tensor(list(group))))
