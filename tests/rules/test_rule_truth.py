"""Truth: one step in float64 equals an explicit step, or the exact minimum, of the objective the rule states.

Every derivative on the right-hand side is autograd's or a numerical solution; none is the rule's own.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from nestling.rules import RULES, attention, deep, deep_dgd, delta, dgd, hebbian, huber, least_squares, lp, oja, omega
from nestling.rules import gated_delta as gated
from nestling.rules import momentum as momentum_rule
from nestling.rules.losses import DOT_PRODUCT, L2, LOSSES, huber_loss, lp_loss

TOLERANCE = 1e-10
Pair = tuple[Tensor, Tensor]


def slope(objective: Callable[[Tensor], Tensor], state: Tensor) -> Tensor:
    """Autograd's gradient of the objective, summed over rows and heads."""
    leaf = state.detach().clone().requires_grad_()
    return torch.autograd.grad(objective(leaf).sum(), leaf)[0]


def wide(rate: Tensor) -> Tensor:
    return rate[..., None, None]


def explicit(module: object, x: SimpleNamespace, **options: float) -> Pair:
    """alpha M - eta grad L(M)."""
    gradient = slope(lambda m: module.objective(m, x.key, x.value, **options), x.state)  # type: ignore[attr-defined]
    ours = module.step(x.state, x.key, x.value, eta=x.eta, alpha=x.alpha, **options)  # type: ignore[attr-defined]
    return ours, wide(x.alpha) * x.state - wide(x.eta) * gradient


def case_gated_delta(x: SimpleNamespace) -> Pair:
    decayed = wide(x.alpha) * x.state
    gradient = slope(lambda m: gated.objective(m, x.key, x.value), decayed)
    return gated.step(x.state, x.key, x.value, eta=x.eta, alpha=x.alpha), decayed - wide(x.eta) * gradient


def case_omega(x: SimpleNamespace) -> Pair:
    gradient = slope(lambda m: omega.objective(m, x.keys, x.values, gamma=x.gamma), x.state)
    ours = omega.step(x.state, x.keys, x.values, gamma=x.gamma, eta=x.eta, alpha=x.alpha)
    return ours, wide(x.alpha) * x.state - wide(x.eta) * gradient


def case_momentum(x: SimpleNamespace) -> Pair:
    state = momentum_rule.Accumulated(memory=x.state, surprise=x.surprise)
    ours = momentum_rule.step(state, x.key, x.value, eta=x.eta, alpha=x.alpha, momentum=x.momentum)
    gradient = slope(lambda m: delta.objective(m, x.key, x.value), x.state)
    surprise = wide(x.momentum) * x.surprise - wide(x.eta) * gradient
    return torch.cat(ours), torch.cat([wide(x.alpha) * x.state + surprise, surprise])


def minimise_quadratic(objective: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The minimum of a quadratic in a [V, K] matrix: Newton's step with autograd's Hessian."""
    size = start.numel()
    gradient = torch.autograd.functional.jacobian(objective, start).reshape(size)
    hessian = torch.autograd.functional.hessian(objective, start).reshape(size, size)
    return start - torch.linalg.solve(hessian, gradient).reshape(start.shape)


def case_dgd(x: SimpleNamespace) -> Pair:
    ours = dgd.step(x.state, x.key, x.value, eta=x.eta, alpha=x.alpha)
    truth = torch.empty_like(ours)
    for row in range(ours.shape[0]):
        for head in range(ours.shape[1]):
            part = (slice(row, row + 1), slice(head, head + 1))

            def objective(m: Tensor, part: tuple[slice, slice] = part) -> Tensor:
                previous = wide(x.alpha[part]) * x.state[part]
                return dgd.objective(
                    m[None, None], x.key[part], x.value[part], previous=previous, eta=x.eta[part]
                ).sum()

            truth[row, head] = minimise_quadratic(objective, torch.zeros_like(x.state[row, head]))
    return ours, truth


def case_dgd_explicit(x: SimpleNamespace) -> Pair:
    gradient = slope(lambda m: delta.objective(m, x.key, x.value), x.state)
    erase = slope(lambda m: 0.5 * (m @ x.key.unsqueeze(-1)).square().sum((-2, -1)), x.state)
    ours = dgd.step_explicit(x.state, x.key, x.value, eta=x.eta, alpha=x.alpha)
    return ours, wide(x.alpha) * x.state - wide(x.eta) * (erase + gradient)


def case_least_squares(x: SimpleNamespace) -> Pair:
    rule, ridge = RULES["least_squares"], 1e-2
    forgetting = 0.8
    state = rule.initial(*x.state.shape, dtype=torch.float64)
    for t in range(x.keys.shape[2]):
        ones = torch.ones_like(x.eta)
        state = rule.write(state, x.keys[:, :, t], x.values[:, :, t], eta=ones, alpha=forgetting * ones)
    at_minimum = slope(
        lambda m: least_squares.objective(m, x.keys, x.values, ridge=ridge, forgetting=forgetting), state.memory
    )
    return at_minimum, torch.zeros_like(at_minimum)


def case_attention(x: SimpleNamespace) -> Pair:
    pairs = attention.Pairs(key=x.keys, value=x.values)
    answer = attention.read(pairs, x.query)
    at_minimum = slope(lambda y: attention.objective(pairs, x.query, y), answer)
    return at_minimum, torch.zeros_like(at_minimum)


def case_sliding_window(x: SimpleNamespace) -> Pair:
    pairs = attention.empty(*x.state.shape, dtype=torch.float64)
    for t in range(x.keys.shape[2]):
        pairs = attention.step(pairs, x.keys[:, :, t], x.values[:, :, t], window=2)
    last = attention.Pairs(key=x.keys[:, :, 2:], value=x.values[:, :, 2:])
    at_minimum = slope(lambda y: attention.objective(last, x.query, y), attention.read(pairs, x.query))
    return at_minimum, torch.zeros_like(at_minimum)


def deep_slopes(x: SimpleNamespace, weights: deep.Weights, **options: object) -> deep.Weights:
    leaves = tuple(weight.clone().requires_grad_() for weight in weights)
    return torch.autograd.grad(deep.objective(leaves, x.key, x.target, **options).sum(), leaves)  # type: ignore[arg-type]


def flat(weights: deep.Weights) -> Tensor:
    return torch.cat([weight.flatten() for weight in weights])


def case_deep(x: SimpleNamespace) -> Pair:
    ours = deep.step(x.weights, x.key, x.target, eta=x.eta, alpha=x.alpha)
    truth = [wide(x.alpha) * w - wide(x.eta) * g for w, g in zip(x.weights, deep_slopes(x, x.weights))]
    return flat(ours), flat(tuple(truth))


def case_deep_momentum(x: SimpleNamespace) -> Pair:
    past = tuple(torch.sin(weight) for weight in x.weights)
    state = deep.Accumulated(memory=x.weights, surprise=past)
    ours = deep.step_momentum(state, x.key, x.target, eta=x.eta, alpha=x.alpha, momentum=x.momentum)
    surprise = [wide(x.momentum) * s - wide(x.eta) * g for s, g in zip(past, deep_slopes(x, x.weights))]
    memory = [wide(x.alpha) * w + s for w, s in zip(x.weights, surprise)]
    return flat((*ours.memory, *ours.surprise)), flat((*memory, *surprise))


def layer_inputs(x: SimpleNamespace, weights: deep.Weights) -> list[Tensor]:
    inputs = [x.key]
    for weight in weights[:-1]:
        inputs.append(torch.nn.functional.silu(torch.einsum("bhoi,bhi->bho", weight, inputs[-1])))
    return inputs


def case_deep_dgd(x: SimpleNamespace) -> Pair:
    ours = deep_dgd.step_explicit(x.weights, x.key, x.target, eta=x.eta, alpha=x.alpha)
    truth = []
    slopes = deep_slopes(x, x.weights)
    for weight, gradient, seen in zip(x.weights, slopes, layer_inputs(x, x.weights)):
        erase = slope(lambda w, seen=seen: 0.5 * (w @ seen.unsqueeze(-1)).square().sum((-2, -1)), weight)
        truth.append(wide(x.alpha) * weight - wide(x.eta) * (erase + gradient))
    return flat(ours), flat(tuple(truth))


CASES: dict[str, Callable[[SimpleNamespace], Pair]] = {
    "hebbian": lambda x: explicit(hebbian, x),
    "delta": lambda x: explicit(delta, x),
    "gated_delta": case_gated_delta,
    "oja": lambda x: explicit(oja, x),
    "omega": case_omega,
    "lp": lambda x: explicit(lp, x, p=3.0),
    "huber": lambda x: explicit(huber, x, threshold=0.7),
    "momentum": case_momentum,
    "dgd": case_dgd,
    "dgd_explicit": case_dgd_explicit,
    "least_squares": case_least_squares,
    "attention": case_attention,
    "sliding_window": case_sliding_window,
    "deep": case_deep,
    "deep_momentum": case_deep_momentum,
    "deep_dgd": case_deep_dgd,
}


def test_every_rule_of_the_table_has_a_truth_case() -> None:
    assert set(CASES) == set(RULES)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CASES)
def test_step_is_the_stated_objective(name: str, seed: int, draw: Callable[..., SimpleNamespace]) -> None:
    ours, truth = CASES[name](draw(seed))
    assert (ours - truth).abs().max() < TOLERANCE


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 4.0])
def test_any_power(p: float, draw: Callable[..., SimpleNamespace]) -> None:
    ours, truth = explicit(lp, draw(3), p=p)
    assert (ours - truth).abs().max() < TOLERANCE


@pytest.mark.parametrize("threshold", [0.01, 0.5, 100.0])
def test_any_threshold(threshold: float, draw: Callable[..., SimpleNamespace]) -> None:
    ours, truth = explicit(huber, draw(4), threshold=threshold)
    assert (ours - truth).abs().max() < TOLERANCE


GRADIENTS = {
    "hebbian": hebbian,
    "delta": delta,
    "oja": oja,
    "lp": lp,
    "huber": huber,
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_momentum_on_any_rule(name: str, draw: Callable[..., SimpleNamespace]) -> None:
    x, rule = draw(5), GRADIENTS[name]
    state = momentum_rule.Accumulated(memory=x.state, surprise=x.surprise)
    rates = {"eta": x.eta, "alpha": x.alpha, "momentum": x.momentum}
    memory, surprise = momentum_rule.step(state, x.key, x.value, gradient=rule.gradient, **rates)
    gradient = slope(lambda m: rule.objective(m, x.key, x.value), x.state)
    truth = wide(x.momentum) * x.surprise - wide(x.eta) * gradient
    assert (surprise - truth).abs().max() < TOLERANCE
    assert (memory - wide(x.alpha) * x.state - truth).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", GRADIENTS)
def test_explicit_dgd_on_any_rule(name: str, draw: Callable[..., SimpleNamespace]) -> None:
    x, rule = draw(6), GRADIENTS[name]
    ours = dgd.step_explicit(x.state, x.key, x.value, eta=x.eta, alpha=x.alpha, gradient=rule.gradient)
    gradient = slope(lambda m: rule.objective(m, x.key, x.value), x.state)
    erased = x.state @ (wide(x.alpha) * torch.eye(5) - wide(x.eta) * x.key[..., :, None] * x.key[..., None, :])
    assert (ours - erased + wide(x.eta) * gradient).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["hebbian", "delta", "lp", "huber"])
def test_implicit_dgd_on_any_rule_is_the_proximal_minimum(name: str, draw: Callable[..., SimpleNamespace]) -> None:
    """u = -dL/dy by autograd at the decayed memory; at the minimum the proximal objective is flat."""
    x, rule = draw(7), GRADIENTS[name]
    ours = dgd.step_implicit(x.state, x.key, x.value, eta=x.eta, alpha=x.alpha, gradient=rule.gradient)
    decayed = wide(x.alpha) * x.state
    output = torch.einsum("bhvk,bhk->bhv", decayed, x.key)
    target = -slope(lambda y: rule.loss(y, x.value), output)  # type: ignore[union-attr]
    at_minimum = slope(lambda m: dgd.objective(m, x.key, target, previous=decayed, eta=x.eta), ours)
    assert at_minimum.abs().max() < TOLERANCE


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("activation", ["silu", "gelu", "relu", "tanh"])
@pytest.mark.parametrize("loss", LOSSES)
def test_deep_gradient_by_hand(loss: str, activation: str, depth: int, draw: Callable[..., SimpleNamespace]) -> None:
    x = draw(8)
    generator = torch.Generator().manual_seed(1)
    shapes = deep.initial(2, 3, 5, hidden=7, depth=depth, generator=generator, dtype=torch.float64)
    weights = tuple(torch.randn(w.shape, generator=generator, dtype=torch.float64) / 2 for w in shapes)
    options = {"loss": LOSSES[loss], "activation": activation}
    ours = deep.gradient(weights, x.key, x.target, **options)
    assert (flat(ours) - flat(deep_slopes(x, weights, **options))).abs().max() < TOLERANCE


@pytest.mark.parametrize("loss", [L2, DOT_PRODUCT, lp_loss(1.5), huber_loss(0.3)])
def test_deep_implicit_dgd_is_the_proximal_minimum_of_every_linear_map(
    loss: object, draw: Callable[..., SimpleNamespace]
) -> None:
    x = draw(9)
    ours = deep_dgd.step_implicit(x.weights, x.key, x.target, eta=x.eta, alpha=x.alpha, loss=loss)
    decayed = tuple(wide(x.alpha) * weight for weight in x.weights)
    slopes = deep_slopes(x, decayed, loss=loss)
    for new, old, gradient, seen in zip(ours, decayed, slopes, layer_inputs(x, decayed)):
        target = -torch.einsum("bhoi,bhi->bho", gradient, seen) / seen.square().sum(-1, keepdim=True)

        def proximal(w: Tensor, old: Tensor = old, seen: Tensor = seen, target: Tensor = target) -> Tensor:
            error = torch.einsum("bhoi,bhi->bho", w, seen) - target
            return 0.5 * error.square().sum(-1) + (w - old).square().sum((-2, -1)) / (2 * x.eta)

        assert slope(proximal, new).abs().max() < TOLERANCE


def test_layer_wise_factors_are_the_gradient(draw: Callable[..., SimpleNamespace]) -> None:
    x = draw(10)
    parts = deep.factors(x.weights, x.key, x.target)
    for seen, expected in zip(parts.inputs, layer_inputs(x, x.weights)):
        assert (seen - expected).abs().max() < TOLERANCE
    for surprise, seen, gradient in zip(parts.surprises, parts.inputs, deep_slopes(x, x.weights)):
        assert (surprise[..., :, None] * seen[..., None, :] - gradient).abs().max() < TOLERANCE
