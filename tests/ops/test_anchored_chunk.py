"""A chunk with gradients by hand against autograd of the same chunk, and against numerical differences."""

from itertools import pairwise

import pytest
import torch

from nestling.ops import anchored as plain
from nestling.ops.activations import activation_named
from nestling.ops.anchored_chunk import AnchoredChunk, Form
from nestling.ops.spans import spans
from nestling.rules.losses import DOT_PRODUCT, L2, huber_loss

ROWS, LENGTH, WIDTH, HIDDEN = 2, 5, 3, 4


def chunk(depth, with_momentum, seed=0):
    """query, key, value [R, 1, C, K], rates [R, 1, C] and weights [R, 1, out, in]."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(ROWS, 1, *shape, generator=draw, dtype=torch.float64).requires_grad_()

    def rate():
        return torch.rand(ROWS, 1, LENGTH, generator=draw, dtype=torch.float64)

    vectors = [normal(LENGTH, WIDTH) for _ in range(3)]
    rates = [rate().requires_grad_(), rate().log().requires_grad_()]
    rates += [rate().requires_grad_()] if with_momentum else []
    widths = [WIDTH, *[HIDDEN] * (depth - 1), WIDTH]
    weights = [normal(outputs, inputs) for _ in range(1 + with_momentum) for inputs, outputs in pairwise(widths)]
    return vectors, rates, weights


def by_hand(how, depth, vectors, rates, weights):
    form = Form(how.surprise, activation_named(how.activation), how.residual, how.limit, depth)
    eta, log_alpha, *momentum = (rate.flatten(0, 1) for rate in rates)
    coefficients = spans(log_alpha, *(momentum or [None]))
    flat = [x.flatten(0, 1) for x in vectors], [w.flatten(0, 1) for w in weights]
    return AnchoredChunk.apply(form, *flat[0], eta.unsqueeze(-1), *coefficients, *flat[1])


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("with_momentum", [False, True])
@pytest.mark.parametrize("limit", [None, 0.5])
@pytest.mark.parametrize("loss", [L2, huber_loss(1.0), DOT_PRODUCT], ids=["l2", "huber", "dot"])
def test_gradients_by_hand_are_autograds(depth, with_momentum, limit, loss):
    vectors, rates, weights = chunk(depth, with_momentum)
    how = plain.Anchoring(surprise=loss.surprise, limit=limit, residual=depth > 1)
    momentum = rates[2] if with_momentum else None
    expected = plain._chunk(how, depth, *vectors, *rates[:2], momentum, *weights[:depth], *weights)
    got = [part.view_as(other) for part, other in zip(by_hand(how, depth, vectors, rates, weights), expected)]
    torch.testing.assert_close(got, list(expected), rtol=1e-12, atol=1e-12)
    inputs = [*vectors, *rates, *weights]
    weight = [torch.linspace(-1, 2, part.numel(), dtype=part.dtype).view_as(part) for part in got]
    expected = torch.autograd.grad(expected, inputs, weight)
    torch.testing.assert_close(torch.autograd.grad(got, inputs, weight), expected, rtol=1e-9, atol=1e-10)


def test_gradients_by_hand_are_numerical_differences():
    vectors, rates, weights = chunk(2, True, seed=1)
    how = plain.Anchoring(surprise=L2.surprise, limit=2.0)

    def run(*inputs):
        return by_hand(how, 2, inputs[:3], inputs[3:6], inputs[6:])

    assert torch.autograd.gradcheck(run, (*vectors, *rates, *weights))
