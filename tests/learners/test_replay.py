"""The reservoir keeps every example with the same probability, and every batch is mixed with it."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare
from tiny_streams import build_strategy, learn_all, tiny_stream

from nestling.errors import InputError
from nestling.learners.base import seeded_generator
from nestling.learners.replay import reservoir_slots
from nestling.streams.base import Examples


def test_the_first_items_fill_the_slots_in_order():
    assert reservoir_slots(3, 0, 5, seeded_generator(0)) == [(0, 0), (1, 1), (2, 2)]
    assert reservoir_slots(2, 3, 5, seeded_generator(0)) == [(0, 3), (1, 4)]


def test_the_reservoir_is_uniform_over_everything_ever_seen():
    generator, kept = seeded_generator(1), torch.zeros(30)
    for _ in range(4000):
        slots = [-1] * 6
        seen = 0
        for count in (4, 11, 15):  # fills up, overflows within a part, and goes on over several parts
            for item, slot in reservoir_slots(count, seen, 6, generator):
                slots[slot] = seen + item
            seen += count
        kept[torch.tensor(slots)] += 1
    assert kept.sum() == 4000 * 6
    assert chisquare(kept.numpy()).pvalue > 1e-3


def test_the_buffer_holds_pairs_of_both_experiences_and_says_how_many_bytes():
    stream = tiny_stream("classification", epochs=1)
    strategy = learn_all(build_strategy("replay", stream, buffer_size=40), stream)
    seen = torch.cat([experience.train.inputs for experience in stream.experiences])
    targets = torch.cat([experience.train.targets for experience in stream.experiences])
    at = torch.cdist(strategy.buffer.inputs, seen).argmin(dim=1)
    assert torch.equal(seen[at], strategy.buffer.inputs)
    assert torch.equal(targets[at], strategy.buffer.targets)
    assert len(at.unique()) == 40
    assert {bool(each) for each in at < 64} == {True, False}
    assert strategy.stored_bytes() == 40 * (8 * 4 + 8)


def test_every_batch_is_mixed_with_as_many_stored_examples():
    stream = tiny_stream("classification", epochs=1)
    strategy = build_strategy("replay", stream, buffer_size=10)
    batch = stream.experiences[1].train.subset(torch.arange(16))
    assert len(strategy.extend(batch)) == 16
    list(strategy.learn(stream.experiences[0].train))
    mixed = strategy.extend(batch)
    assert len(mixed) == 16 + 10
    assert torch.equal(mixed.inputs[:16], batch.inputs)
    assert len(strategy.extend(batch.subset(torch.arange(4)))) == 8
    assert isinstance(mixed, Examples)


def test_an_empty_buffer_is_refused():
    with pytest.raises(InputError, match="buffer_size >= 1"):
        build_strategy("replay", tiny_stream("classification"), buffer_size=0)
