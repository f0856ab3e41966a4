"""Parity: the fast twin named in the table answers what the rule itself answers, token after token, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nestling.ops.anchored import AnchoredState, Anchoring, anchored
from nestling.ops.erase_value import erase_value
from nestling.ops.erase_write import erase_write
from nestling.ops.window_write import WindowState, window_write
from nestling.rules import RULES, Rule
from nestling.rules.losses import DOT_PRODUCT, L2, LOSSES

TOLERANCE = 1e-10
WIDTH, CHUNK = 5, 16
LENGTHS = (1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 7)
Inputs = dict[str, Tensor]


def inputs(time: int) -> Inputs:
    generator = torch.Generator().manual_seed(time)

    def normal(*shape: int) -> Tensor:
        return torch.randn(2, time, 3, *shape, generator=generator, dtype=torch.float64)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(2, time, 3, generator=generator, dtype=torch.float64)

    return {
        "query": normal(WIDTH),
        "key": torch.nn.functional.normalize(normal(WIDTH), dim=-1),
        "value": normal(WIDTH),
        "eta": uniform(0.01, 0.3),
        "alpha": uniform(0.7, 1.0),
    }


def token_by_token(rule: Rule, x: Inputs) -> tuple[Tensor, Any]:
    state, answers = rule.initial(2, 3, WIDTH, WIDTH, dtype=torch.float64), []
    for t in range(x["key"].shape[1]):
        state = rule.write(state, x["key"][:, t], x["value"][:, t], eta=x["eta"][:, t], alpha=x["alpha"][:, t])
        answers.append(rule.read(state, x["query"][:, t]))
    return torch.stack(answers, dim=1), state


def implicit(x: Inputs) -> Tensor:
    return x["eta"] / (1 + x["eta"] * x["key"].square().sum(-1))


RATES: dict[str, Callable[[Inputs], tuple[Tensor | None, Tensor]]] = {
    "hebbian": lambda x: (None, x["eta"]),
    "delta": lambda x: (x["eta"], x["eta"]),
    "gated_delta": lambda x: (x["alpha"] * x["eta"], x["eta"]),
    "dgd": lambda x: (x["alpha"] * implicit(x), implicit(x)),
    "dgd_explicit": lambda x: (2 * x["eta"], x["eta"]),
}

ANCHORED = {
    "lp": Anchoring(surprise=LOSSES["lp"].surprise, residual=False),
    "huber": Anchoring(surprise=LOSSES["huber"].surprise, residual=False),
    # the L2 gradient is the erase M k k^T and the write -v k^T, both inside the accumulator
    "momentum": Anchoring(surprise=DOT_PRODUCT.surprise, erase="explicit", residual=False),
    "deep": Anchoring(surprise=L2.surprise),
    "deep_momentum": Anchoring(surprise=L2.surprise),
    "deep_dgd": Anchoring(surprise=L2.surprise, erase="explicit"),
}


def run_anchored(rule: Rule, x: Inputs, *, chunk_size: int) -> Tensor:
    initial = rule.initial(2, 3, WIDTH, WIDTH, dtype=torch.float64)
    with_momentum = hasattr(initial, "surprise")
    weights = initial.memory if with_momentum else initial
    weights = (weights,) if isinstance(weights, Tensor) else weights
    surprise = tuple(torch.zeros_like(weight) for weight in weights) if with_momentum else ()
    state = AnchoredState(weights, weights, surprise, torch.zeros(2, dtype=torch.int64))
    momentum = torch.full_like(x["eta"], 0.5) if with_momentum else None
    arguments = (x["query"], x["key"], x["value"], x["eta"], x["alpha"].log(), momentum, state)
    return anchored(*arguments, chunk_size=chunk_size, how=ANCHORED[rule.name])[0]


def test_every_twin_of_the_table_is_compared() -> None:
    by_twin: dict[str | None, set[str]] = {}
    for name, rule in RULES.items():
        by_twin.setdefault(rule.fast_twin, set()).add(name)
    assert by_twin["nestling.ops.erase_write.erase_write"] == set(RATES)
    assert by_twin["nestling.ops.anchored.anchored"] == set(ANCHORED)
    assert by_twin["nestling.ops.erase_value.erase_value"] == {"oja"}
    assert by_twin["nestling.ops.window_write.window_write"] == {"omega"}


@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize("name", RATES)
def test_erase_write(name: str, time: int) -> None:
    x = inputs(time)
    answers, state = token_by_token(RULES[name], x)
    erase, write = RATES[name](x)
    initial = RULES[name].initial(2, 3, WIDTH, WIDTH, dtype=torch.float64)
    arguments = (x["query"], x["key"], x["value"], erase, write, x["alpha"].log(), initial)
    fast, last = erase_write(*arguments, chunk_size=CHUNK)
    assert (fast - answers).abs().max() < TOLERANCE
    assert (last - state).abs().max() < TOLERANCE


@pytest.mark.parametrize("time", LENGTHS)
def test_oja(time: int) -> None:
    x = inputs(time)
    x["value"] = torch.nn.functional.normalize(x["value"], dim=-1)
    answers, state = token_by_token(RULES["oja"], x)
    initial = RULES["oja"].initial(2, 3, WIDTH, WIDTH, dtype=torch.float64)
    arguments = (x["query"], x["key"], x["value"], x["eta"], x["eta"], x["alpha"].log(), initial)
    fast, last = erase_value(*arguments, chunk_size=CHUNK)
    assert (fast - answers).abs().max() < TOLERANCE
    assert (last - state).abs().max() < TOLERANCE


@pytest.mark.parametrize("time", LENGTHS)
def test_omega(time: int) -> None:
    x = inputs(time)
    answers, state = token_by_token(RULES["omega"], x)
    initial = RULES["omega"].initial(2, 3, WIDTH, WIDTH, dtype=torch.float64)
    length = initial.window.key.shape[2]
    rate = (x["eta"] / length).unsqueeze(-1).expand(-1, -1, -1, length)
    start = WindowState(initial.memory, initial.window.key[:, :, 1:], initial.window.value[:, :, 1:])
    fast, last = window_write(x["query"], x["key"], x["value"], rate, x["alpha"].log(), start, chunk_size=CHUNK)
    assert (fast - answers).abs().max() < TOLERANCE
    assert (last.memory - state.memory).abs().max() < TOLERANCE
    assert torch.equal(last.key, state.window.key[:, :, 1:])


@pytest.mark.parametrize("time", [1, 9])
@pytest.mark.parametrize("name", ANCHORED)
def test_anchored_with_chunk_size_one(name: str, time: int) -> None:
    x = inputs(time)
    fast = run_anchored(RULES[name], x, chunk_size=1)
    assert (fast - token_by_token(RULES[name], x)[0]).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ANCHORED)
def test_only_the_exact_twins_are_exact_for_larger_chunks(name: str) -> None:
    x = inputs(9)
    gap = (run_anchored(RULES[name], x, chunk_size=4) - token_by_token(RULES[name], x)[0]).abs().max()
    assert (gap < TOLERANCE) == RULES[name].twin_is_exact
