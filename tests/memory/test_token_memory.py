"""What followed where, read by likeness: hand-worked numbers, order, merging, and mixing into an answer."""

from __future__ import annotations

import math

import pytest
import torch

from nestling.errors import ShapeError
from nestling.memory.token_memory import TokenMemory, mixed

EAST, NORTH = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def written() -> TokenMemory:
    return TokenMemory.empty(2).written(torch.stack([EAST, EAST, NORTH]), torch.tensor([7, 3, 7]))


def test_probabilities_are_those_worked_out_by_hand() -> None:
    tokens, probs = written().read(torch.stack([EAST, -NORTH]), sharpness=2.0)
    near, far = math.exp(2), 1.0
    assert tokens.tolist() == [3, 7]
    assert probs[0].tolist() == pytest.approx([near / (2 * near + far), (near + far) / (2 * near + far)])
    below = math.exp(-2)
    assert probs[1].tolist() == pytest.approx([1 / (2 + below), (1 + below) / (2 + below)])


def test_the_order_of_writes_and_merging_change_no_bit() -> None:
    keys = torch.nn.functional.normalize(torch.randn(20, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    tokens = torch.arange(20) % 6
    whole = TokenMemory.empty(8).written(keys, tokens)
    backwards = TokenMemory.empty(8).written(keys.flip(0), tokens.flip(0))
    parts = TokenMemory.empty(8).written(keys[12:], tokens[12:])
    parts = parts.merged(TokenMemory.empty(8).written(keys[:12], tokens[:12]))
    assert whole.hash() == backwards.hash() == parts.hash()
    assert whole.hash() != TokenMemory.empty(8).written(keys, (tokens + 1) % 6).hash()


def test_a_count_stands_for_equal_pairs() -> None:
    once = TokenMemory(torch.stack([EAST, NORTH]).half(), torch.tensor([3, 7]), torch.tensor([2.0, 1.0]))
    twice = TokenMemory.empty(2).written(torch.stack([EAST, EAST, NORTH]), torch.tensor([3, 3, 7]))
    query = torch.tensor([[0.6, 0.8]])
    assert torch.allclose(once.read(query, sharpness=3.0)[1], twice.read(query, sharpness=3.0)[1])


def test_a_mixture_is_normalised_and_nothing_changes_where_its_share_is_nothing() -> None:
    log_probs = torch.randn(2, 9, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    tokens, probs = written().read(torch.stack([EAST, EAST]), sharpness=1.0)
    answer = mixed(log_probs, torch.tensor([0.0, 0.25]), tokens, probs)
    assert torch.equal(answer[0], log_probs[0])
    expected = 0.75 * log_probs[1].exp()
    expected[tokens] += 0.25 * probs[1]
    assert torch.allclose(answer[1].exp(), expected, atol=1e-7)
    assert float(answer[1].exp().sum()) == pytest.approx(1.0, abs=1e-6)


def test_keys_of_another_width_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\[M, 2\]"):
        written().written(torch.zeros(1, 3), torch.zeros(1).long())
