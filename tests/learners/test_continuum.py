"""What `continuum` promises beyond the contract."""

import pytest
import torch
from torch import nn

from nestling.learners.continuum import Continuum
from nestling.learners.continuum_contexts import held_out_blocks
from nestling.streams.base import Examples, Problem, Training


def learner(kind, num_inputs, num_outputs, **options):
    problem = Problem(kind=kind, input_shape=(num_inputs,), num_outputs=num_outputs)
    return Continuum(nn.Linear(num_inputs, num_outputs), problem, training=Training(), seed=0, **options)


def teach(strategy, *parts):
    for part in parts:
        for _ in strategy.learn(part):
            pass
    return strategy


def function_part(seed, shift, slope):
    inputs = torch.randn(200, 3, generator=torch.Generator().manual_seed(seed)) + shift
    return Examples(inputs=inputs, targets=slope * inputs.sum(dim=1, keepdim=True))


def test_one_function_met_in_pieces_stays_one_memory():
    strategy = teach(learner("regression", 3, 1, num_features=100), *(function_part(s, 0.0, 1.0) for s in range(4)))
    assert len(strategy.part.contexts) == 1
    assert strategy.part.contexts[0].memory.num_pairs == 800


def test_functions_that_contradict_each_other_get_contexts_and_both_are_kept():
    parts = [function_part(1, 0.0, 1.0), function_part(2, 6.0, -1.0)]
    strategy = teach(learner("regression", 3, 1, num_features=100), *parts)
    assert len(strategy.part.contexts) == 2
    for part in parts:
        error = (strategy.predict(part.inputs) - part.targets).square().mean() / part.targets.square().mean()
        assert error < 0.02


def test_what_one_context_knows_no_other_can_erase():
    first, second = function_part(1, 0.0, 1.0), function_part(2, 6.0, -1.0)
    strategy = teach(learner("regression", 3, 1, num_features=100), first)
    before = strategy.predict(first.inputs)
    teach(strategy, second)
    assert torch.equal(strategy.part.contexts[0].read(first.inputs), before)


def test_classes_do_not_depend_on_the_order_of_experiences():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 5, generator=generator)
    labels = (inputs[:, 0] > 0).long() + 2 * (inputs[:, 1] > 0).long()
    parts = [Examples(inputs=inputs[labels == c], targets=labels[labels == c]) for c in range(4)]
    length = None
    outputs = []
    for order in ((0, 1, 2, 3), (0, 3, 2, 1)):
        strategy = teach(learner("classification", 5, 4, num_features=200), *(parts[c] for c in order))
        length = length or strategy.part.keys.length.clone()
        assert torch.equal(strategy.part.keys.length, length)
        outputs.append(strategy.part.memory.solve(1e-3))
    assert float((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max()) < 1e-9


def test_neighbours_are_held_out_together():
    held = held_out_blocks(1000)
    assert held.float().mean() == pytest.approx(0.2)
    assert int((held[1:] != held[:-1]).sum()) == 10
