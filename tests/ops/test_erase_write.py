"""The chunked recurrence against its token loop: outputs, states, gradients, splits and extremes."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrences import CHUNK_SIZE, LENGTHS, NAMES, assert_near, random_inputs
from torch.nn import functional as F

from nestling.errors import InputError, ShapeError
from nestling.ops.erase_write import erase_write, erase_write_recurrent, erase_write_step
from nestling.rules import delta, dgd, gated_delta, hebbian


def results(run, inputs):
    """Output, final state and all gradients of a random weighting of both."""
    output, state = run(*inputs)
    draw = torch.Generator().manual_seed(9)
    weights = [torch.randn(x.shape, generator=draw, dtype=torch.float64).to(x.dtype) for x in (output, state)]
    given_inputs = [x for x in inputs if x is not None]
    grads = torch.autograd.grad((output, state), given_inputs, weights)
    names = [name for name, x in zip(NAMES, inputs) if x is not None]
    return {"output": output, "final": state, **dict(zip(names, grads))}


def chunked(*inputs):
    return erase_write(*inputs, chunk_size=CHUNK_SIZE)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("erase", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_chunked_equals_token_loop(length, erase, dtype):
    inputs = random_inputs(length, dtype=dtype, erase=erase)
    expected = results(erase_write_recurrent, inputs)
    for name, tensor in results(chunked, inputs).items():
        assert_near(tensor, expected[name], name)


def test_long_sequence_spans_several_segments():
    inputs = random_inputs(200)
    expected = results(erase_write_recurrent, inputs)
    for name, tensor in results(chunked, inputs).items():
        assert_near(tensor, expected[name], name)


@pytest.mark.parametrize("erase", [True, False])
def test_gradients_are_derivatives(erase):
    inputs = random_inputs(5, erase=erase, batch=1, heads=2)
    present = [x for x in inputs if x is not None]

    def call(*tensors):
        stack = list(tensors)
        return erase_write(*[None if x is None else stack.pop(0) for x in inputs], chunk_size=2)

    assert torch.autograd.gradcheck(call, present)


@pytest.mark.parametrize(
    ("rule", "rates"),
    [
        (hebbian.step, lambda eta, alpha, key: (0 * eta, eta)),
        (delta.step, lambda eta, alpha, key: (eta, eta)),
        (gated_delta.step, lambda eta, alpha, key: (alpha * eta, eta)),
        (dgd.step, lambda eta, alpha, key: (alpha * dgd.implicit_rate(key, eta=eta), dgd.implicit_rate(key, eta=eta))),
        (dgd.step_explicit, lambda eta, alpha, key: (2 * eta, eta)),
        (
            dgd.step_implicit,
            lambda eta, alpha, key: (2 * alpha * dgd.implicit_rate(key, eta=eta), dgd.implicit_rate(key, eta=eta)),
        ),
    ],
)
def test_every_linear_rule_is_one_setting_of_the_rates(rule, rates):
    query, key, value, eta, _, log_alpha, state = random_inputs(11)
    alpha = log_alpha.exp()
    erase, write = rates(eta, alpha, key)
    output, final = erase_write(query, key, value, erase, write, log_alpha, state, chunk_size=4)
    memory = state
    for t in range(11):
        memory = rule(memory, key[:, t], value[:, t], eta=eta[:, t], alpha=alpha[:, t])
        assert_near(output[:, t], (memory @ query[:, t].unsqueeze(-1)).squeeze(-1))
    assert_near(final, memory)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 30), max_size=5), chunk_size=st.integers(1, 9))
def test_pieces_equal_the_whole(cuts, chunk_size):
    inputs = random_inputs(30)
    whole, final = erase_write(*inputs, chunk_size=chunk_size)
    state, outputs = inputs[-1], []
    edges = [0, *sorted(cuts), 30]
    for first, last in pairwise(edges):
        output, state = erase_write(*[x[:, first:last] for x in inputs[:-1]], state, chunk_size=chunk_size)
        outputs.append(output)
    assert_near(torch.cat(outputs, 1), whole)
    assert_near(state, final)


def test_no_tokens_leave_the_state():
    inputs = random_inputs(0)
    output, state = erase_write(*inputs)
    assert output.shape == (2, 0, 3, 4)
    assert torch.equal(state, inputs[-1])


def test_step_is_one_token_of_the_sequence():
    inputs = random_inputs(1)
    output, state = erase_write_step(*[x[:, 0] for x in inputs[:-1]], inputs[-1])
    whole, final = erase_write(*inputs)
    assert_near(output, whole[:, 0])
    assert_near(state, final)


def test_future_tokens_have_no_gradient():
    inputs = random_inputs(19)
    output, _ = erase_write(*inputs, chunk_size=CHUNK_SIZE)
    for t in (0, 7, 8, 12):
        grads = torch.autograd.grad(output[:, t].sum(), inputs[:-1], retain_graph=True)
        assert all(grad[:, t + 1 :].abs().max() == 0 for grad in grads)


def test_rows_and_heads_are_alone():
    inputs = random_inputs(19)
    whole, final = erase_write(*inputs, chunk_size=CHUNK_SIZE)
    alone, alone_state = erase_write(*[x[1:, :, 2:] for x in inputs[:-1]], inputs[-1][1:, 2:], chunk_size=CHUNK_SIZE)
    assert_near(whole[1:, :, 2:], alone)
    assert_near(final[1:, 2:], alone_state)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_alpha_zero_gives_no_nan(dtype):
    inputs = random_inputs(21, dtype=dtype)
    with torch.no_grad():
        inputs[5][:, [0, 3, 4, 16]] = -torch.inf
    expected = results(erase_write_recurrent, inputs)
    got = results(chunked, inputs)
    assert all(tensor.isfinite().all() for tensor in got.values())
    for name, tensor in got.items():
        assert_near(tensor, expected[name], name)
    assert got["log_alpha"][:, [0, 3, 4, 16]].abs().max() == 0


def test_write_and_erase_zero_is_pure_decay():
    query, key, value, erase, write, log_alpha, state = random_inputs(20)
    _, final = erase_write(query, key, value, 0 * erase, 0 * write, log_alpha, state, chunk_size=CHUNK_SIZE)
    assert_near(final, state * log_alpha.sum(1).exp()[..., None, None])


def test_worked_by_hand():
    """Keys e1 then e1: half the old answer is replaced each time: 0 -> 1 -> 2, then 2 -> 1 + 3 = 4 with values 2, 6."""
    ones = torch.ones(1, 2, 1)
    key = torch.tensor([1.0, 0.0]).expand(1, 2, 1, 2)
    value = torch.tensor([2.0, 6.0]).view(1, 2, 1, 1)
    half = 0.5 * ones
    output, state = erase_write(key, key, value, half, half, 0 * ones, torch.zeros(1, 1, 1, 2))
    assert output.flatten().tolist() == [1.0, 3.5]
    assert state.flatten().tolist() == [3.5, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["huge", "tiny", "constant", "repeated"])
def test_hostile_keys_stay_finite(dtype, kind):
    draw = torch.Generator().manual_seed(0)
    key, value = torch.randn(1, 4096, 2, 16, generator=draw), torch.randn(1, 4096, 2, 16, generator=draw)
    if kind == "repeated":
        key = key[:, :3].repeat(1, 1366, 1, 1)[:, :4096]
    if kind == "constant":
        key = torch.ones_like(key)
    size = {"huge": 1e18, "tiny": 1e-30}.get(kind, 1.0)
    key, value = F.normalize(size * key, dim=-1, eps=1e-12).to(dtype), (size * value).to(dtype)
    rate = torch.full((1, 4096, 2), 0.999)
    output, state = erase_write(key, key, value, rate, rate, torch.zeros_like(rate), torch.zeros(1, 2, 16, 16))
    assert output.dtype == dtype
    assert output.isfinite().all()
    assert state.isfinite().all()
    assert state.dtype == torch.float32


def test_bfloat16_is_near_float32():
    inputs = random_inputs(40, dtype=torch.float32)
    exact, _ = erase_write(*inputs)
    half, _ = erase_write(*[x.bfloat16() for x in inputs[:3]], *inputs[3:])
    assert (half.float() - exact).norm() / exact.norm() < 0.02


def test_errors_name_the_argument():
    inputs = random_inputs(4)
    with pytest.raises(ShapeError, match="value"):
        erase_write(inputs[0], inputs[1], inputs[2][:, :2], *inputs[3:])
    with pytest.raises(ShapeError, match="log_alpha"):
        erase_write(*inputs[:5], inputs[5][..., :1], inputs[6])
    with pytest.raises(InputError, match="chunk_size"):
        erase_write(*inputs, chunk_size=0)
    with pytest.raises(InputError, match="float32"):
        erase_write(*inputs[:6], inputs[6].bfloat16())
