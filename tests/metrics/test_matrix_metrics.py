"""Metrics on matrices whose answers are worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nestling.errors import InputError
from nestling.metrics import (
    average_accuracy,
    average_anytime_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    learning_accuracy,
)

MATRIX = [
    [0.9, 0.2, 0.1],
    [0.6, 0.8, 0.3],
    [0.7, 0.5, 1.0],
]
UNTRAINED = [0.1, 0.1, 0.2]
ALL = (average_accuracy, forgetting, backward_transfer, learning_accuracy, average_anytime_accuracy)
TRANSFERS = (forgetting, backward_transfer)


def test_written_out():
    assert average_accuracy(MATRIX) == pytest.approx((0.7 + 0.5 + 1.0) / 3)
    assert forgetting(MATRIX) == pytest.approx(((0.9 - 0.7) + (0.8 - 0.5)) / 2)
    assert backward_transfer(MATRIX) == pytest.approx(((0.7 - 0.9) + (0.5 - 0.8)) / 2)
    assert forward_transfer(MATRIX, UNTRAINED) == pytest.approx(((0.2 - 0.1) + (0.3 - 0.2)) / 2)
    assert learning_accuracy(MATRIX) == pytest.approx((0.9 + 0.8 + 1.0) / 3)
    assert average_anytime_accuracy(MATRIX) == pytest.approx((0.9 + (0.6 + 0.8) / 2 + (0.7 + 0.5 + 1.0) / 3) / 3)


def test_forgetting_is_measured_from_the_best_not_from_the_diagonal():
    # experience 0 got better while 1 was learned; the last row does not count as "earlier"
    assert forgetting([[0.5, 0, 0], [0.9, 0.8, 0], [0.4, 1.0, 1.0]]) == pytest.approx(((0.9 - 0.4) + (0.8 - 1.0)) / 2)


def test_where_small_is_good_signs_turn():
    bits = [[2.0, 4.0], [3.5, 1.0]]  # 1.5 bits were lost on the first, 0.5 gained on the second before seeing it
    assert average_accuracy(bits) == pytest.approx(2.25)
    assert forgetting(bits, higher_is_better=False) == pytest.approx(1.5)
    assert backward_transfer(bits, higher_is_better=False) == pytest.approx(-1.5)
    assert forward_transfer(bits, [4.5, 4.5], higher_is_better=False) == pytest.approx(0.5)


def test_scores_not_measured_above_the_diagonal_do_not_matter():
    nan = float("nan")
    lower = [[0.9, nan, nan], [0.6, 0.8, nan], [0.7, 0.5, 1.0]]
    for metric in ALL:
        assert metric(lower) == pytest.approx(metric(MATRIX))
    with pytest.raises(InputError, match="just before it is learned"):
        forward_transfer(lower, UNTRAINED)


def test_tensors_and_arrays_are_accepted_and_left_alone():
    for given_matrix in (np.array(MATRIX), torch.tensor(MATRIX, dtype=torch.float64)):
        for metric in ALL:
            assert metric(given_matrix) == pytest.approx(metric(MATRIX))
        assert given_matrix.tolist() == MATRIX


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        ([[1.0, 2.0]], "square"),
        ([1.0, 2.0], "square"),
        ([[1.0], [1.0, 2.0]], "unequal length"),
        ([["a", "b"], ["c", "d"]], "numbers"),
        ([[1.0, 0.0], [float("nan"), 1.0]], "finite"),
        ([[1.0, 0.0], [0.0, float("inf")]], "finite"),
        ([], "square"),
    ],
)
def test_an_impossible_matrix_is_an_input_error(matrix, reason):
    for metric in ALL:
        with pytest.raises(InputError, match=reason):
            metric(matrix)


def test_one_experience_has_averages_but_no_transfer():
    assert average_accuracy([[0.5]]) == learning_accuracy([[0.5]]) == average_anytime_accuracy([[0.5]]) == 0.5
    for metric in TRANSFERS:
        with pytest.raises(InputError, match="at least 2"):
            metric([[0.5]])


def test_untrained_scores_of_another_length_are_refused():
    with pytest.raises(InputError, match="one untrained score per experience"):
        forward_transfer(MATRIX, [0.1, 0.1])


matrices = st.integers(2, 5).flatmap(lambda n: arrays(np.float64, (n, n), elements=st.floats(0, 1)))


@given(matrices)
def test_laws_that_hold_for_every_matrix(matrix):
    assert forgetting(matrix) >= -backward_transfer(matrix) - 1e-12  # the best is at least the diagonal
    for metric in TRANSFERS:
        assert metric(matrix) == pytest.approx(metric(1 - matrix, higher_is_better=False))
    constant = np.tile(matrix[-1], (len(matrix), 1))
    assert forgetting(constant) == backward_transfer(constant) == 0
    assert learning_accuracy(constant) == pytest.approx(average_accuracy(constant))
