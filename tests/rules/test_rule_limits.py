"""Limits and laws: what every rule becomes at the ends of its ranges, and properties for all inputs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nestling.errors import InputError, ShapeError, UnknownNameError
from nestling.rules import RULES, attention, deep, deep_dgd, deep_table, delta, dgd, huber, lp, momentum, omega
from nestling.rules.losses import huber_loss, lp_loss

Draw = Callable[..., SimpleNamespace]
MATRIX_RULES = [rule.name for rule in RULES.values() if rule.state_kind == "matrix"]


@pytest.mark.parametrize("name", MATRIX_RULES)
def test_eta_zero_is_pure_decay(name: str, draw: Draw) -> None:
    x = draw(0)
    ours = RULES[name].step(x.state, x.key, x.value, eta=torch.zeros_like(x.eta), alpha=x.alpha)
    torch.testing.assert_close(ours, x.alpha[..., None, None] * x.state, rtol=0, atol=0)


@pytest.mark.parametrize("name", MATRIX_RULES)
def test_eta_zero_and_alpha_one_change_nothing_bit_for_bit(name: str, draw: Draw) -> None:
    x = draw(1)
    zero, one = torch.zeros_like(x.eta), torch.ones_like(x.alpha)
    assert torch.equal(RULES[name].step(x.state, x.key, x.value, eta=zero, alpha=one), x.state)


@pytest.mark.parametrize("step", [deep.step, deep_dgd.step_explicit, deep_dgd.step_implicit])
def test_eta_zero_is_pure_decay_of_a_deep_memory(step: Callable, draw: Draw) -> None:
    x = draw(2)
    ours = step(x.weights, x.key, x.target, eta=torch.zeros_like(x.eta), alpha=x.alpha)
    for new, old in zip(ours, x.weights):
        torch.testing.assert_close(new, x.alpha[..., None, None] * old, rtol=0, atol=0)


def test_alpha_one_makes_delta_and_gated_delta_alike(draw: Draw) -> None:
    x = draw(3)
    rates = {"eta": x.eta, "alpha": torch.ones_like(x.alpha)}
    ours = RULES["gated_delta"].step(x.state, x.key, x.value, **rates)
    torch.testing.assert_close(ours, delta.step(x.state, x.key, x.value, **rates), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["hebbian", "delta", "oja", "lp", "huber"])
def test_momentum_zero_is_the_plain_rule(name: str, draw: Draw) -> None:
    x, rule = draw(4), RULES[name]
    state = momentum.Accumulated(memory=x.state, surprise=x.surprise)
    rates = {"eta": x.eta, "alpha": x.alpha}
    zero = torch.zeros_like(x.eta)
    ours = momentum.step(state, x.key, x.value, momentum=zero, gradient=rule.gradient, **rates)
    torch.testing.assert_close(ours.memory, rule.step(x.state, x.key, x.value, **rates), rtol=0, atol=1e-12)


def test_momentum_zero_is_the_plain_deep_rule(draw: Draw) -> None:
    x = draw(5)
    state = deep.Accumulated(memory=x.weights, surprise=x.weights)
    rates = {"eta": x.eta, "alpha": x.alpha}
    ours = deep.step_momentum(state, x.key, x.target, momentum=torch.zeros_like(x.eta), **rates).memory
    for new, plain in zip(ours, deep.step(x.weights, x.key, x.target, **rates)):
        torch.testing.assert_close(new, plain, rtol=0, atol=1e-12)


def test_window_one_is_the_delta_rule(draw: Draw) -> None:
    x = draw(6)
    rates = {"eta": x.eta, "alpha": x.alpha}
    ones = torch.ones_like(x.eta).unsqueeze(-1)
    ours = omega.step(x.state, x.key.unsqueeze(2), x.value.unsqueeze(2), gamma=ones, **rates)
    torch.testing.assert_close(ours, delta.step(x.state, x.key, x.value, **rates), rtol=0, atol=1e-12)


def test_a_window_not_yet_full_counts_only_its_pairs(draw: Draw) -> None:
    x = draw(7)
    window = omega.empty_window(2, 3, 4, 5, length=4, dtype=torch.float64)
    for t in range(2):
        window = omega.push(window, x.keys[:, :, t], x.values[:, :, t])
    rates = {"eta": x.eta, "alpha": x.alpha}
    ours = omega.step(x.state, *window, gamma=x.gamma, **rates)
    short = omega.step(x.state, x.keys[:, :, :2], x.values[:, :, :2], gamma=x.gamma[..., 2:], **rates)
    torch.testing.assert_close(ours, short, rtol=0, atol=1e-12)


def test_a_full_window_drops_the_oldest(draw: Draw) -> None:
    x = draw(8)
    window = omega.empty_window(2, 3, 4, 5, length=2, dtype=torch.float64)
    for t in range(4):
        window = omega.push(window, x.keys[:, :, t], x.values[:, :, t])
    assert torch.equal(window.key, x.keys[:, :, 2:])
    assert torch.equal(window.value, x.values[:, :, 2:])


def test_p_two_is_the_delta_rule_with_twice_the_rate(draw: Draw) -> None:
    x = draw(9)
    ours = lp.step(x.state, x.key, x.value, eta=x.eta, alpha=x.alpha, p=2.0)
    twice = delta.step(x.state, x.key, x.value, eta=2 * x.eta, alpha=x.alpha)
    torch.testing.assert_close(ours, twice, rtol=0, atol=1e-12)


def test_an_infinite_threshold_is_the_delta_rule(draw: Draw) -> None:
    x = draw(10)
    rates = {"eta": x.eta, "alpha": x.alpha}
    ours = huber.step(x.state, x.key, x.value, threshold=float("inf"), **rates)
    assert torch.equal(ours, delta.step(x.state, x.key, x.value, **rates))


def test_explicit_dgd_with_the_hebbian_gradient_is_the_delta_rule(draw: Draw) -> None:
    x = draw(11)
    rates = {"eta": x.eta, "alpha": x.alpha}
    ours = dgd.step_explicit(x.state, x.key, x.value, gradient=RULES["hebbian"].gradient, **rates)
    torch.testing.assert_close(ours, delta.step(x.state, x.key, x.value, **rates), rtol=0, atol=1e-12)


def test_implicit_dgd_with_the_hebbian_gradient_has_the_value_as_target(draw: Draw) -> None:
    x = draw(12)
    rates = {"eta": x.eta, "alpha": x.alpha}
    ours = dgd.step_implicit(x.state, x.key, x.value, gradient=RULES["hebbian"].gradient, **rates)
    torch.testing.assert_close(ours, dgd.step(x.state, x.key, x.value, **rates), rtol=0, atol=1e-12)


def test_implicit_dgd_is_gated_delta_with_the_implicit_rate(draw: Draw) -> None:
    """NL eq. 57: for keys of norm 1, eta' = eta / (1 + eta)."""
    x = draw(13)
    key = torch.nn.functional.normalize(x.key, dim=-1)
    ours = dgd.step(x.state, key, x.value, eta=x.eta, alpha=x.alpha)
    same = RULES["gated_delta"].step(x.state, key, x.value, eta=x.eta / (1 + x.eta), alpha=x.alpha)
    torch.testing.assert_close(ours, same, rtol=0, atol=1e-12)


norms = st.floats(min_value=-6, max_value=6).map(lambda power: 10.0**power)


@settings(max_examples=100, deadline=None)
@given(eta=norms, norm=norms, alpha=st.floats(0, 1), seed=st.integers(0, 2**31 - 1))
def test_implicit_dgd_is_a_contraction_along_the_key(eta: float, norm: float, alpha: float, seed: int) -> None:
    """With value 0 the answer to k shrinks by exactly alpha / (1 + eta |k|^2) for every eta > 0 and every norm; the L2
    form by alpha (1 - eta |k|^2) / (1 + eta |k|^2); directions orthogonal to k only decay."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(1, 1, 3, 4, generator=generator, dtype=torch.float64)
    key = torch.randn(1, 1, 4, generator=generator, dtype=torch.float64)
    unit = key / key.norm()
    rates = {
        "eta": torch.full((1, 1), eta, dtype=torch.float64),
        "alpha": torch.full((1, 1), alpha, dtype=torch.float64),
    }
    value = torch.zeros(1, 1, 3, dtype=torch.float64)
    load = rates["eta"].item() * norm**2
    before = state @ unit.unsqueeze(-1)
    other = torch.tensor([[[1.0, -1.0, 2.0, 0.5]]], dtype=torch.float64)
    other = other - (other * unit).sum() * unit
    for step, factor in ((dgd.step, 1 / (1 + load)), (dgd.step_implicit, (1 - load) / (1 + load))):
        after = step(state, norm * unit, value, **rates)
        scale = before.abs().max()
        assert (after @ unit.unsqueeze(-1) - alpha * factor * before).abs().max() <= 1e-9 * scale
        assert (after @ unit.unsqueeze(-1)).norm() <= before.norm() * (1 + 1e-9)
        kept = (after - alpha * state) @ other.unsqueeze(-1)
        assert kept.abs().max() <= 1e-9 * state.abs().max()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), steps=st.integers(1, 12), forgetting=st.floats(0.5, 1.0))
def test_least_squares_is_the_weighted_batch_solution(seed: int, steps: int, forgetting: float) -> None:
    """eta is the weight of a pair, alpha the forgetting; the ridge fades with the past."""
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(steps, 4, generator=generator, dtype=torch.float64)
    values = torch.randn(steps, 3, generator=generator, dtype=torch.float64)
    eta = 0.1 + 2 * torch.rand(steps, generator=generator, dtype=torch.float64)
    rule, ones = RULES["least_squares"], torch.ones(1, 1, dtype=torch.float64)
    state = rule.initial(1, 1, 3, 4, dtype=torch.float64)
    for key, value, rate in zip(keys, values, eta):
        state = rule.write(state, key[None, None], value[None, None], eta=rate * ones, alpha=forgetting * ones)
    weight = eta * forgetting ** torch.arange(steps - 1, -1, -1, dtype=torch.float64)
    gram = (weight[:, None] * keys).T @ keys + 1e-2 * forgetting**steps * torch.eye(4, dtype=torch.float64)
    batch = torch.linalg.solve(gram, (weight[:, None] * keys).T @ values).T
    # with few keys the problem is badly conditioned: rounding grows with the condition number, squared at worst
    tolerance = 1e-13 * torch.linalg.cond(gram).item() ** 2 + 1e-10
    assert (state.memory[0, 0] - batch).abs().max() < tolerance * max(1.0, batch.abs().max().item())


def test_least_squares_with_weight_zero_keeps_its_memory(draw: Draw) -> None:
    x, rule = draw(19), RULES["least_squares"]
    ones = torch.ones_like(x.eta)
    state = rule.write(rule.initial(2, 3, 4, 5, dtype=torch.float64), x.key, x.value, eta=x.eta, alpha=ones)
    after = rule.write(state, x.query, x.value, eta=torch.zeros_like(x.eta), alpha=ones)
    assert torch.equal(after.memory, state.memory)
    assert torch.equal(after.inverse, state.inverse)


def test_least_squares_forgets_per_row_and_head(draw: Draw) -> None:
    """Every row and head has its own alpha: the same as alone."""
    x, rule = draw(20), RULES["least_squares"]
    state = rule.initial(2, 3, 4, 5, dtype=torch.float64)
    alone = rule.initial(1, 1, 4, 5, dtype=torch.float64)
    for t in range(4):
        state = rule.write(state, x.keys[:, :, t], x.values[:, :, t], eta=x.eta, alpha=x.alpha)
        part = (slice(1, 2), slice(2, 3))
        rates = {"eta": x.eta[part], "alpha": x.alpha[part]}
        alone = rule.write(alone, x.keys[:, :, t][part], x.values[:, :, t][part], **rates)
    torch.testing.assert_close(state.memory[1:, 2:], alone.memory, rtol=0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(sorted(RULES)),
    seed=st.integers(0, 2**31 - 1),
    scale=st.sampled_from([1e-6, 1.0, 1e3]),
)
def test_row_isolation_for_any_input(name: str, seed: int, scale: float) -> None:
    """Row 1 of a batch of two is the same alone, whatever stands in row 0."""
    generator = torch.Generator().manual_seed(seed)
    key, value = (torch.randn(2, 2, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    key[0] *= scale
    value[0] *= scale
    rates = {rate: torch.rand(2, 2, generator=generator, dtype=torch.float64) for rate in ("eta", "alpha")}
    rates["alpha"] = 0.5 + 0.5 * rates["alpha"]
    rule = RULES[name]
    both, alone = (rule.initial(rows, 2, 4, 4, dtype=torch.float64) for rows in (2, 1))
    for _ in range(2):
        both = rule.write(both, key, value, **rates)
        alone = rule.write(alone, key[1:], value[1:], **{rate: part[1:] for rate, part in rates.items()})
    torch.testing.assert_close(rule.read(both, key)[1:], rule.read(alone, key[1:]), rtol=1e-12, atol=1e-12)


def sdpa_inputs(time: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(time)
    return tuple(torch.randn(2, 3, time, width, generator=generator, dtype=torch.float64) for width in (5, 5, 4))


@pytest.mark.parametrize("time", [1, 2, 15, 16, 17, 39])
@pytest.mark.parametrize("window", [None, 1, 2, 16])
def test_appends_and_reads_are_causal_attention(time: int, window: int | None) -> None:
    query, key, value = sdpa_inputs(time)
    pairs = attention.empty(2, 3, 4, 5, dtype=torch.float64)
    answers = []
    for t in range(time):
        pairs = attention.step(pairs, key[:, :, t], value[:, :, t], window=window)
        answers.append(attention.read(pairs, query[:, :, t]))
    age = torch.arange(time)[:, None] - torch.arange(time)
    mask = (age >= 0) & (age < (window or time))
    truth = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    assert (torch.stack(answers, dim=2) - truth).abs().max() < 1e-12


def test_an_empty_attention_memory_answers_zero() -> None:
    pairs = attention.empty(1, 1, 4, 5)
    assert torch.equal(attention.read(pairs, torch.ones(1, 1, 5)), torch.zeros(1, 1, 4))


def test_a_fresh_deep_memory_answers_its_input(draw: Draw) -> None:
    x = draw(14)
    weights = deep_table.initial(2, 3, 5, 5, dtype=torch.float64)
    assert torch.equal(deep.read(weights, x.query), x.query)


def test_hyperparameters_out_of_range_are_refused(draw: Draw) -> None:
    x = draw(15)
    rates = {"eta": x.eta, "alpha": x.alpha}
    with pytest.raises(InputError, match=r"p: expected a number >= 1, got 0\.5"):
        lp.step(x.state, x.key, x.value, p=0.5, **rates)
    with pytest.raises(InputError, match="p: expected"):
        lp_loss(float("nan"))
    with pytest.raises(InputError, match="p: expected"):
        lp.with_power(0.0)
    with pytest.raises(InputError, match="threshold: expected a number > 0, got 0"):
        huber.step(x.state, x.key, x.value, threshold=0.0, **rates)
    with pytest.raises(InputError, match="threshold: expected"):
        huber_loss(-1.0)
    with pytest.raises(InputError, match="threshold: expected"):
        huber.with_threshold(-1.0)
    with pytest.raises(InputError, match="window: expected None or a number >= 1, got 0"):
        attention.step(attention.empty(2, 3, 4, 5, dtype=torch.float64), x.key, x.value, window=0)


def test_fixed_hyperparameters_wrap_a_gradient(draw: Draw) -> None:
    x = draw(16)
    rates = {"eta": x.eta, "alpha": x.alpha}
    for gradient, plain in (
        (lp.with_power(1.5), lp.gradient(x.state, x.key, x.value, p=1.5)),
        (huber.with_threshold(0.2), huber.gradient(x.state, x.key, x.value, threshold=0.2)),
    ):
        assert torch.equal(gradient(x.state, x.key, x.value), plain)
        ours = dgd.step_explicit(x.state, x.key, x.value, gradient=gradient, **rates)
        assert torch.isfinite(ours).all()


def test_bad_deep_states_are_named(draw: Draw) -> None:
    x = draw(17)
    first, second, third = x.weights
    with pytest.raises(
        ShapeError, match=r"state\[1\]: expected \[B, H, out, in\] = \[2, 3, 6, 7\], got \[2, 3, 6, 5\]"
    ):
        deep.read((first, second[..., :5], third), x.query)
    with pytest.raises(ShapeError, match="at least one weight"):
        deep.read((), x.query)
    with pytest.raises(ShapeError, match=r"state\[0\]: expected 4 axes"):
        deep.read((first[0],), x.query)
    with pytest.raises(ShapeError, match="value_width: expected 5, the key width, got 4"):
        deep_table.initial(2, 3, 4, 5)
    with pytest.raises(UnknownNameError, match="did you mean 'relu'"):
        deep.read(x.weights, x.query, activation="rel")


def test_numbers_instead_of_tensors_are_refused(draw: Draw) -> None:
    x = draw(18)
    with pytest.raises(ShapeError, match=r"eta: expected a tensor \[B, H\] = \[2, 3\], got float"):
        delta.step(x.state, x.key, x.value, eta=0.1, alpha=x.alpha)
    with pytest.raises(ShapeError, match=r"key: expected 3 axes \[B, H, K\] = \[2, 3, 5\], got shape \[2, 5\]"):
        delta.step(x.state, x.key[:, 0], x.value, eta=x.eta, alpha=x.alpha)
