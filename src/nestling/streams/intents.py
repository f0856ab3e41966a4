"""Intents: short questions to sort into 150 or 77 classes that arrive a group at a time (CLINC150, Banking77)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nestling.errors import DataError
from nestling.streams.base import Examples, Experience, Stream, Training
from nestling.streams.class_incremental import accuracy, draw_groups, split_by_class
from nestling.streams.intents_files import Sentences, read_banking77, read_clinc150
from nestling.streams.sentence_features import FORMAT, LAYERS, Report, sentence_features

CLINC_GROUP = 15
BANKING_GROUP = 11
NUM_FOLDS = 10
FOLD_SEED = 0
# Chosen on the validation part of CLINC150: a head trained on all of it at once reaches 95.9 %, with 15 epochs 95.3 %.
TRAINING = Training(epochs=10, batch_size=32, lr=1e-3)

DETAILS = {"features": "all-MiniLM-L6-v2, frozen", "layers": list(LAYERS), "pooling": FORMAT}


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """What turns sentences into features.

    Args: read: sentences -> [N, D] float32, a row of which depends on its sentence alone; told where to report to.
        details: what it is, for the record of a run.
    """

    read: Callable[[Sequence[str], Report | None], Tensor] = field(
        default=lambda texts, progress: sentence_features(texts, progress=progress)
    )
    details: dict[str, Any] = field(default_factory=lambda: dict(DETAILS))


def clinc150_stream(
    *,
    folder: Path | None = None,
    part: Literal["test", "validation"] = "test",
    progress: Report | None = None,
    encoder: Encoder | None = None,
) -> Stream:
    """CLINC150: ten experiences of 15 intents on frozen sentence features, class-incremental.

    Trains on the official training part (100 sentences an intent) and scores on the official test part (30 an
    intent); out-of-scope sentences are left out. In the given order an experience is one of the ten domains;
    `arranged(seed, "shuffled")` puts the classes together at random.

    Source: Larson et al., An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction, EMNLP 2019.

    Args:
        folder: holds `clinc150/data_full.json` (or that file itself) and `domains.json`. If None: $NESTLING_DATA,
            then ../shared/data, then the hub through `datasets`.
        part: "validation" scores on the official validation part, for choosing anything.
        progress: called with (sentences done, sentences in all) while features are extracted.
        encoder: of the sentences; None takes frozen MiniLM states.
    Raises: DataError for files of another shape; ResourceError when the data or the model is nowhere to be found.
    """
    if part not in ("test", "validation"):
        raise DataError(f"part {part!r}: expected 'test' or 'validation'")
    data = read_clinc150(folder)
    test = data.test if part == "test" else data.validation
    encoder = encoder or Encoder()
    features = encoder.read([*data.train.texts, *test.texts], progress)
    inputs_train, inputs_test = features.split([len(data.train.texts), len(test.texts)])
    train_part = Examples(inputs=inputs_train, targets=torch.tensor(data.train.labels))
    test_part = Examples(inputs=inputs_test, targets=torch.tensor(test.labels))
    groups = consecutive_groups(len(data.classes), CLINC_GROUP)

    def arrange(seed: int) -> tuple[Experience, ...]:
        drawn = draw_groups(len(data.classes), CLINC_GROUP, seed)
        return split_by_class(train_part, test_part, drawn, group_names(drawn, data.classes))

    return Stream(
        name="intents-clinc150",
        kind="classification",
        experiences=split_by_class(
            train_part, test_part, groups, data.group_names or group_names(groups, data.classes)
        ),
        num_outputs=len(data.classes),
        metric="accuracy",
        higher_is_better=True,
        make_model=head_maker(features.shape[1], len(data.classes)),
        evaluate=accuracy,
        arrange=arrange,
        training=TRAINING,
        details=encoder.details,
    )


def banking77_stream(
    *, folder: Path | None = None, fold: int = 0, progress: Report | None = None, encoder: Encoder | None = None
) -> Stream:
    """Banking77: seven experiences of 11 intents on frozen sentence features, scored by cross-validation.

    Only the training file (10,003 sentences) is used: it is cut into `NUM_FOLDS` stratified folds, always the same,
    and one of them is the test part. `arranged(seed, "shuffled")` draws the order of the classes and takes fold
    `seed mod NUM_FOLDS` as the test part, so that seeds 0 to 9 score every sentence once.

    Source: Casanueva et al., Efficient Intent Detection with Dual Sentence Encoders, NLP4ConvAI 2020.

    Args:
        folder: holds `banking77/train.csv` (or that file itself). If None: as in `clinc150_stream`.
        fold: test fold of the given order, 0 to NUM_FOLDS - 1.
        progress: called with (sentences done, sentences in all) while features are extracted.
        encoder: of the sentences; None takes frozen MiniLM states.
    Raises: DataError for files of another shape; ResourceError when the data or the model is nowhere to be found.
    """
    if not 0 <= fold < NUM_FOLDS:
        raise DataError(f"fold {fold}: expected 0 to {NUM_FOLDS - 1}")
    data: Sentences = read_banking77(folder)
    encoder = encoder or Encoder()
    inputs, targets = encoder.read(data.texts, progress), torch.tensor(data.labels)
    everything = Examples(inputs=inputs, targets=targets)
    fold_of = stratified_folds(targets, NUM_FOLDS, FOLD_SEED)

    def split(test_fold: int, groups: Sequence[Sequence[int]]) -> tuple[Experience, ...]:
        train, test = everything.subset(fold_of != test_fold), everything.subset(fold_of == test_fold)
        return split_by_class(train, test, groups, group_names(groups, data.classes))

    def arrange(seed: int) -> tuple[Experience, ...]:
        return split(seed % NUM_FOLDS, draw_groups(len(data.classes), BANKING_GROUP, seed))

    return Stream(
        name="intents-banking77",
        kind="classification",
        experiences=split(fold, consecutive_groups(len(data.classes), BANKING_GROUP)),
        num_outputs=len(data.classes),
        metric="accuracy",
        higher_is_better=True,
        make_model=head_maker(inputs.shape[1], len(data.classes)),
        evaluate=accuracy,
        arrange=arrange,
        training=TRAINING,
        details=encoder.details,
    )


def stratified_folds(targets: Tensor, num_folds: int, seed: int) -> Tensor:
    """Fold 0..num_folds-1 of each example [N] int64; each class is spread evenly, which examples `seed` draws."""
    generator = torch.Generator().manual_seed(seed)
    fold_of = torch.empty_like(targets)
    for label in targets.unique().tolist():
        members = torch.nonzero(targets == label).squeeze(1)
        fold_of[members[torch.randperm(len(members), generator=generator)]] = torch.arange(len(members)) % num_folds
    return fold_of


def consecutive_groups(num_classes: int, size: int) -> list[list[int]]:
    """[[0..size-1], [size..2 size-1], ...]; the last may be shorter."""
    return [list(range(start, min(start + size, num_classes))) for start in range(0, num_classes, size)]


def group_names(groups: Sequence[Sequence[int]], classes: Sequence[str]) -> list[str]:
    """The first class of each group, and how many more."""
    return [f"{classes[group[0]]} and {len(group) - 1} more" for group in groups]


class Head(nn.Sequential):
    """Linear, ReLU, linear: the module that gradient strategies train on the frozen features."""

    def __init__(self, width: int, num_classes: int, hidden: int = 256) -> None:
        super().__init__(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))


def head_maker(width: int, num_classes: int) -> Callable[[], nn.Module]:
    """A function that makes a fresh `Head`."""
    return lambda: Head(width, num_classes)
