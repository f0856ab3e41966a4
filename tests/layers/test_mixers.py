"""The contract of every mixer that is not already a memory, and what each wiring of Titans computes."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from nestling.errors import InputError, ShapeError, UnknownNameError
from nestling.layers import MIXERS, MemoryAsContext, MemoryAsGate, MemoryAsLayer, NeuralMemory, ShortConvolution
from nestling.memory import MEMORIES

DIM, LENGTH, BATCH, WINDOW = 12, 14, 3, 4
CASES = {
    "self_modifying": {"chunk_size": 4, "span": 30.0},
    "titans": {"chunk_size": 4},
    "titans_mac": {"window": WINDOW},
    "titans_mag": {"window": WINDOW, "chunk_size": 3},
    "titans_mal": {"window": WINDOW, "chunk_size": 3},
}
KINDS = [(name, kind) for name in CASES for kind in ("mlp", "matrix")]


def make(name, kind, dtype=torch.float64):
    torch.manual_seed(0)
    layer = MIXERS[name](dim=DIM, num_heads=2, kind=kind, **CASES[name]).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def tokens(dtype=torch.float64, length=LENGTH):
    return torch.randn(BATCH, length, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def near(got, expected, tolerance=1e-10):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def test_the_table_has_every_memory_and_every_case_here():
    assert set(MIXERS) == {*MEMORIES, *CASES}


@pytest.mark.parametrize(("name", "kind"), KINDS)
@pytest.mark.parametrize("cuts", [(1, 2, 3), (4, 8), (5, 6, 13), tuple(range(1, LENGTH))])
def test_any_split_is_the_whole(name, kind, cuts):
    layer, x, state, outputs = make(name, kind), tokens(), None, []
    whole, final = layer(x)
    for first, last in pairwise((0, *cuts, LENGTH)):
        y, state = layer(x[:, first:last], state)
        outputs.append(y)
        state = type(state).from_state_dict({key: value.clone() for key, value in state.state_dict().items()})
    near(torch.cat(outputs, 1), whole)
    near(state.state_dict(), {key: value.detach() for key, value in final.state_dict().items()})


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_the_future_has_no_gradient_and_everything_learns(name, kind):
    layer, x = make(name, kind), tokens().requires_grad_()
    y, _ = layer(x)
    for t in (0, 3, 6):
        (grad,) = torch.autograd.grad(y[:, t].square().sum(), x, retain_graph=True)
        assert grad[:, t + 1 :].abs().max() == 0
        assert grad[:, : t + 1].abs().max() > 0
    (y.sin() * torch.arange(1, DIM + 1)).sum().backward()
    for key, parameter in layer.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize(("name", "kind"), KINDS)
@pytest.mark.parametrize("when", [4, 6])
def test_rows_are_alone_and_can_be_reset(name, kind, when):
    layer, x = make(name, kind), tokens()
    whole, _ = layer(x)
    near(layer(x[1:2])[0], whole[1:2])
    _, state = layer(x[:, :when])
    after, _ = layer(x[:, when:], layer.reset(state, [1]))
    near(after[1], layer(x[:, when:])[0][1])
    near(after[[0, 2]], whole[[0, 2], when:])


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_the_first_token_is_remembered_beyond_every_window(name, kind):
    layer, x = make(name, kind), tokens(length=12 * WINDOW)
    changed = x.clone()
    changed[:, 0] += 1
    assert (layer(x)[0] - layer(changed)[0])[:, -1].abs().max() > 1e-9


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_bfloat16_tokens_keep_a_float32_state(name, kind):
    y, state = make(name, kind, torch.float32).bfloat16()(tokens(torch.bfloat16))
    exact, _ = make(name, kind, torch.float32)(tokens(torch.float32))
    assert y.dtype == torch.bfloat16
    assert torch.bfloat16 not in {value.dtype for value in state.state_dict().values()}
    assert ((y.float() - exact).norm() / exact.norm()).item() < 0.06


def attention(layer, query_tokens, pair_tokens, seen):
    """Softmax by hand: seen[t] lists the places of `pair_tokens` that token t sees, after all persistent tokens."""
    heads, persistent = layer.num_heads, layer.attention.persistent.expand(BATCH, -1, -1)
    places = torch.cat([persistent, pair_tokens], dim=1)
    _, key, value = layer.attention.pairs(places).unflatten(-1, (3, heads, -1)).unbind(2)
    query = layer.attention.pairs(query_tokens).unflatten(-1, (3, heads, -1))[:, :, 0]
    rows, count = [], persistent.shape[1]
    for t, chosen in enumerate(seen):
        index = [*range(count), *(count + place for place in chosen)]
        scores = torch.einsum("bhk,bphk->bhp", query[:, t], key[:, index]) / (DIM // heads) ** 0.5
        rows.append(torch.einsum("bhp,bphk->bhk", scores.softmax(-1), value[:, index]).flatten(1))
    return layer.attention.output(torch.stack(rows, 1))


def gated(layer, y, stored):
    def norm(x, weight):
        return weight * x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt()

    return norm(y, layer.gate.norm.weight) * torch.sigmoid(norm(stored, layer.gate.gate_norm.weight))


def sliding():
    return [range(max(0, t - WINDOW + 1), t + 1) for t in range(LENGTH)]


@pytest.mark.parametrize("kind", ["mlp", "matrix"])
def test_gate_and_layer_are_their_equations(kind):
    x = tokens()
    gate, layer = make("titans_mag", kind), make("titans_mal", kind)
    near(gate(x)[0], gated(gate, attention(gate, x, x, sliding()), gate.memory(x)[0]))
    stored = layer.memory(x)[0]
    near(layer(x)[0], attention(layer, stored, stored, sliding()))


@pytest.mark.parametrize("kind", ["mlp", "matrix"])
def test_context_is_its_equation(kind):
    layer, x = make("titans_mac", kind), tokens()
    memory, outputs = layer.memory.initial_state(BATCH), []
    for first in range(0, LENGTH, WINDOW):
        part = x[:, first : first + WINDOW]
        count = part.shape[1]
        query = F.normalize(layer.memory.inner.project.maps(part)[..., :DIM].unflatten(-1, (2, -1)), dim=-1)
        answer = query.transpose(1, 2)
        if kind == "matrix":
            answer = answer @ memory.memory[0].mT
        else:
            answer = answer + F.silu(answer @ memory.memory[0].mT) @ memory.memory[1].mT
        recalled = layer.memory.inner.output(answer.transpose(1, 2).flatten(2))
        seen = [[*range(t + 1), *range(count, count + t + 1)] for t in range(count)]
        y = attention(layer, part, torch.cat([recalled, part], 1), seen)
        stored, memory = layer.memory(y, memory)
        outputs.append(gated(layer, y, stored))
    near(layer(x)[0], torch.cat(outputs, 1))


def test_a_short_convolution_is_conv1d_in_any_pieces():
    layer, x = ShortConvolution(dim=DIM, width=3).double(), tokens()
    assert 0.3 < layer.taps.abs().max() < 3**-0.5
    expected = F.conv1d(F.pad(x.mT, (2, 0)), layer.taps.T.unsqueeze(1), groups=DIM).mT
    whole, state = layer(x)
    near(whole, expected)
    first, middle = layer(x[:, :1])
    rest, end = layer(x[:, 1:], middle)
    near(torch.cat([first, rest], 1), expected)
    near(end, state)


def test_errors_say_what_to_do():
    with pytest.raises(InputError, match="window"):
        MemoryAsContext(dim=8, num_heads=2, window=0)
    with pytest.raises(InputError, match="num_persistent"):
        MemoryAsLayer(dim=8, num_heads=2, num_persistent=-1)
    with pytest.raises(UnknownNameError, match="matrix"):
        NeuralMemory(dim=8, num_heads=2, kind="matrx")
    with pytest.raises(InputError, match="width"):
        ShortConvolution(dim=8, width=0)
    with pytest.raises(ShapeError, match="D = 8"):
        MemoryAsGate(dim=8, num_heads=2)(torch.zeros(1, 3, 7))
