"""Counting is least squares on one-hot keys: against the dense solution, by hand, and the exact laws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import one_hot

from nestling.errors import CheckpointError, InputError, ShapeError
from nestling.memory.context_counts import context_codes, ridge_solution, window_counts
from nestling.memory.count_memory import CountMemory

SYMBOLS = 3


def _text(seed: int, rows: int = 4, length: int = 15) -> tuple[Tensor, Tensor]:
    text = torch.randint(SYMBOLS, (rows, length + 1), generator=torch.Generator().manual_seed(seed))
    return text[:, :-1], text[:, 1:]


def _memory(*texts: tuple[Tensor, Tensor], ridge: float = 0.7, orders: tuple[int, ...] = (1, 2, 3)) -> CountMemory:
    memory = CountMemory(orders=orders, ridge=ridge, vocabulary=SYMBOLS)
    for inputs, targets in texts:
        memory.write(inputs, targets)
    return memory


def _same(one: CountMemory, other: CountMemory) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _dense_level(inputs: Tensor, targets: Tensor, order: int, prior: Tensor, ridge: float) -> Tensor:
    """argmin_M sum_i |M k_i - v_i|^2 + sum_k r_k |M k - prior_k|^2 by its normal equations; [keys, symbols]."""
    codes, valid = context_codes(inputs, order, SYMBOLS)
    keys = one_hot(codes[valid], SYMBOLS**order).double()
    values = one_hot(targets[valid], SYMBOLS).double()
    strength = ridge * ((keys.T @ values) > 0).sum(1).double()
    strength[strength == 0] = 1.0  # an unseen key: any positive ridge answers with the prior
    return torch.linalg.solve(keys.T @ keys + strength.diag(), keys.T @ values + strength[:, None] * prior)


def test_answer_is_the_dense_ridge_least_squares_solution() -> None:
    inputs, targets = _text(0)
    memory = _memory((inputs, targets), orders=(1, 2))
    base = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    first = _dense_level(inputs, targets, 1, base.expand(SYMBOLS, -1), 0.7)
    second = _dense_level(inputs, targets, 2, first[torch.arange(SYMBOLS**2) % SYMBOLS], 0.7)
    query, _ = _text(1)
    answer = memory.log_probs(query, base.log().expand(*query.shape, -1)).exp()
    codes, _ = context_codes(query, 2, SYMBOLS)
    torch.testing.assert_close(answer[:, 1:], second[codes[:, 1:]], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(answer[:, 0], first[query[:, 0]], rtol=1e-12, atol=1e-12)


def test_ridge_solution_is_where_the_gradient_of_the_objective_vanishes() -> None:
    counts = torch.tensor([4.0, 0.0, 1.0], dtype=torch.float64)
    prior = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    answer = ridge_solution(counts, prior, ridge=1.5).requires_grad_()
    values = torch.eye(3, dtype=torch.float64)
    objective = (counts * ((answer - values) ** 2).sum(1)).sum() + 1.5 * 2 * ((answer - prior) ** 2).sum()
    (gradient,) = torch.autograd.grad(objective, answer)
    torch.testing.assert_close(gradient, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


def test_by_hand() -> None:
    """Text 0 1 0 1 0 2: after 0 came 1, 1, 2; r = 0.5 * 2 distinct = 1; prior 1/3 each."""
    memory = CountMemory(orders=(1,), ridge=0.5, vocabulary=SYMBOLS)
    memory.write(torch.tensor([[0, 1, 0, 1, 0]]), torch.tensor([[1, 0, 1, 0, 2]]))
    after_zero = memory.log_probs(torch.tensor([[0]]))[0, 0].exp()
    torch.testing.assert_close(after_zero, torch.tensor([1 / 12, 7 / 12, 4 / 12]))
    unseen = memory.log_probs(torch.tensor([[2]]))[0, 0].exp()
    torch.testing.assert_close(unseen, torch.full((3,), 1 / 3))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_order_merge_and_unlearning_are_exact(seeds: list[int], random: object) -> None:
    texts = [_text(seed) for seed in seeds]
    whole = _memory(*texts)
    shuffled = list(texts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert _same(whole, _memory(*shuffled))
    left, right = _memory(*texts[:2]), _memory(*texts[2:])
    left.merge(right)
    assert _same(left, whole)
    extra = _text(-1 if not seeds else seeds[0] + 77_777)
    whole.write(*extra)
    whole.unlearn(*extra)
    assert _same(whole, _memory(*texts))
    query, _ = _text(5)
    assert torch.equal(whole.log_probs(query), _memory(*texts).log_probs(query))


def test_unlearning_what_was_not_written_changes_nothing() -> None:
    memory = _memory(_text(0))
    with pytest.raises(InputError, match="nothing was changed"):
        memory.unlearn(*_text(1))
    assert _same(memory, _memory(_text(0)))


@pytest.mark.parametrize("weight", [0.0, 2.5])
def test_answers_are_normalised_causal_and_independent_of_the_rows_at_once(weight: float) -> None:
    memory = _memory(_text(0))
    query, _ = _text(1, rows=5)
    answer = memory.log_probs(query, window_weight=weight)
    torch.testing.assert_close(answer.exp().sum(-1), torch.ones(5, 15))
    changed = query.clone()
    changed[:, 9] = (changed[:, 9] + 1) % SYMBOLS
    after = memory.log_probs(changed, window_weight=weight)
    assert torch.equal(answer[:, :9], after[:, :9])
    assert not torch.equal(answer[:, 9], after[:, 9])
    assert torch.equal(answer, memory.log_probs(query, window_weight=weight, rows=2))


def test_an_empty_memory_answers_with_its_base() -> None:
    base = torch.randn(2, 6, SYMBOLS, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    query, _ = _text(0, rows=2, length=6)
    torch.testing.assert_close(_memory().log_probs(query, base), base)


def test_window_counts_against_a_loop() -> None:
    inputs, _ = _text(3, rows=2, length=12)
    for order, counts in zip((1, 3), window_counts(inputs, (1, 3), SYMBOLS)):
        expected = torch.zeros_like(counts)
        for n in range(2):
            row = inputs[n].tolist()
            for t in range(12):
                for j in range(order - 1, t):
                    if t >= order - 1 and row[j - order + 1 : j + 1] == row[t - order + 1 : t + 1]:
                        expected[n, t, row[j + 1]] += 1
        assert torch.equal(counts, expected)
        assert expected.sum() > 0


def test_the_window_is_the_fast_level_of_the_same_rule() -> None:
    """Weight 1 at the last position = having written the window up to there."""
    inputs, targets = _text(4, rows=1)
    slow = _memory(_text(0))
    answer = slow.log_probs(inputs, window_weight=1.0)[:, -1]
    slow.write(inputs[:, :-1], targets[:, :-1])
    torch.testing.assert_close(answer, slow.log_probs(inputs)[:, -1])


def test_save_and_load_goes_on_bit_for_bit() -> None:
    memory = _memory(_text(0), _text(1))
    loaded = _memory()
    loaded.load_state_dict(memory.state_dict())
    loaded.write(*_text(2))
    memory.write(*_text(2))
    assert _same(loaded, memory)
    assert memory.state_dict()["counts_1"].dtype == torch.int32
    with pytest.raises(CheckpointError, match="orders"):
        _memory(orders=(1, 2)).load_state_dict(memory.state_dict())


def test_samples_follow_what_was_written() -> None:
    """After 0 always 1 or 2 with counts 30 : 10, after 1 and 2 always 0: r = 0.01 * distinct hardly matters."""
    sequence = torch.tensor([[0, 1, 0, 1, 0, 1, 0, 2] * 10 + [0]])
    memory = CountMemory(orders=(1,), ridge=0.01, vocabulary=SYMBOLS)
    memory.write(sequence[:, :-1], sequence[:, 1:])
    drawn = memory.sample(400, 11, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (400, 11)
    pairs = torch.zeros(SYMBOLS, SYMBOLS)
    pairs.index_put_((drawn[:, :-1].flatten(), drawn[:, 1:].flatten()), torch.ones(4000), accumulate=True)
    frequency = pairs / pairs.sum(1, keepdim=True)
    assert float(frequency[0, 1]) == pytest.approx(0.75, abs=0.03)
    assert float(frequency[1, 0]) > 0.99
    assert torch.equal(drawn, memory.sample(400, 11, generator=torch.Generator().manual_seed(0)))


def test_samples_from_windows_shorter_than_the_highest_order() -> None:
    memory = CountMemory(orders=(1, 4), ridge=1e-6, vocabulary=SYMBOLS)
    memory.write(torch.tensor([[0, 1]]), torch.tensor([[1, 2]]))
    memory.write(torch.tensor([[2, 0]]), torch.tensor([[0, 1]]))
    drawn = memory.sample(20, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn[:, 1:], (drawn[:, :-1] + 1) % SYMBOLS)  # the only cycle there is: 0 1 2 0 1 2


def test_longest_keys_of_bytes_are_exact() -> None:
    """Order 6 over 256 symbols reaches 2^56: contexts that differ in the first byte only must not meet."""
    memory = CountMemory(orders=(6,), ridge=1.0)
    text = torch.tensor([[255, 255, 255, 255, 255, 255], [254, 255, 255, 255, 255, 255]])
    following = torch.tensor([[255] * 5 + [1], [255] * 5 + [2]])
    memory.write(text, following)
    answer = memory.log_probs(text)[:, -1].exp()
    torch.testing.assert_close(answer[0, 1], torch.tensor(0.5 + 0.5 / 256))
    torch.testing.assert_close(answer[1, 1], torch.tensor(0.5 / 256))


def test_errors_say_what_was_expected() -> None:
    for options in ({"orders": ()}, {"orders": (2, 1)}, {"orders": (0,)}, {"orders": (7,)}, {"ridge": 0.0}):
        with pytest.raises(InputError):
            CountMemory(**options)  # type: ignore[arg-type]
    memory = _memory()
    with pytest.raises(InputError, match=r"0\.\.2"):
        memory.write(torch.tensor([[3]]), torch.tensor([[0]]))
    with pytest.raises(ShapeError, match="int64"):
        memory.write(torch.tensor([0]), torch.tensor([0]))
    with pytest.raises(ShapeError, match="base_log_probs"):
        memory.log_probs(torch.tensor([[0]]), torch.zeros(1, 2, SYMBOLS))
    with pytest.raises(InputError, match="to merge"):
        memory.merge(_memory(orders=(1,)))
    with pytest.raises(InputError, match="nothing was written"):
        memory.sample(1, 4, generator=torch.Generator())
    assert math.isfinite(float(memory.log_probs(torch.tensor([[0]])).sum()))
