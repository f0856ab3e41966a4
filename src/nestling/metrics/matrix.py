"""What an accuracy matrix says about learning one thing after another.

R[i, j] is the score on experience j after learning experience i, both counted from 0 in the order of arrival; T is
their number. Scores above the diagonal (experiences not learned yet) may be NaN where they were not measured, except
for `forward_transfer`, which reads the ones just above the diagonal.

Orientation: where a small score is good (bits per byte) pass `higher_is_better=False`. Then, as always,
a positive `forgetting` is worse and a positive transfer is better. Averages of scores keep the unit of the score.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nestling.errors import InputError


def average_accuracy(matrix: ArrayLike) -> float:
    """Mean score over all experiences after the last one was learned.

    ACC = (1/T) sum_j R[T-1, j]

    Source: Lopez-Paz & Ranzato 2017 (GEM, arXiv 1706.08840), eq. 2.

    Args:
        matrix: [T, T], T >= 1.
    Raises: InputError when the matrix is not square or a score on or below the diagonal is not finite.
    """
    return float(_checked(matrix)[-1].mean())


def forgetting(matrix: ArrayLike, *, higher_is_better: bool = True) -> float:
    """How far the final score of an experience lies below the best it ever had; positive is worse.

    F = (1/(T-1)) sum_{j < T-1} ( max_{i < T-1} R[i, j] - R[T-1, j] )

    Source: Chaudhry et al. 2018 (Riemannian Walk, arXiv 1801.10112), section 3. Scores that were not
    measured (NaN above the diagonal) do not enter the maximum.

    Args:
        matrix: [T, T], T >= 2.
        higher_is_better: False turns the signs, so that a rise of the loss is forgetting.
    Raises: InputError as `average_accuracy`, or when T < 2.
    """
    scores = _oriented(_checked(matrix, at_least=2), higher_is_better)
    best = np.nanmax(scores[:-1, :-1], axis=0)
    return float((best - scores[-1, :-1]).mean())


def backward_transfer(matrix: ArrayLike, *, higher_is_better: bool = True) -> float:
    """What learning later experiences did to earlier ones; positive is better.

    BWT = (1/(T-1)) sum_{j < T-1} ( R[T-1, j] - R[j, j] )

    Source: Lopez-Paz & Ranzato 2017, eq. 3.

    Args:
        matrix: [T, T], T >= 2.
        higher_is_better: False turns the signs.
    Raises: InputError as `forgetting`.
    """
    scores = _oriented(_checked(matrix, at_least=2), higher_is_better)
    return float((scores[-1] - np.diagonal(scores))[:-1].mean())


def forward_transfer(matrix: ArrayLike, untrained: ArrayLike, *, higher_is_better: bool = True) -> float:
    """What learning earlier experiences did for one that has not been seen yet; positive is better.

    FWT = (1/(T-1)) sum_{j >= 1} ( R[j-1, j] - b[j] )

    Source: Lopez-Paz & Ranzato 2017, eq. 4.

    Args:
        matrix: [T, T], T >= 2, finite just above the diagonal.
        untrained: [T], b[j] = score on experience j of the model before anything was learned.
        higher_is_better: False turns the signs.
    Raises: InputError as `forgetting`, or when a needed score is missing or `untrained` has another length.
    """
    scores = _oriented(_checked(matrix, at_least=2), higher_is_better)
    baseline = _oriented(_as_floats(untrained, "untrained"), higher_is_better)
    if baseline.shape != (len(scores),):
        raise InputError(
            f"expected one untrained score per experience, shape ({len(scores)},), got {baseline.shape}: "
            "evaluate the model on every experience before learning"
        )
    gains = np.diagonal(scores, offset=1) - baseline[1:]
    if not np.isfinite(gains).all():
        raise InputError(
            "forward transfer needs the score on every experience just before it is learned and of the untrained "
            "model, got NaN or infinity: evaluate on all experiences, not only on the ones already learned"
        )
    return float(gains.mean())


def learning_accuracy(matrix: ArrayLike) -> float:
    """Mean score on each experience right after it was learned: how plastic the learner is.

    LA = (1/T) sum_j R[j, j]

    Source: Riemer et al. 2019 (Meta-Experience Replay, arXiv 1810.11910), section 4.

    Args:
        matrix: [T, T], T >= 1.
    Raises: InputError as `average_accuracy`.
    """
    return float(np.diagonal(_checked(matrix)).mean())


def average_anytime_accuracy(matrix: ArrayLike) -> float:
    """Mean, over the whole run, of the mean score on everything learned so far.

    AAA = (1/T) sum_i (1/(i+1)) sum_{j <= i} R[i, j]

    Source: Caccia et al. 2022 (arXiv 2104.05025), section 4, with one measurement per experience; the same as
    the average incremental accuracy of Rebuffi et al. 2017 (iCaRL, arXiv 1611.07725), with its first
    experience included.

    Args:
        matrix: [T, T], T >= 1.
    Raises: InputError as `average_accuracy`.
    """
    scores = _checked(matrix)
    return float(np.mean([row[: i + 1].mean() for i, row in enumerate(scores)]))


def _oriented(scores: NDArray[np.float64], higher_is_better: bool) -> NDArray[np.float64]:
    return scores if higher_is_better else -scores


def _as_floats(values: Any, name: str) -> NDArray[np.float64]:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected numbers in {name}, got something else or rows of unequal length: {error}") from None


def _checked(matrix: ArrayLike, *, at_least: int = 1) -> NDArray[np.float64]:
    scores = _as_floats(matrix, "the accuracy matrix")
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise InputError(
            f"expected a square accuracy matrix [T, T] (rows: after learning i, columns: experience j), "
            f"got shape {scores.shape}"
        )
    if len(scores) < at_least:
        raise InputError(f"expected at least {at_least} experiences, got {len(scores)}: nothing to compare")
    if not np.isfinite(scores[np.tril_indices(len(scores))]).all():
        raise InputError(
            "expected a finite score for every experience already learned (on and below the diagonal), "
            "got NaN or infinity: evaluate each experience after it was learned"
        )
    return scores
