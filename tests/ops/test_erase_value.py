"""Oja's recurrence in chunks against the rule itself: outputs, final state, all gradients, splits, extremes."""

import pytest
import torch
from recurrences import CHUNK_SIZE, LENGTHS, assert_near, random_inputs
from torch.nn import functional as F

from nestling.errors import InputError, ShapeError
from nestling.ops.erase_value import erase_value, erase_value_token
from nestling.rules import oja
from nestling.rules.matrix import apply, outer, spread

NAMES = ("output", "final", "query", "key", "value", "erase", "write", "log_alpha", "state")


def given(length, dtype=torch.float64, seed=0):
    """As for the erase-write recurrence, with values of length 1 and keys of any."""
    query, key, value, erase, write, log_alpha, state = (
        x.detach() for x in random_inputs(length, dtype=dtype, seed=seed)
    )
    inputs = (query, 2 * key, F.normalize(value, dim=-1), erase, write, log_alpha, state)
    return [x.requires_grad_() for x in inputs]


def token_loop(query, key, value, erase, write, log_alpha, state):
    outputs = []
    for t in range(query.shape[1]):
        v = value[:, t]
        push = write[:, t, :, None] * key[:, t] - erase[:, t, :, None] * apply(state.mT, v)
        state = spread(log_alpha[:, t].exp()) * state + outer(v, push)
        outputs.append(apply(state, query[:, t]))
    return torch.stack(outputs, 1), state


def chunked(*inputs):
    return erase_value(*inputs, chunk_size=CHUNK_SIZE)


def results(run, inputs):
    output, state = run(*inputs)
    draw = torch.Generator().manual_seed(9)
    weights = [torch.randn(x.shape, generator=draw, dtype=torch.float64).to(x.dtype) for x in (output, state)]
    return dict(zip(NAMES, (output, state, *torch.autograd.grad((output, state), inputs, weights))))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_chunked_equals_token_loop(length, dtype):
    inputs = given(length, dtype)
    expected = results(token_loop, inputs)
    for name, tensor in results(chunked, inputs).items():
        assert_near(tensor, expected[name], name)


def test_equal_rates_are_the_rule():
    query, key, value, eta, _, log_alpha, state = given(11)
    output, last = erase_value(query, key, value, eta, eta, log_alpha, state, chunk_size=4)
    for t in range(11):
        state = oja.step(state, key[:, t], value[:, t], eta=eta[:, t], alpha=log_alpha[:, t].exp())
        assert_near(output[:, t], oja.read(state, query[:, t]), f"token {t}")
    assert_near(last, state, "final")


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 13, 19])
def test_pieces_are_the_whole(cut):
    *tokens, state = given(19)
    whole, last = chunked(*tokens, state)
    first, middle = chunked(*(x[:, :cut] for x in tokens), state)
    second, end = chunked(*(x[:, cut:] for x in tokens), middle)
    assert_near(torch.cat([first, second], 1), whole)
    assert_near(end, last)


def test_one_token_is_one_token_of_the_sequence():
    *tokens, state = given(1)
    whole, last = chunked(*tokens, state)
    flat = [x[:, 0].flatten(0, 1) for x in tokens]
    vectors, rates = [x.unsqueeze(-1) for x in flat[:3]], [x[:, None, None] for x in flat[3:]]
    output, end = erase_value_token(*vectors, *rates[:2], rates[2].exp(), state.flatten(0, 1))
    assert_near(output.squeeze(-1).view(2, 3, -1), whole[:, 0])
    assert_near(end.view(state.shape), last)


def test_no_retention_keeps_only_the_last_write():
    query, key, value, _, write, log_alpha, state = given(9)
    nothing = torch.full_like(log_alpha, -torch.inf)
    output, last = chunked(query, key, value, 0 * write, write, nothing, state)
    alone = spread(write[:, 8]) * outer(value[:, 8], key[:, 8])
    assert_near(last, alone)
    assert_near(output[:, 8], apply(alone, query[:, 8]))


def test_half_precision_tokens_keep_the_arithmetic_of_the_state():
    *tokens, state = given(30, torch.float32)
    halves = [x.detach().bfloat16() for x in tokens]
    output, last = chunked(*halves, state)
    exact, expected = chunked(*(x.float() for x in halves), state)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, exact.bfloat16())
    assert_near(last, expected)


def test_errors():
    *tokens, state = given(5)
    with pytest.raises(ShapeError, match="erase"):
        erase_value(*tokens[:3], tokens[3][:, :2], *tokens[4:], state)
    with pytest.raises(InputError, match="chunk_size"):
        erase_value(*tokens, state, chunk_size=0)
