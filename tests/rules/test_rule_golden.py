"""Golden: 2x2 cases worked by hand on paper, one row and one head, exact numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nestling.rules import RULES, attention, deep, deep_dgd, dgd, hebbian, lp, momentum, omega


def one(*numbers: float) -> Tensor:
    """A vector [1, 1, n]."""
    return torch.tensor(numbers, dtype=torch.float64)[None, None]


def rate(number: float) -> Tensor:
    return torch.tensor([[number]], dtype=torch.float64)


def matrix(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)[None, None]


# M = [[1, 2], [3, 4]], k = (1, 2), v = (1, 1): M k = (5, 11), error (4, 10), M^T v = (4, 6), |k|^2 = 5.
STATE = [[1.0, 2.0], [3.0, 4.0]]
KEY = (1.0, 2.0)
VALUE = (1.0, 1.0)

# eta = 0.1, alpha = 0.5
EXPECTED = {
    # 0.5 M + 0.1 [[1, 2], [1, 2]]
    "hebbian": [[0.6, 1.2], [1.6, 2.2]],
    # 0.5 M - 0.1 [[4, 8], [10, 20]]
    "delta": [[0.1, 0.2], [0.5, 0.0]],
    # decayed [[0.5, 1], [1.5, 2]] answers (2.5, 5.5): error (1.5, 4.5); minus 0.1 [[1.5, 3], [4.5, 9]]
    "gated_delta": [[0.35, 0.7], [1.05, 1.1]],
    # k - M^T v = (-3, -4): 0.5 M + 0.1 [[-3, -4], [-3, -4]]
    "oja": [[0.2, 0.6], [1.2, 1.6]],
    # p = 3: 3 error^2 = (48, 300): 0.5 M - 0.1 [[48, 96], [300, 600]]
    "lp": [[-4.3, -8.6], [-28.5, -58.0]],
    # threshold 1: error clipped to (1, 1): 0.5 M - 0.1 [[1, 2], [1, 2]]
    "huber": [[0.4, 0.8], [1.4, 1.8]],
    # eta' = 0.1 / 1.5 = 1/15; decayed error (1.5, 4.5) / 15 = (0.1, 0.3): decayed - [[0.1, 0.2], [0.3, 0.6]]
    "dgd": [[0.4, 0.8], [1.2, 1.4]],
    # erase 0.1 [[5, 10], [11, 22]] and gradient 0.1 [[4, 8], [10, 20]]
    "dgd_explicit": [[-0.4, -0.8], [-0.6, -2.2]],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_matrix_rule(name: str) -> None:
    ours = RULES[name].step(matrix(STATE), one(*KEY), one(*VALUE), eta=rate(0.1), alpha=rate(0.5))
    torch.testing.assert_close(ours, matrix(EXPECTED[name]), rtol=0, atol=1e-12)


def test_every_matrix_rule_has_a_golden_case() -> None:
    assert set(EXPECTED) == {name for name, rule in RULES.items() if rule.state_kind == "matrix"}


def test_read() -> None:
    torch.testing.assert_close(RULES["delta"].read(matrix(STATE), one(*KEY)), one(5.0, 11.0), rtol=0, atol=0)


def test_omega_weighs_its_pairs() -> None:
    # pairs: key (1, 0), v = (0, 0) with gamma 1; key (0, 1), v = (1, 1) with gamma 0.5: errors (1, 3) and (1, 3)
    # gradient [[1, 0.5], [3, 1.5]]
    key, value = matrix([[1.0, 0.0], [0.0, 1.0]]), matrix([[0.0, 0.0], [1.0, 1.0]])
    ours = omega.step(matrix(STATE), key, value, gamma=one(1.0, 0.5), eta=rate(0.1), alpha=rate(1.0))
    torch.testing.assert_close(ours, matrix([[0.9, 1.95], [2.7, 3.85]]), rtol=0, atol=1e-12)


def test_momentum_carries_the_past() -> None:
    # S = 0.5 * 1 - 0.1 [[4, 8], [10, 20]]; M = 0.5 M + S
    state = momentum.Accumulated(memory=matrix(STATE), surprise=torch.ones(1, 1, 2, 2, dtype=torch.float64))
    rates = {"eta": rate(0.1), "alpha": rate(0.5), "momentum": rate(0.5)}
    ours = momentum.step(state, one(*KEY), one(*VALUE), **rates)
    torch.testing.assert_close(ours.surprise, matrix([[0.1, -0.3], [-0.5, -1.5]]), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.memory, matrix([[0.6, 0.7], [1.0, 0.5]]), rtol=0, atol=1e-12)


def test_implicit_dgd_on_l2_erases_twice() -> None:
    # decayed answers (2.5, 5.5), error (1.5, 4.5), sum (4, 10) / 15
    ours = dgd.step_implicit(matrix(STATE), one(*KEY), one(*VALUE), eta=rate(0.1), alpha=rate(0.5))
    third = 4 / 15, 10 / 15
    expected = [[0.5 - third[0], 1 - 2 * third[0]], [1.5 - third[1], 2 - 2 * third[1]]]
    torch.testing.assert_close(ours, matrix(expected), rtol=0, atol=1e-12)


def test_objectives() -> None:
    arguments = matrix(STATE), one(*KEY), one(*VALUE)
    expected = {"hebbian": -16.0, "delta": 58.0, "oja": 10.0, "lp": 1064.0, "huber": 13.0}
    for name, number in expected.items():
        torch.testing.assert_close(RULES[name].objective(*arguments), rate(number), rtol=0, atol=1e-12)
    # 1/2 (16 + 100) + |M - 0|^2 / (2 * 0.5) = 58 + 30
    previous = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    proximal = dgd.objective(*arguments, previous=previous, eta=rate(0.5))
    torch.testing.assert_close(proximal, rate(88.0), rtol=0, atol=1e-12)


def test_least_squares_of_one_pair() -> None:
    # ridge 0.01, k = (1, 2): M = v k^T / (0.01 + 5)
    rule = RULES["least_squares"]
    state = rule.initial(1, 1, 2, 2, dtype=torch.float64)
    state = rule.write(state, one(*KEY), one(1.0, -1.0), eta=rate(1.0), alpha=rate(1.0))
    expected = matrix([[1.0, 2.0], [-1.0, -2.0]]) / 5.01
    torch.testing.assert_close(state.memory, expected, rtol=0, atol=1e-12)


def test_attention_weighs_by_similarity() -> None:
    # scores 0 and log 3 with scale 1: weights 1/4 and 3/4
    pairs = attention.Pairs(
        key=matrix([[0.0, 1.0], [math.log(3.0), 0.0]]),
        value=matrix([[4.0, 0.0], [0.0, 4.0]]),
    )
    ours = attention.read(pairs, one(1.0, 0.0), scale=1.0)
    torch.testing.assert_close(ours, one(1.0, 3.0), rtol=0, atol=1e-12)


def test_deep_memory_of_one_unit() -> None:
    # W_1 = 2, W_2 = 3, ReLU, k = 1, v = 4: hidden 2, output 1 + 6 = 7, error 3
    # grad W_2 = 3 * 2 = 6, grad W_1 = 3 * 3 * 1 = 9; eta 0.1, alpha 0.5
    weights = (matrix([[2.0]]), matrix([[3.0]]))
    arguments = {"eta": rate(0.1), "alpha": rate(0.5), "activation": "relu"}
    first, second = deep.step(weights, one(1.0), one(4.0), **arguments)
    assert first.item() == pytest.approx(0.1, abs=1e-12)
    assert second.item() == pytest.approx(0.9, abs=1e-12)
    # explicit DGD also erases eta W x^2: 0.1 * 2 * 1 = 0.2 and 0.1 * 3 * 4 = 1.2
    first, second = deep_dgd.step_explicit(weights, one(1.0), one(4.0), **arguments)
    assert first.item() == pytest.approx(-0.1, abs=1e-12)
    assert second.item() == pytest.approx(-0.3, abs=1e-12)


def test_losses_by_hand() -> None:
    output, value = one(3.0, -1.0), one(1.0, 1.0)
    assert hebbian.loss(output, value).item() == -2.0
    assert lp.surprise(output, value, p=1.0).tolist() == [[[1.0, -1.0]]]
