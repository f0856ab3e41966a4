"""Chunk-wise learning: chunk size 1 is the recurrence of the rules; momentum on a matrix is exact for every chunk."""

from itertools import pairwise

import pytest
import torch

from nestling.ops.anchored import AnchoredState, Anchoring, anchored
from nestling.ops.unit_vectors import unit_vectors
from nestling.rules import deep, deep_dgd, huber, lp, momentum
from nestling.rules.losses import DOT_PRODUCT, L2, huber_loss, lp_loss

BATCH, LENGTH, HEADS, WIDTH, HIDDEN = 2, 11, 2, 4, 6


def random_tokens(seed=0):
    """query, key, value, eta, alpha, momentum."""
    draw = torch.Generator().manual_seed(seed)
    vectors = [torch.randn(BATCH, LENGTH, HEADS, WIDTH, generator=draw, dtype=torch.float64) for _ in range(3)]
    rates = [s * torch.rand(BATCH, LENGTH, HEADS, generator=draw, dtype=torch.float64) for s in (0.3, 1.0, 0.9)]
    return [tensor.requires_grad_() for tensor in (*vectors, *rates)]


def random_weights(depth, seed=1):
    draw = torch.Generator().manual_seed(seed)
    weights = deep.initial(BATCH, HEADS, WIDTH, hidden=HIDDEN, depth=depth, generator=draw, dtype=torch.float64)
    noise = [0.2 * torch.randn(w.shape, generator=draw, dtype=torch.float64) for w in weights]
    return tuple((w + n).requires_grad_() for w, n in zip(weights, noise))


def start(weights, with_momentum=False):
    surprise = tuple(torch.zeros_like(w) for w in weights) if with_momentum else ()
    return AnchoredState(weights, weights, surprise, torch.zeros(BATCH, dtype=torch.int64))


def run(tokens, weights, how, chunk_size, with_momentum=False, cuts=()):
    query, key, value, eta, alpha, mu = tokens
    state, outputs, edges = start(weights, with_momentum), [], [0, *cuts, LENGTH]
    for first, last in pairwise(edges):
        part = [x[:, first:last] for x in (query, key, value, eta, alpha.log(), mu)]
        output, state = anchored(*part[:5], part[5] if with_momentum else None, state, chunk_size=chunk_size, how=how)
        outputs.append(output)
    return torch.cat(outputs, 1), state


def near(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


DEEP_STEPS = {
    "none": deep.step,
    "explicit": deep_dgd.step_explicit,
    "implicit": deep_dgd.step_implicit,
}


@pytest.mark.parametrize("erase", list(DEEP_STEPS))
@pytest.mark.parametrize("depth", [2, 3])
def test_chunk_size_one_is_the_deep_recurrence(erase, depth):
    tokens, weights = random_tokens(), random_weights(depth)
    output, state = run(tokens, weights, Anchoring(surprise=L2.surprise, erase=erase), 1)
    query, key, value, eta, alpha, _ = tokens
    memory, answers = weights, []
    for t in range(LENGTH):
        memory = DEEP_STEPS[erase](memory, key[:, t], value[:, t], eta=eta[:, t], alpha=alpha[:, t])
        answers.append(deep.read(memory, query[:, t]))
    expected = torch.stack(answers, 1)
    near(output, expected)
    near(state.memory, memory)
    inputs = [*weights, *tokens[:5]]
    near(torch.autograd.grad(output.square().sum(), inputs), torch.autograd.grad(expected.square().sum(), inputs))


def test_chunk_size_one_is_the_deep_recurrence_with_momentum():
    tokens, weights = random_tokens(), random_weights(2)
    output, state = run(tokens, weights, Anchoring(surprise=L2.surprise), 1, with_momentum=True)
    query, key, value, eta, alpha, mu = tokens
    held, answers = deep.Accumulated(memory=weights, surprise=tuple(torch.zeros_like(w) for w in weights)), []
    for t in range(LENGTH):
        rates = {"eta": eta[:, t], "alpha": alpha[:, t], "momentum": mu[:, t]}
        held = deep.step_momentum(held, key[:, t], value[:, t], **rates)
        answers.append(deep.read(held.memory, query[:, t]))
    near(output, torch.stack(answers, 1))
    near(state.surprise, held.surprise)


@pytest.mark.parametrize("chunk_size", [1, 3, 16])
def test_momentum_on_a_matrix_is_exact_for_every_chunk(chunk_size):
    tokens = random_tokens()
    draw = torch.Generator().manual_seed(2)
    matrix = torch.randn(BATCH, HEADS, WIDTH, WIDTH, generator=draw, dtype=torch.float64)
    how = Anchoring(surprise=DOT_PRODUCT.surprise, erase="explicit", residual=False)
    output, _ = run(tokens, (matrix,), how, chunk_size, with_momentum=True)
    query, key, value, eta, alpha, mu = tokens
    held = momentum.Accumulated(memory=matrix, surprise=torch.zeros_like(matrix))
    for t in range(LENGTH):
        rates = {"eta": eta[:, t], "alpha": alpha[:, t], "momentum": mu[:, t]}
        held = momentum.step(held, key[:, t], value[:, t], **rates)
        near(output[:, t], momentum.read(held, query[:, t]))


@pytest.mark.parametrize(
    ("loss", "step"), [(lp_loss(3.0), lp.step), (huber_loss(1.0), huber.step)], ids=["lp", "huber"]
)
def test_chunk_size_one_is_the_matrix_recurrence(loss, step):
    tokens = random_tokens()
    matrix = torch.zeros(BATCH, HEADS, WIDTH, WIDTH, dtype=torch.float64)
    output, _ = run(tokens, (matrix,), Anchoring(surprise=loss.surprise, residual=False), 1)
    query, key, value, eta, alpha, _ = tokens
    for t in range(LENGTH):
        matrix = step(matrix, key[:, t], value[:, t], eta=eta[:, t], alpha=alpha[:, t])
        near(output[:, t], (matrix @ query[:, t].unsqueeze(-1)).squeeze(-1))


@pytest.mark.parametrize("erase", list(DEEP_STEPS))
@pytest.mark.parametrize("chunk_size", [1, 4, 16])
def test_any_split_gives_the_same_answers(erase, chunk_size):
    tokens, weights = random_tokens(), random_weights(2)
    how = Anchoring(surprise=L2.surprise, erase=erase)
    whole, final = run(tokens, weights, how, chunk_size)
    pieces, end = run(tokens, weights, how, chunk_size, cuts=(1, 2, 6, 7))
    near(pieces, whole)
    near(end.memory, final.memory)
    assert end.position.tolist() == [LENGTH % chunk_size] * BATCH


def test_larger_chunks_are_an_approximation_that_shrinks_with_eta():
    weights = random_weights(2)
    gaps = []
    for scale in (1.0, 0.1):
        query, key, value, eta, alpha, mu = random_tokens()
        tokens = [query, key, value, scale * eta, alpha, mu]
        how = Anchoring(surprise=L2.surprise)
        exact, chunks = (run(tokens, weights, how, size)[0] for size in (1, 16))
        gaps.append(float(((exact - chunks).norm() / exact.norm()).detach()))
    assert gaps[0] > 1e-4
    assert gaps[1] < 0.3 * gaps[0]


def test_limit_bounds_one_write():
    how = Anchoring(surprise=L2.surprise, limit=0.5)
    weights = tuple(w.detach() for w in random_weights(2))
    huge = [torch.full((BATCH, 1, HEADS, WIDTH), 1e15, dtype=torch.float64) for _ in range(3)]
    ones = torch.ones(BATCH, 1, HEADS, dtype=torch.float64)
    _, state = anchored(*huge, ones, 0 * ones, None, start(weights), chunk_size=1, how=how)
    for before, after in zip(weights, state.memory):
        assert float((after - before).norm(dim=(-2, -1)).max()) <= 0.5 + 1e-9


def test_unit_vectors_against_autograd_of_the_definition():
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(3, 5, generator=draw, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit_vectors, x)
    near(unit_vectors(x), x / x.norm(dim=-1, keepdim=True))
    assert unit_vectors(torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2
