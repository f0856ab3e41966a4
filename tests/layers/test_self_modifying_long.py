"""Long contexts: the start is not wiped out, nothing blows up, chunks stay near the recurrence, the half-way trap."""

import pytest
import torch

from nestling.layers import SelfModifyingTitans

KINDS = [
    {},
    {"dgd": "explicit"},
    {"momentum": True},
    {"kind": "mlp", "hidden": 16},
    {"kind": "mlp", "hidden": 16, "momentum": True},
]


def named(options):
    return " ".join(f"{key}={value}" for key, value in options.items()) or "default"


def random_tokens(length, dim, seed=0):
    return torch.randn(1, length, dim, generator=torch.Generator().manual_seed(seed))


def kept(layer, state):
    """<M_T, M_0> / <M_0, M_0> per head of the memory that is read: how much of its start is still in it."""
    start = layer.named_memories(layer.initial_state(1))["memory"]
    now = layer.named_memories(state)["memory"]
    both = sum((a * b).sum((-2, -1)) for a, b in zip(start, now))
    return both / sum(a.square().sum((-2, -1)) for a in start)


def size_of(memories):
    return torch.stack([weight.norm() for weights in memories.values() for weight in weights]).norm()


@torch.no_grad()
@pytest.mark.parametrize("options", KINDS, ids=named)
def test_a_new_layer_still_knows_its_start_after_4096_tokens(options):
    torch.manual_seed(0)
    layer = SelfModifyingTitans(dim=32, num_heads=2, **options)
    x = random_tokens(4096, 32)
    fresh, _ = layer(x[:, -64:])
    y, state = layer(x)
    share = kept(layer, state)
    assert share.min() > 0.7
    assert share.max() < 1.05
    # What it answers now is still close to what its start would answer, and not the same.
    assert torch.cosine_similarity(y[0, -64:], fresh[0], dim=-1).mean() > 0.8
    assert (y[0, -64:] - fresh[0]).norm() > 1e-3 * fresh.norm()


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("options", [{"span": 2.0**15}, *KINDS[:-1], {"decay_to": "initial", "gate": 0.5}], ids=named)
def test_norms_stay_bounded_over_100k_random_tokens(options):
    """At the start, and with rates as a trained layer may have them (span 50: 2 % of all directions per token)."""
    torch.manual_seed(0)
    layer = SelfModifyingTitans(dim=8, num_heads=1, chunk_size=128, **{"span": 50.0, **options})
    state, sizes = None, []
    start = size_of(layer.named_memories(layer.initial_state(1)))
    for part in range(10):
        y, state = layer(3 * random_tokens(10_000, 8, seed=part), state)
        assert y.isfinite().all()
        sizes.append(size_of(layer.named_memories(state)) / start)
    assert max(sizes) < 3


@torch.no_grad()
@pytest.mark.parametrize("dgd", ["implicit", "explicit"])
def test_a_pair_seen_again_and_again_settles_half_way(dgd):
    """With static projections that give one k and v orthogonal to it, M k goes to M v / 2, not to M v."""
    layer = SelfModifyingTitans(
        dim=4, num_heads=1, dgd=dgd, conv_width=1, weight_decay=False, adaptive=(), chunk_size=8
    )
    layer.input.weight.copy_(torch.eye(4).repeat(2, 1))
    layer.rate_bias.fill_(0.0)
    swap = torch.eye(4)[[1, 0, 3, 2]]
    layer.memories.initial["key"].copy_(torch.eye(4))
    layer.memories.initial["value"].copy_(swap)
    layer.memories.initial["rates"].zero_()
    layer.memories.initial["memory"].copy_(torch.eye(4))
    _, state = layer(torch.eye(4)[:1].expand(1, 200, 4))
    (matrix,) = layer.named_memories(state)["memory"]
    expected = torch.eye(4)
    expected[:, 0] = 0.5 * torch.eye(4)[:, 1]
    torch.testing.assert_close(matrix[0, 0], expected)


@torch.no_grad()
def test_anchored_plain_gradients_diverge_and_current_ones_do_not():
    """Why gradients of matrix memories are taken at the newest memory: the known failure, on a repeated token."""
    sizes = {}
    for gradient in ("anchor", "current"):
        torch.manual_seed(0)
        layer = SelfModifyingTitans(
            dim=4, num_heads=1, dgd="off", gradient=gradient, span=16.0, chunk_size=32, limit=None, weight_decay=False
        )
        _, state = layer(torch.ones(1, 640, 4))
        sizes[gradient] = state.memory[0].norm().item()
    assert sizes["current"] < 3
    assert sizes["anchor"] > 1e3


@torch.no_grad()
def test_the_gap_of_chunks_to_the_recurrence_grows_with_the_chunk():
    """Same parameters, fast rates: keys, values and targets grow stale inside a chunk, by little."""
    x, answers = random_tokens(192, 32), {}
    for size in (1, 4, 16, 64):
        torch.manual_seed(0)
        answers[size], _ = SelfModifyingTitans(dim=32, num_heads=2, chunk_size=size, span=2000.0)(x)
    gaps = [((answers[size] - answers[1]).norm() / answers[1].norm()).item() for size in (4, 16, 64)]
    assert 0 < gaps[0] < gaps[1] < gaps[2] < 0.2
