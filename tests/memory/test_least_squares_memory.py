"""The laws of the least-squares memory: order, merge and unlearning, each to 1e-9 in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nestling.errors import InputError, ShapeError
from nestling.memory.context_gate import ContextGate
from nestling.memory.cosine_features import CosineFeatures, orthogonal_directions
from nestling.memory.least_squares import LeastSquaresMemory, ValidatedMemory
from nestling.memory.relu_features import ReluFeatures
from nestling.rules import least_squares

RIDGE = 1e-3


def draw(seed, count=40, key_width=7, value_width=3):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(count, key_width, generator=generator, dtype=torch.float64)
    return keys, torch.randn(count, value_width, generator=generator, dtype=torch.float64)


def memory_of(*parts):
    memory = LeastSquaresMemory(key_width=parts[0][0].shape[1], value_width=parts[0][1].shape[1])
    for keys, values in parts:
        memory.write(keys, values)
    return memory


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), shuffle=st.integers(0, 10_000), cut=st.integers(1, 39))
def test_the_order_of_the_data_does_not_matter(seed, shuffle, cut):
    keys, values = draw(seed)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(shuffle))
    at_once = memory_of((keys, values)).solve(RIDGE)
    in_parts = memory_of((keys[order[:cut]], values[order[:cut]]), (keys[order[cut:]], values[order[cut:]]))
    assert relative(in_parts.solve(RIDGE), at_once) < 1e-9


@settings(max_examples=30, deadline=None)
@given(first=st.integers(0, 10_000), second=st.integers(0, 10_000))
def test_a_merge_of_two_memories_equals_learning_both(first, second):
    one, other = draw(first), draw(second, count=25)
    merged = memory_of(one)
    merged.merge(memory_of(other))
    assert relative(merged.solve(RIDGE), memory_of(one, other).solve(RIDGE)) < 1e-9
    assert merged.num_pairs == 65


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), place=st.integers(0, 39))
def test_an_unlearned_example_was_never_seen(seed, place):
    keys, values = draw(seed)
    rest = torch.arange(40) != place
    memory = memory_of((keys, values))
    memory.unlearn(keys[place : place + 1], values[place : place + 1])
    assert relative(memory.solve(RIDGE), memory_of((keys[rest], values[rest])).solve(RIDGE)) < 1e-9


def test_the_sums_solve_to_the_recursion_of_the_rule():
    keys, values = draw(3)
    memory = memory_of((keys, values))
    ridge = 0.37
    state, inverse = torch.zeros(3, 7, dtype=torch.float64), torch.eye(7, dtype=torch.float64) / ridge
    for key, value in zip(keys, values, strict=True):
        state, inverse = least_squares.step(state, inverse, key, value)
    assert relative(memory.solve(ridge / float(memory.gram.diagonal().mean())), state) < 1e-9


def test_each_memory_of_the_recursion_has_its_own_forgetting():
    keys, values = draw(3)
    state, inverse = torch.zeros(2, 3, 7, dtype=torch.float64), torch.eye(7, dtype=torch.float64).repeat(2, 1, 1) / 0.5
    forgetting = torch.tensor([1.0, 0.9], dtype=torch.float64)
    for key, value in zip(keys, values, strict=True):
        state, inverse = least_squares.step(state, inverse, key.expand(2, 7), value.expand(2, 3), forgetting=forgetting)
    for memory, factor in zip(state, forgetting.tolist(), strict=True):
        memory = memory.clone().requires_grad_()
        objective = least_squares.objective(memory, keys, values, ridge=0.5, forgetting=factor)
        (gradient,) = torch.autograd.grad(objective, memory)
        assert gradient.abs().max() < 1e-9
    with pytest.raises(ShapeError, match="inverse"):
        least_squares.step(state, inverse[..., :6, :6], keys[0].expand(2, 7), values[0].expand(2, 3))


def test_the_memory_is_the_minimum_of_its_objective():
    keys, values = draw(4)
    memory = memory_of((keys, values))
    solution = memory.solve(RIDGE).requires_grad_()
    ridge = RIDGE * float(memory.gram.diagonal().mean())
    (gradient,) = torch.autograd.grad(least_squares.objective(solution, keys, values, ridge=ridge), solution)
    assert gradient.abs().max() < 1e-10


def test_held_out_sums_give_the_error_on_the_held_out_pairs():
    keys, values = draw(5)
    apart = torch.arange(40) % 4 == 0
    memory = ValidatedMemory(key_width=7, value_width=3)
    memory.write(keys, values, held_out=apart)
    trained = memory_of((keys[~apart], values[~apart])).solve(RIDGE)
    error = (keys[apart] @ trained.T - values[apart]).square().sum() / values[apart].square().sum()
    assert memory.solve_without_held_out(RIDGE).error == pytest.approx(float(error), rel=1e-9)
    best = memory.choose_ridge()
    assert best.error <= memory.solve_without_held_out(best.ridge * 10).error + 1e-12
    assert best.error <= memory.solve_without_held_out(best.ridge / 10).error + 1e-12
    assert relative(memory.solve(RIDGE), memory_of((keys, values)).solve(RIDGE)) < 1e-9


@pytest.mark.parametrize("ridge", [1e-4, 1e-2, 1.0])
def test_cross_validation_from_sums_is_that_of_the_pairs(ridge):
    keys, values = draw(12)
    memory = memory_of((keys, values))
    strength = ridge * memory.gram.diagonal().mean()
    hat = keys @ torch.linalg.solve(keys.T @ keys + strength * torch.eye(7, dtype=torch.float64), keys.T)
    residual = (values - hat @ values).square().sum() / values.square().sum()
    expected = residual / (1 - hat.trace() / 40) ** 2
    solution = memory.solve_validated(ridge)
    assert solution.error == pytest.approx(float(expected), rel=1e-9)
    assert relative(solution.memory, memory.solve(ridge)) < 1e-12


def test_probes_estimate_the_trace_of_wide_keys():
    keys, values = draw(13, count=300, key_width=200)
    memory = memory_of((keys, values))
    strength = 0.1 * memory.gram.diagonal().mean()
    hat = keys @ torch.linalg.solve(keys.T @ keys + strength * torch.eye(200, dtype=torch.float64), keys.T)
    expected = (values - hat @ values).square().sum() / values.square().sum() / (1 - hat.trace() / 300) ** 2
    assert memory.solve_validated(0.1).error == pytest.approx(float(expected), rel=0.03)


def test_noise_asks_for_more_ridge():
    keys, _ = draw(14)
    truth = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = draw(15)[1]
    clean, noisy = memory_of((keys, keys @ truth)), memory_of((keys, 0.1 * keys @ truth + noise))
    assert clean.solve_best().ridge < 1e-4 < 1e-2 < noisy.solve_best().ridge


def test_decay_is_exponential_forgetting():
    old, new = draw(6), draw(7)
    memory = memory_of(old)
    memory.decay(0.5)
    memory.write(*new)
    weighted = memory_of((old[0] * 0.5**0.5, old[1] * 0.5**0.5), new)
    assert relative(memory.solve(RIDGE), weighted.solve(RIDGE)) < 1e-9


def test_wrong_widths_are_refused():
    memory = LeastSquaresMemory(key_width=7, value_width=3)
    with pytest.raises(ShapeError, match="expected keys"):
        memory.write(torch.zeros(4, 6), torch.zeros(4, 3))
    with pytest.raises(ShapeError, match="merge"):
        memory.merge(LeastSquaresMemory(key_width=7, value_width=2))


def test_cosine_keys_approximate_the_gaussian_kernel():
    inputs = draw(8, count=30)[0].float()
    features = CosineFeatures(num_inputs=7, num_features=60_000, bandwidths=(1.0,), seed=0)
    features.fit(inputs)
    assert torch.allclose(features(inputs)[:, 1:8], inputs / features.length)
    cosines = features(inputs)[:, 8:]
    distance = torch.cdist(inputs, inputs) / features.length
    assert torch.allclose(cosines @ cosines.T, torch.exp(-0.5 * distance**2), atol=0.03)


def test_directions_are_orthogonal_in_blocks_and_gaussian_in_length():
    weight = orthogonal_directions(7, 7000, torch.Generator().manual_seed(0))
    products = weight[:, :7].T @ weight[:, :7]
    assert torch.allclose(products, products.diagonal().diag(), atol=1e-4)
    assert weight.square().mean() == pytest.approx(1.0, abs=0.03)
    assert weight.mean() == pytest.approx(0.0, abs=0.03)
    assert orthogonal_directions(7, 3, torch.Generator().manual_seed(0)).shape == (7, 3)


def test_keys_stay_what_they_were_when_later_data_differ():
    first, later = draw(9)[0].float(), 100 * draw(10)[0].float()
    features = CosineFeatures(num_inputs=7, num_features=64, bandwidths=(0.5, 1.0), seed=0)
    features.fit(first)
    before = features(first)
    features.fit(later)
    assert torch.equal(features(first), before)


def test_inputs_that_are_all_equal_are_refused():
    with pytest.raises(InputError, match="equal"):
        CosineFeatures(num_inputs=2, num_features=4, bandwidths=(1.0,), seed=0).fit(torch.ones(5, 2))


def test_relu_keys_are_straight_lines_far_away():
    features = ReluFeatures(num_inputs=7, num_features=50, seed=0)
    inputs = draw(11)[0].float()
    features.fit(inputs)
    direction = torch.ones(1, 7)
    near, middle, far = (features(1e5 * step * direction) for step in (1, 2, 3))
    assert torch.allclose(far - middle, middle - near, rtol=1e-3, atol=1e-2)


def test_the_gate_finds_contexts_in_any_order():
    apart = [draw(seed)[0].float() + 4 * torch.eye(7)[seed] for seed in range(3)]
    answers = []
    for order in ((0, 1, 2), (0, 2, 1)):
        gate = ContextGate(num_inputs=7, num_features=300, seed=0)
        for place, context in enumerate(order):
            gate.write(apart[context], place)
        answers.append([order[int(gate(apart[context]).mode().values)] for context in range(3)])
    assert answers == [[0, 1, 2], [0, 1, 2]]
