"""The gate follows evidence within the window: limits, Bayes' rule, causality."""

from __future__ import annotations

import pytest
import torch

from nestling.memory.evidence_gate import evidence_gate


def _predictions(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 8, 5, generator=generator, dtype=torch.float64).log_softmax(-1) for _ in range(2)]


SYMBOLS = torch.randint(5, (3, 8), generator=torch.Generator().manual_seed(9))


def test_rate_zero_is_the_plain_geometric_mean() -> None:
    one, two = _predictions(0)
    answer, weights = evidence_gate([one, two], SYMBOLS, rate=0.0)
    assert torch.equal(weights, torch.full_like(weights, 0.5))
    torch.testing.assert_close(answer, (0.5 * one + 0.5 * two).log_softmax(-1))


def test_rate_and_retention_one_is_bayes_rule() -> None:
    both = _predictions(1)
    _, weights = evidence_gate(both, SYMBOLS, rate=1.0, retention=1.0)
    for t in range(8):
        likelihood = [
            torch.stack([p[n, i, SYMBOLS[n, i + 1]] for n in range(3) for i in range(t)]).view(3, t).sum(1).exp()
            if t
            else torch.ones(3, dtype=torch.float64)
            for p in both
        ]
        posterior = torch.stack(likelihood, -1) / (likelihood[0] + likelihood[1])[:, None]
        torch.testing.assert_close(weights[:, t], posterior)


def test_weights_by_hand() -> None:
    """Predictor 0 gave the seen symbol 1/2, predictor 1 gave 1/8: after one symbol the odds are 4^rate."""
    one = torch.tensor([[[0.5, 0.5], [0.5, 0.5]]]).log()
    two = torch.tensor([[[0.125, 0.875], [0.125, 0.875]]]).log()
    _, weights = evidence_gate([one, two], torch.tensor([[1, 0]]), rate=0.5)
    torch.testing.assert_close(weights[0], torch.tensor([[0.5, 0.5], [2 / 3, 1 / 3]]))


@pytest.mark.parametrize("retention", [0.0, 0.9])
def test_answers_are_normalised_and_causal(retention: float) -> None:
    both = _predictions(2)
    answer, _ = evidence_gate(both, SYMBOLS, retention=retention)
    torch.testing.assert_close(answer.exp().sum(-1), torch.ones(3, 8, dtype=torch.float64))
    changed = SYMBOLS.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 5
    after, _ = evidence_gate(both, changed, retention=retention)
    assert torch.equal(answer[:, :5], after[:, :5])
    assert not torch.equal(answer[:, 5], after[:, 5])
