"""Joint training stores everything and does not care in which order it came."""

from __future__ import annotations

from dataclasses import replace

import torch
from tiny_streams import build_strategy, learn_all, tiny_stream

from nestling.learners.gradient import clone_state


def test_two_orders_end_at_the_same_performance():
    stream = tiny_stream("classification")
    turned = replace(stream, experiences=stream.experiences[::-1])
    here, there = (learn_all(build_strategy("joint", each), each) for each in (stream, turned))
    for experience in stream.experiences:
        assert abs(stream.evaluate(here.predict, experience) - stream.evaluate(there.predict, experience)) <= 0.07


def test_every_experience_starts_from_the_initial_weights():
    stream = tiny_stream("regression", epochs=1)
    strategy = build_strategy("joint", stream)
    initial = clone_state(strategy.module)
    list(strategy.learn(stream.experiences[0].train))
    strategy.begin(stream.experiences[1].train)
    assert all(torch.equal(value, initial[name]) for name, value in strategy.module.state_dict().items())
    assert len(strategy.material(stream.experiences[1].train)) == 128


def test_stored_bytes_count_every_example():
    stream = tiny_stream("regression", epochs=1)
    strategy = learn_all(build_strategy("joint", stream), stream)
    assert strategy.stored_bytes() == 128 * (6 + 2) * 4
