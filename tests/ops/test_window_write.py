"""The Omega recurrence in chunks against the rule itself: outputs, final state, all gradients, splits, extremes."""

import pytest
import torch
from recurrences import CHUNK_SIZE, LENGTHS, assert_near, random_inputs

from nestling.errors import InputError, ShapeError
from nestling.ops.erase_write import erase_write
from nestling.ops.window_write import WindowState, window_write
from nestling.rules import omega

NAMES = ("output", "final", "query", "key", "value", "rate", "log_alpha", "memory", "old keys", "old values")


def given(length, window=4, dtype=torch.float64):
    """Tokens and a state whose window is full; rates of every pair differ."""
    query, key, value, _, _, log_alpha, memory = (x.detach() for x in random_inputs(length, dtype=dtype))
    draw = torch.Generator().manual_seed(5)
    rate = torch.rand(2, length, 3, window, generator=draw, dtype=torch.float64).to(dtype) / window
    old_key, old_value = (torch.randn(2, 3, window - 1, n, generator=draw).to(dtype) / 2 for n in (5, 4))
    return [x.requires_grad_() for x in (query, key, value, rate, log_alpha, memory, old_key, old_value)]


def token_loop(query, key, value, rate, log_alpha, *state):
    """omega.step with eta 1 and gamma = rate."""
    memory, old_key, old_value = state
    window, outputs = omega.Window(old_key, old_value), []
    for t in range(query.shape[1]):
        pairs = omega.Window(
            torch.cat([window.key, key[:, t].unsqueeze(2)], 2), torch.cat([window.value, value[:, t].unsqueeze(2)], 2)
        )
        alpha = log_alpha[:, t].exp()
        memory = omega.step(memory, *pairs, gamma=rate[:, t], eta=torch.ones_like(alpha), alpha=alpha)
        window = omega.Window(pairs.key[:, :, 1:], pairs.value[:, :, 1:])
        outputs.append(omega.read(memory, query[:, t]))
    return torch.stack(outputs, 1), WindowState(memory, *window)


def chunked(*inputs):
    return window_write(*inputs[:5], WindowState(*inputs[5:]), chunk_size=CHUNK_SIZE)


def results(run, inputs):
    output, state = run(*inputs)
    draw = torch.Generator().manual_seed(9)
    ends = (output, state.memory)
    weights = [torch.randn(x.shape, generator=draw, dtype=torch.float64).to(x.dtype) for x in ends]
    return dict(zip(NAMES, (*ends, *torch.autograd.grad(ends, inputs, weights, materialize_grads=True))))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_chunked_equals_token_loop(length, window, dtype):
    inputs = given(length, window, dtype)
    expected = results(token_loop, inputs)
    for name, tensor in results(chunked, inputs).items():
        assert_near(tensor, expected[name], name)


def test_a_window_longer_than_everything():
    inputs = given(5, window=12)
    expected = results(token_loop, inputs)
    for name, tensor in results(chunked, inputs).items():
        assert_near(tensor, expected[name], name)


def test_window_of_one_is_the_gated_delta_recurrence():
    query, key, value, rate, log_alpha, memory, *_ = given(19, window=1)
    eta = rate[..., 0]
    expected, last = erase_write(query, key, value, eta, eta, log_alpha, memory)
    empty = (key.new_zeros(2, 3, 0, 5), value.new_zeros(2, 3, 0, 4))
    output, state = chunked(query, key, value, rate, log_alpha, memory, *empty)
    assert_near(output, expected)
    assert_near(state.memory, last)


@pytest.mark.parametrize("cut", [0, 1, 2, 7, 8, 13, 19])
def test_pieces_are_the_whole(cut):
    *tokens, memory, old_key, old_value = given(19)
    start = WindowState(memory, old_key, old_value)
    whole, last = window_write(*tokens, start, chunk_size=CHUNK_SIZE)
    first, middle = window_write(*(x[:, :cut] for x in tokens), start, chunk_size=CHUNK_SIZE)
    second, end = window_write(*(x[:, cut:] for x in tokens), middle, chunk_size=CHUNK_SIZE)
    assert_near(torch.cat([first, second], 1), whole)
    for mine, expected in zip(end, last):
        assert_near(mine, expected)


def test_without_gradients_the_answers_are_the_same():
    inputs = given(19)
    expected, _ = chunked(*inputs)
    with torch.no_grad():
        output, _ = chunked(*inputs)
    assert torch.equal(output, expected)


def test_errors():
    *tokens, memory, old_key, old_value = given(5)
    with pytest.raises(ShapeError, match=r"state\.key"):
        window_write(*tokens, WindowState(memory, old_key[:, :, 1:], old_value))
    with pytest.raises(ShapeError, match="rate"):
        window_write(*tokens[:3], tokens[3][..., 0], tokens[4], WindowState(memory, old_key, old_value))
    with pytest.raises(InputError, match="chunk_size"):
        window_write(*tokens, WindowState(memory, old_key, old_value), chunk_size=0)
