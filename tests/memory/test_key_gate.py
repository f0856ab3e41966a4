"""Contexts told apart by sums of their keys: against an independent discriminant, and as if deleted never seen."""

from __future__ import annotations

import torch

from nestling.memory.key_gate import PRIOR, RETENTION, KeyGate, KeySums


def clouds(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    first = torch.randn(300, 6, generator=generator, dtype=torch.float64) @ spread * 0.2 + 1.0
    second = torch.randn(200, 6, generator=generator, dtype=torch.float64) @ spread * 0.2 - 1.0
    return first.float(), second.float()


def test_evidence_is_that_of_a_gaussian_for_each_context_with_one_covariance() -> None:
    first, second = clouds()
    gate = KeyGate([KeySums.empty(6).plus(each) for each in (first, second)])
    rest = [each.double() - each.double().mean(0) for each in (first, second)]
    within = sum(each.T @ each for each in rest) / 500
    within = within + 0.1 * within.trace() / 6 * torch.eye(6, dtype=torch.float64)
    text = first[:3].double()
    score = torch.zeros(2, dtype=torch.float64)
    expected = []
    for each in text:
        gaussian = [
            torch.distributions.MultivariateNormal(mean.double(), within).log_prob(each)
            for mean in (first.mean(0), second.mean(0), torch.zeros(6))
        ]
        score = RETENTION * score + torch.stack([gaussian[0] - gaussian[2], gaussian[1] - gaussian[2]])
        weights = torch.cat([torch.tensor([PRIOR], dtype=torch.float64), score]).softmax(0)[1:]
        expected.append(weights * (weights >= 0.02))
    found, _ = gate.weights(text.float()[None], None, 0)
    assert torch.allclose(found[0].double(), torch.stack(expected), atol=1e-3)
    assert float(found[0, -1, 0]) > 0.9


def test_a_text_in_pieces_is_weighed_as_the_whole() -> None:
    first, second = clouds()
    gate = KeyGate([KeySums.empty(6).plus(each) for each in (first, second)])
    text = torch.cat([first[:5], second[:9]])[None]
    whole, end = gate.weights(text, None, 2)
    begin, state = gate.weights(text[:, :6], None, 2)
    rest, last = gate.weights(text[:, 6:], state, 0)
    assert torch.allclose(torch.cat([begin, rest], dim=1), whole, atol=1e-4)
    assert torch.allclose(end, last, rtol=1e-4)


def test_sums_do_not_depend_on_pieces_and_distance_is_zero_at_the_mean() -> None:
    first, _ = clouds()
    pieces = KeySums.empty(6).plus(first[:100]).plus(first[100:])
    whole = KeySums.empty(6).plus(first)
    assert pieces.count == whole.count == 300
    assert torch.allclose(pieces.second, whole.second, rtol=1e-5)
    gate = KeyGate([whole])
    assert float(gate.distances(whole.mean)[0]) < 1e-5
    assert float(gate.distances(-whole.mean)[0]) > 4
