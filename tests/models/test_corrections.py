"""Corrections put a token ahead by exactly the margin, and no shorter one does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from nestling.errors import InputError
from nestling.models.nested_lm.corrections import Corrections

WIDTH, TOKENS = 6, 40


def head(seed: int = 0, bias: bool = False) -> torch.nn.Linear:
    made = torch.nn.Linear(WIDTH, TOKENS, bias=bias)
    generator = torch.Generator().manual_seed(seed)
    made.weight.data = torch.randn(TOKENS, WIDTH, generator=generator)
    if bias:
        made.bias.data = torch.randn(TOKENS, generator=generator)
    return made


def lead(layer: torch.nn.Linear, last: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = layer(last)
    own = logits.gather(1, targets[:, None])
    return (own - logits.scatter(1, targets[:, None], -torch.inf)).amin(1)


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
def test_the_target_leads_by_the_margin(bias: bool) -> None:
    layer = head(bias=bias)
    extreme = layer.weight.norm(dim=1).topk(8).indices
    last = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(1))
    corrections = Corrections(layer)
    values = corrections.solve(last, extreme, margin=5.0)
    ahead = lead(layer, last + values, extreme)
    assert float(ahead.min()) >= 5.0 * 0.95 - 1e-3
    probability = layer(last + values).log_softmax(-1).gather(1, extreme[:, None])[:, 0]
    assert torch.allclose(corrections.surprise(last + values, extreme), -probability, atol=1e-5)


def test_a_target_that_leads_already_needs_nothing() -> None:
    layer = head()
    target = int(layer.weight.norm(dim=1).argmax())
    last = 10 * layer.weight.detach()[target : target + 1]
    values = Corrections(layer).solve(last, torch.tensor([target]), margin=1.0)
    assert torch.equal(values, torch.zeros_like(values))


@torch.no_grad()
def test_rivals_found_one_by_one_give_the_shortest_correction() -> None:
    layer = head(seed=2).double()
    corrections = Corrections(layer)
    last = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(3))
    target = int(layer.weight.norm(dim=1).argmax())
    corrections._prepare()
    gains = layer.weight @ layer.weight[target]
    found = corrections._separate(corrections.logits(last)[0], gains.float(), target, margin=2.0).double()
    assert corrections._inverse is not None
    covariance = torch.linalg.inv(corrections._inverse.double()).numpy()
    weight = layer.weight.detach().numpy()
    sides = np.delete(weight[target] - weight, target, axis=0)
    logits = (layer.weight @ last[0].double()).detach().numpy()
    goals = np.delete(2.0 + logits - logits[target], target)
    best = minimize(
        lambda x: x @ covariance @ x,
        found.numpy(),
        jac=lambda x: 2 * covariance @ x,
        constraints={"type": "ineq", "fun": lambda x: sides @ x - goals, "jac": lambda x: sides},
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    reached = float(found @ torch.as_tensor(covariance) @ found)
    assert reached == pytest.approx(float(best.fun), rel=0.1)  # rivals nearer than 5 % of the margin are let be
    assert float(np.min(sides @ found.numpy() - goals)) > -0.05 * 2.0 - 1e-4


def test_a_token_between_others_cannot_be_singled_out() -> None:
    layer = head()
    layer.weight.data[7] = layer.weight.data[3]
    with pytest.raises(InputError, match="single out"):
        Corrections(layer).solve(torch.zeros(1, WIDTH), torch.tensor([7]))
