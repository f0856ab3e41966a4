"""Split-Digits: scikit-learn's 8x8 handwritten digits, two new classes at a time, one output head."""

from __future__ import annotations

import torch
from torch import nn

from nestling.streams.base import Examples, Experience, Stream, Training
from nestling.streams.class_incremental import accuracy, draw_groups, split_by_class, stratified_split

NUM_CLASSES = 10
TEST_SHARE = 0.2
SPLIT_SEED = 0


def digits_stream() -> Stream:
    """Five experiences of two digits each (0-1, 2-3, ...), class-incremental: which digits arrive is not told.

    1,797 images, pixels 0 to 16 divided by 16: inputs [64] float32. A fixed, stratified fifth (359 images) is the
    test part, the same for every seed, so that seeds vary the learner and the order of classes, never the task.
    `arranged(seed, "shuffled")` pairs the digits at random.

    Source: scikit-learn `load_digits`, from the UCI optical recognition of handwritten digits (test part).
    """
    from sklearn.datasets import load_digits  # takes a second or two, which other streams need not wait for

    bunch = load_digits()
    inputs = torch.from_numpy(bunch.data).float() / 16  # pyright: ignore[reportAttributeAccessIssue]
    targets = torch.from_numpy(bunch.target).long()  # pyright: ignore[reportAttributeAccessIssue]
    everything = Examples(inputs=inputs, targets=targets)
    train_index, test_index = stratified_split(targets, TEST_SHARE, SPLIT_SEED)
    return two_classes_at_a_time(
        "digits", everything.subset(train_index), everything.subset(test_index), Training(epochs=10, batch_size=32)
    )


def two_classes_at_a_time(name: str, train: Examples, test: Examples, training: Training) -> Stream:
    """A class-incremental stream of ten classes, two at a time, learned by a 2x256 ReLU perceptron."""
    width = train.inputs.shape[1]

    def arrange(seed: int) -> tuple[Experience, ...]:
        return split_by_class(train, test, draw_groups(NUM_CLASSES, 2, seed))

    def make_model() -> nn.Module:
        return nn.Sequential(
            nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, NUM_CLASSES)
        )

    return Stream(
        name=name,
        kind="classification",
        experiences=split_by_class(train, test, [[label, label + 1] for label in range(0, NUM_CLASSES, 2)]),
        num_outputs=NUM_CLASSES,
        metric="accuracy",
        higher_is_better=True,
        make_model=make_model,
        evaluate=accuracy,
        arrange=arrange,
        training=training,
    )
