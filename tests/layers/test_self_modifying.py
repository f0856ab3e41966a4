"""Self-modifying Titans against the token-by-token reference, and what its memories must never do."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nestling.errors import InputError, ShapeError, UnknownNameError
from nestling.layers import SelfModifyingTitans, self_modifying_reference
from nestling.layers.self_modifying_options import Options, log_retention, shares, token_rates

DIM, HEADS, BATCH, CHUNK = 6, 2, 2, 4
LENGTHS = [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 7]
VARIANTS = {
    "implicit": {},
    "explicit": {"dgd": "explicit"},
    "printed": {"dgd": "explicit", "gradient": "anchor", "read": "anchor"},
    "implicit, anchored": {"gradient": "anchor", "limit": None},
    "implicit, anchor reads": {"read": "anchor"},
    "momentum": {"momentum": True},
    "explicit momentum": {"dgd": "explicit", "momentum": True, "read": "anchor"},
    "no DGD": {"dgd": "off"},
    "no DGD, anchored": {"dgd": "off", "gradient": "anchor", "momentum": True},
    "no weight decay": {"weight_decay": False},
    "no weight decay, explicit": {"weight_decay": False, "dgd": "explicit", "gradient": "anchor"},
    "adaptive query": {"adaptive": ("key", "value", "query", "eta", "alpha")},
    "static key": {"adaptive": ("value", "eta", "alpha")},
    "static value": {"adaptive": ("key", "eta", "alpha")},
    "all static": {"adaptive": ()},
    "no convolution": {"conv_width": 1},
    "negative eigenvalues": {"negative_eigenvalues": True},
    "negative eigenvalues, explicit": {"negative_eigenvalues": True, "dgd": "explicit"},
    "negative eigenvalues, no DGD": {"negative_eigenvalues": True, "dgd": "off"},
    "negative eigenvalues, momentum": {"negative_eigenvalues": True, "momentum": True},
    "decay to the start": {"decay_to": "initial"},
    "decay to the start, explicit": {"decay_to": "initial", "dgd": "explicit", "gate": 0.3},
    "decay to the start, printed": {"decay_to": "initial", "dgd": "explicit", "gradient": "anchor", "read": "anchor"},
    "decay to the start, anchored": {"decay_to": "initial", "gradient": "anchor", "limit": None},
    "decay to the start, momentum": {"decay_to": "initial", "momentum": True, "conv_width": 1},
    "decay to the start, no DGD": {"decay_to": "initial", "dgd": "off", "span_ratio": 1.0},
    "decay to the start, two sizes": {"decay_to": "initial", "memory_chunk_size": 3, "negative_eigenvalues": True},
    "decay to the start, static key": {"decay_to": "initial", "adaptive": ("value", "eta")},
    "gated output": {"output": "gated"},
    "normed output, anchor reads": {"output": "normed", "read": "anchor"},
    "faster rates": {"rate_gain": 16.0},
    "faster rates, decay to the start": {"rate_gain": 16.0, "decay_to": "initial", "gate": 0.3},
    "bounded decay": {"span_floor": 0.25},
    "bounded decay, explicit": {"span_floor": 0.5, "dgd": "explicit", "decay_to": "initial", "rate_gain": 4.0},
    "bounded decay, no DGD": {"span_floor": 0.1, "dgd": "off", "momentum": True},
    "bounded decay, no convolution": {"span_floor": 0.25, "conv_width": 1, "negative_eigenvalues": True},
    "longer chunks of the memory": {"memory_chunk_size": 6},
    "shorter chunks of the memory": {"memory_chunk_size": 3, "gradient": "anchor", "momentum": True},
}
KINDS = ("matrix", "mlp")
EVERY = [pytest.param(options, id=name) for name, options in VARIANTS.items()] + [
    pytest.param({"kind": "mlp", "hidden": 8, **options}, id=f"mlp, {name}")
    for name, options in VARIANTS.items()
    if not {"gradient", "negative_eigenvalues", "decay_to"} & set(options)
    and name not in ("static value", "no convolution")
]


def make(dtype=torch.float64, **options):
    torch.manual_seed(0)
    options = {"dim": DIM, "num_heads": HEADS, "chunk_size": CHUNK, "span": 12.0, **options}
    layer = SelfModifyingTitans(**options).to(dtype)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "taps" in name or "rates" in name or "value" in name:
                parameter.add_(0.5 * torch.randn_like(parameter))
    return layer


def tokens(dtype=torch.float64, length=LENGTHS[-1], seed=1, dim=DIM, batch=BATCH):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(batch, length, dim, generator=generator, dtype=torch.float64)).to(dtype)


def near(got, expected, tolerance=1e-10):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def stream(layer, x, cuts, state=None):
    edges, outputs = [0, *sorted(cuts), x.shape[1]], []
    for first, last in pairwise(edges):
        if last > first:
            y, state = layer(x[:, first:last], state)
            outputs.append(y)
    return torch.cat(outputs, 1), state


def gradients(layer, x, y, memories):
    """Gradients of the tokens and of all parameters, of a loss that sees outputs and final memories."""
    weights = [weight for name in sorted(memories) for weight in memories[name]]
    loss = sum((i + 1) * part.sin().sum() for i, part in enumerate([y, *weights]))
    names, parameters = zip(*layer.named_parameters())
    found = torch.autograd.grad(loss, [x, *parameters], allow_unused=True)
    return dict(zip(("x", *names), [torch.zeros(()) if grad is None else grad for grad in found]))


@pytest.mark.parametrize("options", EVERY)
@pytest.mark.parametrize("length", LENGTHS)
def test_chunks_are_the_reference(options, length):
    layer, x = make(**options), tokens(length=length).requires_grad_()
    y, state = layer(x)
    expected, memories, surprise = self_modifying_reference.run(layer, x)
    near(y, expected)
    memories = {name: weights for name, weights in memories.items() if "probe" not in name}
    near(layer.named_memories(state), memories)
    if layer.how.momentum:
        near(layer.memories.materialise(state.surprise)["memory"], surprise["memory"])
    near(gradients(layer, x, y, layer.named_memories(state)), gradients(layer, x, expected, memories), 1e-8)


@pytest.mark.parametrize("dgd", ["implicit", "explicit"])
def test_chunk_size_one_is_equation_88(dgd):
    """Written out once more with nothing but matrix products: no momentum, no convolution, one head, one row."""
    layer, x = make(dgd=dgd, chunk_size=1, conv_width=1, num_heads=1, limit=None), tokens(batch=1)
    memories = {name: weights[0][0] for name, weights in layer.memories.initial_memories().items()}
    one, outputs = torch.eye(DIM, dtype=torch.float64), []
    for token in x[0]:
        z, q = (layer.input.weight @ token).split(DIM)
        k, v = memories["key"] @ z, memories["value"] @ z
        k, q = k / k.norm(), q / q.norm()
        eta, alpha = (
            torch.sigmoid(memories[name] @ z + layer.rate_bias[0, i]) for i, name in enumerate(("eta", "alpha"))
        )
        rate = alpha * eta / 2 if dgd == "explicit" else eta / (1 + eta)
        for name, matrix in memories.items():
            kept = alpha * matrix if dgd == "implicit" else matrix
            slope = torch.outer(kept @ k - matrix @ v, k)
            if dgd == "explicit":
                memories[name] = matrix @ (alpha * one - rate * torch.outer(k, k)) - rate * slope
            else:
                memories[name] = kept @ (one - rate * torch.outer(k, k)) - rate * slope
        outputs.append(layer.output.weight @ memories["memory"] @ q)
    y, state = layer(x)
    near(y[0], torch.stack(outputs))
    near({name: weights[0][0, 0] for name, weights in layer.named_memories(state).items()}, memories)


@pytest.mark.parametrize("options", EVERY)
@settings(max_examples=2, deadline=None)
@given(cuts=st.lists(st.integers(0, LENGTHS[-1]), max_size=4))
def test_any_split_is_the_whole(options, cuts):
    layer, x = make(**options), tokens()
    whole, final = layer(x)
    pieces, state = stream(layer, x, cuts)
    near(pieces, whole)
    near(state.state_dict(), final.state_dict())


@pytest.mark.parametrize("options", EVERY)
def test_token_by_token_in_float32_through_saving(options):
    layer, x, state = make(torch.float32, **options), tokens(torch.float32), None
    whole, _ = layer(x)
    fresh = make(torch.float32, **options)
    fresh.load_state_dict(layer.state_dict())
    with torch.no_grad():
        for t in range(x.shape[1]):
            y, state = fresh(x[:, t : t + 1], state)
            near(y, whole[:, t : t + 1], 1e-5)
            state = type(state).from_state_dict({key: value.clone() for key, value in state.state_dict().items()})


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("dgd", ["implicit", "explicit", "off"])
@torch.no_grad()
def test_decoding_ends_in_the_state_of_the_whole(dgd, negative):
    layer, x, state, answers = make(dgd=dgd, negative_eigenvalues=negative), tokens(), None, []
    whole, final = layer(x)
    for t in range(x.shape[1]):
        y, state = layer(x[:, t : t + 1], state)
        answers.append(y)
    near(torch.cat(answers, dim=1), whole)
    near(state.state_dict(), final.state_dict())


@pytest.mark.parametrize("options", EVERY)
def test_the_future_has_no_gradient_and_everything_learns(options):
    layer, x = make(**options), tokens().requires_grad_()
    y, _ = layer(x)
    for t in (0, 3, 6):
        (grad,) = torch.autograd.grad(y[:, t].sum(), x, retain_graph=True)
        assert grad[:, t + 1 :].abs().max() == 0
        assert grad[:, : t + 1].abs().max() > 0
    y.square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad.reshape(len(parameter), -1).abs().amax(1) > 1e-12).all(), name


def test_the_first_projections_learn_only_through_writes():
    """A new context of one chunk with anchor reads sees no write: then the memories that write have no gradient."""
    layer = make(read="anchor")
    one, _ = layer(tokens(length=CHUNK))
    two, _ = layer(tokens(length=CHUNK + 1))
    for name in ("key", "value", "rates"):
        weight = layer.memories.initial[name]
        (none,) = torch.autograd.grad(one.sum(), weight, retain_graph=True, allow_unused=True)
        (some,) = torch.autograd.grad(two.sum(), weight, retain_graph=True)
        assert none is None or none.abs().max() == 0
        assert some.abs().max() > 0


@pytest.mark.parametrize("options", EVERY)
def test_the_first_token_moves_outputs_more_than_ten_chunks_later(options):
    layer, x = make(**{**options, "span": 2.0**15}), tokens(length=14 * CHUNK)
    changed = x.clone()
    changed[:, 0] = -changed[:, 0]
    moved = (layer(x)[0] - layer(changed)[0]).norm(dim=-1) / layer(x)[0].norm(dim=-1)
    assert moved[:, 11 * CHUNK :].min() > 1e-9


@pytest.mark.parametrize("options", EVERY)
def test_rows_do_not_see_each_other(options):
    layer, x = make(**options), tokens(batch=3)
    whole, state = layer(x)
    alone, alone_state = layer(x[1:2])
    near(whole[1:2], alone)
    near({key: value[1:2] for key, value in state.state_dict().items()}, alone_state.state_dict())
    changed = x.clone()
    changed[0] += 100
    near(layer(changed)[0][1:], whole[1:])


@pytest.mark.parametrize("options", EVERY)
@pytest.mark.parametrize("when", [CHUNK, CHUNK + 2])
def test_reset_starts_a_row_again_anywhere_in_a_chunk(options, when):
    layer, x = make(**options), tokens(batch=3)
    whole, _ = layer(x)
    _, state = layer(x[:, :when])
    kept = {key: value.clone() for key, value in state.state_dict().items()}
    after, end = layer(x[:, when:], layer.reset(state, [1]))
    near(state.state_dict(), kept)
    near(after[1], layer(x[:, when:])[0][1])
    near(after[[0, 2]], whole[[0, 2], when:])
    near(
        {key: value[[0, 2]] for key, value in end.state_dict().items()},
        {key: value[[0, 2]] for key, value in layer(x)[1].state_dict().items()},
    )


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_tokens_keep_a_float32_state(kind):
    single, half = make(torch.float32, kind=kind), make(torch.float32, kind=kind).bfloat16()
    x = tokens(torch.float32)
    y, state = half(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert {value.dtype for value in state.state_dict().values()} == {torch.float32, torch.int64}
    exact = single(x)[0]
    assert ((y.float() - exact).norm() / exact.norm()).item() < 0.06
    with torch.autocast("cpu", torch.bfloat16):
        mixed, state = single(x)
    assert {value.dtype for value in state.state_dict().values()} == {torch.float32, torch.int64}
    assert ((mixed.float() - exact).norm() / exact.norm()).item() < 0.05


HOSTILE = {
    "huge": lambda x: 1e15 * x,
    "tiny": lambda x: 1e-30 * x,
    "constant": torch.ones_like,
    "repeated": lambda x: x[:, :3].repeat(1, 200, 1)[:, : x.shape[1]],
    "mixed": lambda x: x * torch.logspace(-20, 15, x.shape[1]).unsqueeze(-1),
}


# Plain gradient descent at an anchor is left out: it diverges when chunk_size * eta exceeds 2.
HARDY = ("implicit", "explicit", "printed", "momentum", "no DGD", "mlp, implicit", "mlp, momentum", "mlp, explicit")
HARDY += ("negative eigenvalues", "negative eigenvalues, explicit")
HARDY += ("decay to the start", "decay to the start, explicit", "decay to the start, momentum")


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("options", [case for case in EVERY if case.id in HARDY])
def test_hostile_tokens_give_no_nan(options, hostile):
    layer = make(torch.float32, **{**options, "chunk_size": 32, "head_dim": 8, "span": 1e3})
    x = HOSTILE[hostile](tokens(torch.float32, length=160)).requires_grad_()
    y, state = layer(x)
    y.mean().backward()
    assert y.isfinite().all()
    if hostile not in ("huge", "mixed"):
        assert x.grad.isfinite().all()
    assert all(value.isfinite().all() for value in state.state_dict().values())


@pytest.mark.parametrize(("decay_to", "left"), [("zero", 0.0), ("initial", 1.0)])
def test_what_is_left_of_a_memory_that_forgets(decay_to, left):
    """Tokens of length 0 write nothing: after many of them only the decay's end is left."""
    layer = make(decay_to=decay_to, span=2.0, span_ratio=1.0)
    start = layer.named_memories(layer.initial_state(BATCH))
    _, state = layer(tokens())
    written = layer.named_memories(state)
    _, state = layer(torch.zeros(BATCH, 200, DIM, dtype=torch.float64), state)
    for name, memory in layer.named_memories(state).items():
        assert (written[name][0] - start[name][0]).norm() > 1e-3 * start[name][0].norm()
        near(memory[0], left * start[name][0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_gain_of_the_rates_changes_how_fast_they_learn_and_nothing_else(kind):
    slow, fast = make(kind=kind), make(kind=kind, rate_gain=8.0)
    fast.load_state_dict({name: part / 8 if "rate" in name else part for name, part in slow.state_dict().items()})
    x = torch.randn(BATCH, 2 * CHUNK + 3, DIM, dtype=torch.float64)
    answers = [layer(x)[0] for layer in (slow, fast)]
    near(*answers)
    for y in answers:
        y.square().sum().backward()
    for name, parameter in slow.named_parameters():
        near(fast.get_parameter(name).grad, (8.0 if "rate" in name else 1.0) * parameter.grad, 1e-8)
    new = [SelfModifyingTitans(dim=6, num_heads=2, kind=kind, rate_gain=gain) for gain in (1.0, 8.0)]
    near(new[0].rate_bias, 8 * new[1].rate_bias, 1e-5)
    near(new[0].memories.initial["rates"], 8 * new[1].memories.initial["rates"], 1e-5)


@pytest.mark.parametrize(("heads", "spans"), [(1, [20.0]), (3, [10.0, 20.0, 40.0])])
def test_heads_remember_differently_long(heads, spans):
    layer = SelfModifyingTitans(dim=6, num_heads=heads, span=10.0, span_ratio=4.0, gate=0.3)
    gate, alpha = torch.sigmoid(layer.rate_bias).unbind(-1)
    near(gate, torch.full((heads,), 0.3), 1e-6)
    near(1 / (1 - alpha), torch.tensor(spans), 1e-4)


def test_a_bound_on_forgetting():
    """The start is that of a layer without; no logit takes more than the bound, and a span below it is free."""
    spans, share = [10.0, 20.0, 40.0], 1 / 16
    layer, free = (
        SelfModifyingTitans(dim=6, num_heads=3, span=10.0, span_ratio=4.0, gate=0.3, span_floor=floor)
        for floor in (share, None)
    )
    lowest = torch.tensor(layer.lowest).view(-1, 1, 1)
    near(lowest.flatten(), torch.tensor([0.0, 1 - 0.8, 1 - 0.4]), 1e-6)
    logits = layer.rate_bias.unsqueeze(1)
    start = token_rates(logits, None, layer.how, lowest)
    near(start.log_alpha, token_rates(free.rate_bias.unsqueeze(1), None, free.how).log_alpha, 1e-5)
    near(1 / (1 - start.log_alpha.exp()), torch.tensor(spans).unsqueeze(1), 1e-3)
    wiped = token_rates(logits - 100, None, layer.how, lowest).log_alpha.exp()
    near(wiped, lowest.squeeze(-1), 1e-6)


@pytest.mark.parametrize("momentum", [False, True])
def test_gradients_stay_finite_at_a_bound(momentum):
    """Of the hand-written chunk and of the general path; a head whose bound is 0 has the gradient of one without."""
    options = {"span_floor": 1 / 16, "span": 8.0, "span_ratio": 64.0, "momentum": momentum}
    for bias in (-100.0, -16.0, 100.0):
        layer = make(dtype=torch.float32, **options)
        with torch.no_grad():
            layer.rate_bias[:, 1] = bias
        layer(tokens(torch.float32))[0].square().sum().backward()
        assert all(part.grad is not None and part.grad.isfinite().all() for part in layer.parameters())
    logit = torch.tensor([-30.0], requires_grad=True)
    log_retention(logit, torch.zeros(1)).backward()
    near(logit.grad, torch.ones(1))


@pytest.mark.parametrize("dgd", ["implicit", "explicit", "off"])
@pytest.mark.parametrize(("negative", "kept"), [(True, [1.0, 0.0, -1.0]), (False, [1.0, None, 0.0])])
def test_what_a_write_keeps_along_its_key(dgd, negative, kept):
    how = Options(dgd=dgd, negative_eigenvalues=negative)
    logits = torch.tensor([[[-20.0, 20.0], [0.0, 20.0], [20.0, 20.0]]], dtype=torch.float64)
    key = torch.nn.functional.normalize(torch.ones(1, 3, 4, dtype=torch.float64), dim=-1)
    rates = token_rates(logits, None, how)
    share = rates.log_alpha.exp() - shares(key, rates, how).erase.squeeze(-1)
    middle = {"implicit": 1 / 3, "explicit": 0.5, "off": 0.5}[dgd]
    expected = torch.tensor([[middle if part is None else part for part in kept]], dtype=torch.float64)
    near(share, expected, 1e-6)


def test_errors_say_what_to_do():
    with pytest.raises(UnknownNameError, match="matrix"):
        make(kind="matrx")
    with pytest.raises(UnknownNameError, match="implicit"):
        make(dgd="implict")
    with pytest.raises(UnknownNameError, match="value"):
        make(adaptive=("values",))
    with pytest.raises(UnknownNameError, match="initial"):
        make(decay_to="start")
    with pytest.raises(InputError, match="span_floor"):
        make(span_floor=1.0)
    with pytest.raises(InputError, match="rate_gain"):
        make(rate_gain=0.0)
    with pytest.raises(InputError, match="matrix memories"):
        make(kind="mlp", decay_to="initial")
    for wrong in ({"span_ratio": 0.5}, {"gate": 1.0}, {"gate": 0.0}):
        with pytest.raises(InputError, match="span_ratio"):
            make(**wrong)
    with pytest.raises(UnknownNameError, match="causal"):
        make(read="casual")
    with pytest.raises(InputError, match="chunk"):
        make(chunk_size=0)
    with pytest.raises(InputError, match="limit"):
        make(limit=-1.0)
    with pytest.raises(InputError, match="current"):
        make(kind="mlp", negative_eigenvalues=True)
    with pytest.raises(ShapeError, match="D = 6"):
        make()(torch.zeros(1, 2, 5, dtype=torch.float64))
