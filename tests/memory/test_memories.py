"""One contract for every memory of the table: streaming, causality, rows, reset, saving, types, hostile input."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nestling.errors import CheckpointError, InputError, ShapeError, UnknownNameError
from nestling.memory import MEMORIES, AttentionMemory, DeepMemory, MatrixMemory

DIM, LENGTH, BATCH = 12, 11, 3
CHUNKED = [name for name in MEMORIES if name not in ("attention", "sliding_window")]


def make(name, dtype=torch.float64, **options):
    torch.manual_seed(0)
    options = {"chunk_size": 4, **options} if name in CHUNKED else options
    if name == "sliding_window":
        options = {"window": 5, "num_initial": 2, **options}
    memory = MEMORIES[name](dim=DIM, num_heads=2, **options).to(dtype)
    with torch.no_grad():
        for parameter in memory.initial if isinstance(memory, DeepMemory) else [memory.initial]:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return memory


def tokens(dtype=torch.float64, length=LENGTH, seed=1):
    return torch.randn(BATCH, length, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def near(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def stream(memory, x, cuts, state=None):
    edges, outputs = [0, *sorted(cuts), x.shape[1]], []
    for first, last in pairwise(edges):
        if last > first:
            y, state = memory(x[:, first:last], state)
            outputs.append(y)
    return torch.cat(outputs, 1), state


@pytest.mark.parametrize("name", MEMORIES)
@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(0, LENGTH), max_size=4))
def test_any_split_is_the_whole(name, cuts):
    memory, x = make(name), tokens()
    whole, final = memory(x)
    pieces, state = stream(memory, x, cuts)
    near(pieces, whole)
    near(state.state_dict(), final.state_dict())


WIRED = [(name, {"conv_width": 3, "output": output}) for name in CHUNKED for output in ("normed", "gated")]
WIRED += [("attention", {"rope_theta": 100.0}), ("sliding_window", {"rope_theta": 100.0})]


@pytest.mark.parametrize(("name", "options"), WIRED)
def test_wired_as_in_language_models_any_split_is_the_whole(name, options):
    memory, x = make(name, **options), tokens()
    whole, final = memory(x)
    with torch.no_grad():
        pieces, state = stream(memory, x, [1, 2, 6, 7])
    near(pieces, whole)
    near(state.state_dict(), final.state_dict())
    changed, _ = memory(x.index_fill(1, torch.tensor([5]), 0.3))
    near(changed[:, :5], whole[:, :5])
    assert (changed[:, 5:] - whole[:, 5:]).abs().amin(dim=(0, 2)).max() > 1e-6
    parameters = [parameter for parameter in memory.parameters() if parameter.numel()]
    for gradient in torch.autograd.grad(whole.square().sum(), parameters):
        assert gradient.abs().max() > 0


def test_outputs_are_norm_and_gate_before_the_map():
    """Against the formula, per head: W_out [g * y / sqrt(mean(y^2) + 1e-6) * silu(W_gate x)]."""
    x = tokens()
    plain, gated = make("delta", output="linear"), make("delta", output="gated")
    gated.project, gated.initial = plain.project, plain.initial
    plain.output.weight.data = torch.eye(DIM, dtype=torch.float64)
    with torch.no_grad():
        gated.output.norm_weight.copy_(torch.linspace(0.5, 2, DIM // 2))
    heads = plain(x)[0].unflatten(-1, (2, DIM // 2))
    heads = gated.output.norm_weight * heads / (heads.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    gate = x @ gated.output.gate.weight.T
    near(gated(x)[0], (heads.flatten(2) * gate * gate.sigmoid()) @ gated.output.weight.T)
    with pytest.raises(UnknownNameError, match="gated"):
        make("delta", output="gatd")


def test_attention_turns_places_as_llama_does():
    rotary = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = rotary.LlamaConfig(hidden_size=DIM, num_attention_heads=2, rope_theta=50.0)
    memory, x = make("attention", rope_theta=50.0), tokens()
    query, key, value = memory.pairs(x).unflatten(-1, (3, 2, DIM // 2)).transpose(1, 3).unbind(2)
    cos, sin = rotary.LlamaRotaryEmbedding(config)(x, torch.arange(LENGTH)[None])
    query, key = rotary.apply_rotary_pos_emb(query, key, cos, sin)
    scores = (query @ key.mT / (DIM // 2) ** 0.5).masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), -torch.inf)
    expected = memory.output((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(memory(x)[0], expected, rtol=1e-5, atol=1e-6)  # its angles are float32
    with pytest.raises(InputError, match="even"):
        AttentionMemory(dim=6, num_heads=2, rope_theta=10.0)


@pytest.mark.parametrize("name", MEMORIES)
def test_token_by_token_through_saving(name):
    memory, x = make(name), tokens()
    whole, _ = memory(x)
    fresh = make(name)
    fresh.load_state_dict(memory.state_dict())
    state = None
    for t in range(LENGTH):
        y, state = fresh(x[:, t : t + 1], state)
        near(y, whole[:, t : t + 1])
        state = type(state).from_state_dict({key: value.clone() for key, value in state.state_dict().items()})


@pytest.mark.parametrize("name", MEMORIES)
def test_decoding_without_gradients_is_the_whole(name):
    memory, x = make(name), tokens()
    whole, state = memory(x)[0], None
    with torch.no_grad():
        for t in range(LENGTH):
            y, state = memory(x[:, t : t + 1], state)
            near(y, whole[:, t : t + 1])


def test_decoding_calls_hooks_and_replaced_layers():
    memory, x = make("delta"), tokens(length=1)
    with torch.no_grad():
        plain, _ = memory(x)
        handle = memory.output.register_forward_hook(lambda module, args, y: 2 * y)
        near(memory(x)[0], 2 * plain)
        handle.remove()
        memory.project.maps = torch.nn.Sequential(memory.project.maps, torch.nn.Identity())
        near(memory(x)[0], plain)
        memory.project.maps = memory.project.maps[0]
        memory.output.weight.mul_(3)
        near(memory(x)[0], 3 * plain)


@pytest.mark.parametrize("name", MEMORIES)
def test_the_future_has_no_gradient_and_everything_learns(name):
    memory, x = make(name), tokens().requires_grad_()
    y, _ = memory(x)
    for t in (0, 3, 6):
        (grad,) = torch.autograd.grad(y[:, t].sum(), x, retain_graph=True)
        assert grad[:, t + 1 :].abs().max() == 0
        assert grad[:, : t + 1].abs().max() > 0
    y.square().sum().backward()
    for key, parameter in memory.named_parameters():
        if parameter.numel():
            assert parameter.grad is not None, key
            assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", MEMORIES)
def test_rows_do_not_see_each_other(name):
    memory, x = make(name), tokens()
    whole, state = memory(x)
    alone, alone_state = memory(x[1:2])
    near(whole[1:2], alone)
    changed = x.clone()
    changed[0] += 100
    near(memory(changed)[0][1:], whole[1:])
    near([v[1:2] for v in state.state_dict().values()], list(alone_state.state_dict().values()))


@pytest.mark.parametrize("name", MEMORIES)
@pytest.mark.parametrize("when", [4, 6])
def test_reset_starts_a_row_again_anywhere_in_a_chunk(name, when):
    memory, x = make(name), tokens()
    whole, _ = memory(x)
    _, state = memory(x[:, :when])
    kept = {key: value.clone() for key, value in state.state_dict().items()}
    after, _ = memory(x[:, when:], memory.reset(state, [1]))
    near(state.state_dict(), kept)
    near(after[1], memory(x[:, when:])[0][1])
    near(after[[0, 2]], whole[[0, 2], when:])
    mask = torch.tensor([False, True, False])
    near(memory.reset(state, mask).state_dict(), memory.reset(state, [1]).state_dict())


@pytest.mark.parametrize("name", MEMORIES)
def test_bfloat16_tokens_keep_a_float32_state(name):
    single = make(name, torch.float32)
    half = make(name, torch.float32).bfloat16()
    x = tokens(torch.float32)
    y, state = half(x.bfloat16())
    assert y.dtype == torch.bfloat16
    floats = [value for value in state.state_dict().values() if value.is_floating_point()]
    assert all(value.dtype == torch.float32 for value in floats)
    exact = single(x)[0]
    assert ((y.float() - exact).norm() / exact.norm()).item() < 0.05


HOSTILE = {
    "huge": lambda x: 1e15 * x,
    "tiny": lambda x: 1e-30 * x,
    "constant": torch.ones_like,
    "repeated": lambda x: x[:, :3].repeat(1, 200, 1)[:, : x.shape[1]],
    "mixed": lambda x: x * torch.logspace(-20, 15, x.shape[1]).unsqueeze(-1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", CHUNKED)
def test_hostile_tokens_give_no_nan(name, kind, dtype):
    memory = make(name, torch.float32, chunk_size=32).to(dtype)
    x = HOSTILE[kind](tokens(torch.float32, length=600)).to(dtype)
    with torch.no_grad():
        y, state = memory(x)
    assert y.isfinite().all()
    assert all(value.isfinite().all() for value in state.state_dict().values())


@pytest.mark.parametrize("name", [name for name in MEMORIES if name != "attention"])
def test_state_does_not_grow(name):
    memory = make(name, torch.float32)
    _, short = memory(tokens(torch.float32, length=20))
    _, long = memory(tokens(torch.float32, length=60), short)
    assert long.num_bytes() == short.num_bytes()


def test_retention_is_near_one_at_the_start():
    memory = MatrixMemory(dim=DIM, num_heads=4)
    alpha = memory.project(torch.zeros(1, 1, DIM)).log_alpha.exp()
    assert 0.96 < alpha.min().item() < alpha.max().item() < 1


@pytest.mark.parametrize("rule", ["gradient", "momentum", "dgd"])
def test_a_deep_memory_is_alive_after_a_long_text(rule):
    memory, draw, state = DeepMemory(rule, dim=8, num_heads=1), torch.Generator().manual_seed(0), None
    with torch.no_grad():
        for _ in range(16):
            _, state = memory(torch.randn(1, 512, 8, generator=draw), state)
        _, after = memory(torch.randn(1, 64, 8, generator=draw), state)
    for first, before, now in zip(memory.initial, state.memory, after.memory):
        assert before.norm() > 0.3 * first.norm()
        assert (now - before).norm() > 1e-3 * before.norm()


def test_delta_memory_recalls_what_it_was_told():
    """Orthogonal keys, eta near 1, no decay: the memory answers each key with its value (float32)."""
    memory = MatrixMemory("delta", dim=8, num_heads=1)
    with torch.no_grad():
        memory.project.maps.weight.zero_()
        memory.project.maps.weight[:24].copy_(torch.eye(8).repeat(3, 1))
        memory.project.rate_bias.fill_(30.0)
        memory.output.weight.copy_(torch.eye(8))
        x = torch.eye(8).unsqueeze(0)
        _, state = memory(x)
        answers = state.memory[0][0, 0] @ torch.eye(8)
    torch.testing.assert_close(answers, torch.eye(8))


def test_attention_is_softmax_over_the_past():
    memory, x = make("attention"), tokens()
    query, key, value = memory.pairs(x).unflatten(-1, (3, 2, DIM // 2)).transpose(1, 3).unbind(2)
    scores = (query @ key.mT / (DIM // 2) ** 0.5).masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), -torch.inf)
    expected = memory.output((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
    near(memory(x)[0], expected)


def test_states_move_detach_and_reject_strangers():
    memory, x = make("deep_momentum"), tokens()
    _, state = memory(x)
    assert state.memory[0].requires_grad
    assert not state.detach().memory[0].requires_grad
    near(state.to("cpu").state_dict(), state.state_dict())
    with pytest.raises(CheckpointError, match="unknown entry"):
        type(state).from_state_dict({"surprise_typo": x})
    with pytest.raises(CheckpointError, match="incomplete"):
        type(state).from_state_dict({"position": x})


def test_errors_say_what_to_do():
    memory, x = make("delta"), tokens()
    with pytest.raises(ShapeError, match="D = 12"):
        memory(x[..., :5])
    _, state = memory(x)
    with pytest.raises(ShapeError, match="3"):
        memory(x[:2], state)
    with pytest.raises(ShapeError, match="rows"):
        memory.reset(state, torch.zeros(5, dtype=torch.bool))
    with pytest.raises(UnknownNameError, match="gated_delta"):
        MatrixMemory("gated_dleta", dim=8, num_heads=2)
    with pytest.raises(UnknownNameError, match="momentum"):
        DeepMemory("momentm", dim=8, num_heads=2)
    with pytest.raises(UnknownNameError, match="l2"):
        DeepMemory(dim=8, num_heads=2, loss="l3")
    with pytest.raises(InputError, match="multiple"):
        MatrixMemory(dim=9, num_heads=2)
    with pytest.raises(InputError, match="depth"):
        DeepMemory(dim=8, num_heads=2, depth=1)
    with pytest.raises(InputError, match="window"):
        AttentionMemory(dim=8, num_heads=2, window=0)
    with pytest.raises(InputError, match="chunk_size"):
        MatrixMemory(dim=8, num_heads=2, chunk_size=0)
