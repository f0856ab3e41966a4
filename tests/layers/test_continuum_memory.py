"""Continuum memory: static, online and meta levels against an explicit loop with autograd, float64 unless said."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from nestling.errors import InputError, ShapeError, UnknownNameError
from nestling.layers.continuum_memory import ContinuumMemory
from nestling.schedule import Level

DIM, HIDDEN, LENGTH, BATCH = 6, 8, 13, 3
VARIANTS = ["sequential", "nested", "independent"]


def levels(*periods, **options):
    return [Level(name=f"level {i}", update_period=period, **options) for i, period in enumerate(periods)]


def make(mode="meta", variant="sequential", periods=(2, 4, 8), dtype=torch.float64, level=None, **options):
    torch.manual_seed(0)
    options = {"inner_rate": 0.03, "limit": None, "levels": levels(*periods, **(level or {})), **options}
    memory = ContinuumMemory(dim=DIM, hidden=HIDDEN, mode=mode, variant=variant, **options).to(dtype)
    if memory.log_gain is not None:
        with torch.no_grad():
            memory.log_gain.add_(0.3 * torch.randn_like(memory.log_gain))
    return memory


def tokens(dtype=torch.float64, length=LENGTH, seed=1):
    return torch.randn(BATCH, length, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def near(got, expected, tolerance=1e-10):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def answer(mlp, delta, x):
    """MLP with W + delta of one row, for x [D]."""
    weights = [linear.weight + moved for linear, moved in zip(mlp.maps, delta)]
    below = [weight @ x for weight in weights[:-1]]
    hidden = F.silu(below[0])
    return weights[-1] @ (hidden * below[1] if mlp.gate is not None else hidden)


def shortened(pushes, limit):
    length = torch.sqrt(sum(push.square().sum() for push in pushes))
    return [push * (limit / length) if limit is not None and length > limit else push for push in pushes]


def explicit_row(memory, x):
    """One row token by token, from the docstring: autograd of the objective, changes at the ends of chunks."""
    mlps, schedule = list(memory.mlps), memory.schedule.levels
    zeros = [[torch.zeros_like(linear.weight).requires_grad_() for linear in mlp.maps] for mlp in mlps]
    delta, start = [list(d) for d in zeros], [list(d) for d in zeros]
    own = [[torch.zeros_like(d) for d in ds] for ds in zeros]
    begun = [[torch.zeros_like(d) for d in ds] for ds in zeros]
    outputs, previous = [], None
    for t, token in enumerate(x):
        reached, inputs, parts = token, [], []
        for number, mlp in enumerate(mlps):
            source = token if memory.variant == "independent" else reached
            inputs.append(source)
            part = answer(mlp, delta[number], source)
            parts.append(part * memory.aggregate[number] if memory.aggregate is not None else part)
            reached = reached + part
        outputs.append(sum(parts))
        if previous is not None:
            for number, mlp in enumerate(mlps):
                slow = answer(mlp, [0.0] * len(zeros[number]), previous[number])
                view = memory.targets[number] @ inputs[number]
                error = answer(mlp, delta[number], previous[number]) - slow - view
                found = torch.autograd.grad(error.square().sum() / 2, delta[number], create_graph=True)
                own[number] = [a + b for a, b in zip(own[number], found)]
                begun[number] = [a + b for a, b in zip(begun[number], found)]
        previous = inputs
        for number, level in enumerate(schedule):
            if (t + 1) % level.update_period == 0:
                count = level.update_period if level.accumulation == "mean" else 1

                def step(moved, pushes, level=level, count=count, number=number):
                    rate = memory.inner_rate * memory.log_gain[number].exp()
                    pushes = shortened([push / count for push in pushes], memory.limit)
                    return [level.retention * m - r * push for m, r, push in zip(moved, rate, pushes)]

                delta[number] = step(delta[number], own[number])
                own[number] = [torch.zeros_like(d) for d in own[number]]
                if memory.variant == "nested" and number > 0:
                    start[number - 1] = step(start[number - 1], begun[number - 1])
                    begun[number - 1] = [torch.zeros_like(d) for d in begun[number - 1]]
                    delta[number - 1] = start[number - 1]
                    own[number - 1] = [torch.zeros_like(d) for d in own[number - 1]]
    return torch.stack(outputs), [d for ds in delta for d in ds]


def explicit(memory, x):
    rows = [explicit_row(memory, row) for row in x]
    return torch.stack([y for y, _ in rows]), [torch.stack(parts) for parts in zip(*(delta for _, delta in rows))]


def stream(memory, x, cuts, state=None):
    outputs = []
    for first, last in pairwise([0, *sorted(cuts), x.shape[1]]):
        if last > first:
            y, state = memory(x[:, first:last], state)
            outputs.append(y)
    return torch.cat(outputs, 1), state


@pytest.mark.parametrize("gated", [True, False])
def test_one_static_level_is_the_mlp_of_a_transformer(gated):
    memory, x = make("static", periods=(1,), gated=gated), tokens()
    mlp = memory.mlps[0]
    hidden = F.silu(mlp.gate(x)) * mlp.up(x) if gated else F.silu(mlp.up(x))
    y, state = memory(x)
    assert torch.equal(y, mlp.down(hidden))
    assert set(state.state_dict()) == {"position"}
    assert [name for name, _ in memory.named_parameters() if "mlps" not in name] == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_static_levels_are_a_chain(variant):
    memory, x = make("static", variant), tokens()
    if variant == "independent":
        memory.aggregate.data.normal_(generator=torch.Generator().manual_seed(3))
        expected = sum(scale * mlp(x) for scale, mlp in zip(memory.aggregate, memory.mlps))
    else:
        expected = x
        for mlp in memory.mlps:
            expected = expected + mlp(expected)
        expected = expected - x
    near(memory(x)[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", ["online", "meta"])
def test_inner_rate_0_is_the_static_model_bit_for_bit(mode, variant, dtype):
    still, x = make("static", variant, dtype=dtype), tokens(dtype, length=40)
    memory = make(mode, variant, dtype=dtype, inner_rate=0.0)
    memory.load_state_dict(still.state_dict(), strict=False)
    y, state = memory(x)
    assert torch.equal(y, still(x)[0])
    assert torch.equal(memory(x[:, :7], state)[0], still(x[:, :7])[0])


OPTIONS = [
    {},
    {"gated": False},
    {"limit": 0.05},
    {"level": {"accumulation": "mean", "retention": 0.7, "anchor": "start"}, "inner_rate": 0.1},
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "ungated", "limited", "mean and retention"])
def test_levels_move_as_autograd_of_the_objective_says(variant, options):
    x = tokens()
    for mode in ("online", "meta"):
        memory = make(mode, variant, **options)
        expected, moved = explicit(memory, x)
        y, state = memory(x)
        near(y, expected)
        near(list(state.delta), moved)
        assert state.moved().min() > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "ungated", "limited", "mean and retention"])
def test_meta_gradients_are_those_of_the_explicit_loop(variant, options):
    memory, x = make("meta", variant, **options), tokens().requires_grad_()
    sources = [x, *memory.parameters()]
    expected = torch.autograd.grad(explicit(memory, x)[0].square().sum(), sources)
    found = torch.autograd.grad(memory(x)[0].square().sum(), sources)
    near(list(found), list(expected), 1e-9)
    assert all(gradient.abs().max() > 0 for gradient in found)


def test_online_has_no_gradient_through_the_moves_but_one_through_the_reading():
    memory, x = make("online"), tokens().requires_grad_()
    y, state = memory(x)
    assert not any(part.requires_grad for part in (*state.delta, *state.gathered, *state.last))
    (grad,) = torch.autograd.grad(y[:, 9].sum(), x, retain_graph=True)
    assert grad[:, :9].abs().max() == 0
    assert grad[:, 9].abs().max() > 0
    trained = [name for name, parameter in memory.named_parameters() if parameter.requires_grad]
    assert trained == [f"mlps.{number}.{name}.weight" for number in range(3) for name in ("gate", "up", "down")]
    y.sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in memory.mlps.parameters())


def test_levels_change_at_the_ends_of_their_chunks_only():
    memory, x = make("online", periods=(3, 6)), tokens()
    state, before = None, None
    for t in range(LENGTH):
        _, state = memory(x[:, t : t + 1], state)
        per_level = [[part.clone() for part in memory._of(state.delta, number)] for number in range(2)]
        for number, period in enumerate((3, 6)):
            same = before is not None and all(map(torch.equal, per_level[number], before[number]))
            assert same == ((t + 1) % period != 0) or before is None
        before = per_level


def test_a_nested_level_begins_again_where_the_slower_one_says():
    memory, x = make("online", "nested", periods=(2, 6)), tokens()
    _, state = memory(x[:, :6])
    maps = memory._num_maps
    near(list(state.delta[:maps]), list(state.start))
    assert all(part.abs().max() > 0 for part in state.start)
    assert all(part.abs().max() == 0 for part in (*state.gathered, *state.start_gathered))
    _, later = memory(x[:, 6:10], state)
    assert all(map(torch.equal, later.start, state.start))
    assert not any(map(torch.equal, later.delta[:maps], state.delta[:maps]))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", ["online", "meta"])
@settings(max_examples=4, deadline=None)
@given(cuts=st.lists(st.integers(0, LENGTH), max_size=4))
def test_any_split_is_the_whole(mode, variant, cuts):
    memory, x = make(mode, variant), tokens()
    whole, final = memory(x)
    pieces, state = stream(memory, x, cuts)
    near(pieces, whole)
    near(state.state_dict(), final.state_dict())


@pytest.mark.parametrize("variant", VARIANTS)
def test_token_by_token_in_float32_through_saving(variant):
    memory, x = make("online", variant, dtype=torch.float32, limit=1.0), tokens(torch.float32, length=40)
    whole, _ = memory(x)
    state = None
    for t in range(40):
        y, state = memory(x[:, t : t + 1], state)
        near(y, whole[:, t : t + 1], 1e-5)
        state = type(state).from_state_dict({key: value.clone() for key, value in state.state_dict().items()})


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", ["online", "meta"])
def test_no_output_sees_a_later_token(mode, variant):
    memory, x = make(mode, variant), tokens()
    whole, _ = memory(x)
    for t in range(LENGTH):
        changed = x.clone()
        changed[:, t] += 3
        y, _ = memory(changed)
        assert torch.equal(y[:, :t], whole[:, :t])
        border = t - t % 2 + 2  # the fastest level's chunk of token t ends here
        assert torch.equal(y[:, t + 1 : border], whole[:, t + 1 : border])
        assert t >= LENGTH - 2 or not torch.equal(y[:, border:], whole[:, border:])


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_do_not_see_each_other_and_reset_starts_one_again(variant):
    memory, x = make("meta", variant), tokens()
    whole, state = memory(x)
    alone, alone_state = memory(x[1:2])
    near(whole[1:2], alone)
    near([part[1:2] for part in state.state_dict().values()], list(alone_state.state_dict().values()))
    changed = x.clone()
    changed[0] += 5
    near(memory(changed)[0][1:], whole[1:])
    _, early = memory(x[:, :5])
    after, _ = memory(x[:, 5:], memory.reset(early, [1]))
    near(after[1], memory(x[:, 5:])[0][1])
    near(after[[0, 2]], whole[[0, 2], 5:])


def test_two_hand_worked_tokens():
    """One plain level of width 1, W_up = 2, W_down = 3, V = 5, relu: tokens 1, 1, 1; period 2, eta 0.01.

    hidden 2, answer 6. The pair (1, 1): error 0 - 5 = -5. dL/dW_down = -5 * 2, dL/dW_up = -5 * 3 * 1.
    W_down = 3.1, W_up = 2.15, so the third answer is 6.665.
    """
    memory = ContinuumMemory(
        dim=1, hidden=1, levels=levels(2), mode="online", inner_rate=0.01, limit=None, activation="relu", gated=False
    ).double()
    with torch.no_grad():
        memory.mlps[0].up.weight.fill_(2)
        memory.mlps[0].down.weight.fill_(3)
        memory.targets[0].fill_(5)
    y, state = memory(torch.ones(1, 3, 1, dtype=torch.float64))
    near(y.flatten(), torch.tensor([6.0, 6.0, 6.665], dtype=torch.float64))
    near(state.delta[0].item(), 0.15)
    near(state.delta[1].item(), 0.1)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", ["online", "meta"])
def test_a_given_loss_moves_the_levels_chunk_by_chunk(mode, variant):
    """loss_t = |y_t - 1|^2; the same as the explicit steps delta <- delta - eta dloss/d delta."""
    memory, x = make(mode, variant, objective="given"), tokens()
    state, outputs, done = memory.initial_state(BATCH), [], 0
    while done < LENGTH:
        state = memory.watch(state)
        end = min(LENGTH, done + memory.tokens_left(state))
        y, _ = memory(x[:, done:end], state)
        gradients = torch.autograd.grad(
            (y - 1).square().sum(), state.delta, create_graph=mode == "meta", retain_graph=True
        )
        state = memory.write(state, gradients, num_tokens=end - done)
        outputs.append(y)
        done = end
    near(torch.cat(outputs, 1)[1:2], _given_by_hand(memory, x[1:2]))
    loss = outputs[-1].square().sum()
    if mode == "meta":
        loss.backward()
        assert all(parameter.grad.abs().max() > 0 for parameter in memory.parameters())
    else:
        assert not any(
            part.requires_grad for part in memory.write(memory.watch(state), gradients, num_tokens=1).gathered
        )


def _given_by_hand(memory, x):
    maps = [linear.weight for mlp in memory.mlps for linear in mlp.maps]
    count = memory._num_maps
    delta, start = ([torch.zeros_like(weight) for weight in maps] for _ in range(2))
    own, begun = ([torch.zeros_like(weight) for weight in maps] for _ in range(2))
    outputs = []
    for t in range(x.shape[1]):
        leaves = [part.detach().requires_grad_() for part in delta]
        reached, total = x[0, t], 0
        for number, mlp in enumerate(memory.mlps):
            source = x[0, t] if memory.variant == "independent" else reached
            part = answer(mlp, leaves[number * count : (number + 1) * count], source)
            total = total + (part if memory.aggregate is None else memory.aggregate[number] * part)
            reached = reached + part
        outputs.append(total)
        found = torch.autograd.grad((total - 1).square().sum(), leaves)
        own, begun = ([a + b for a, b in zip(sums, found)] for sums in (own, begun))
        for number, level in enumerate(memory.schedule.levels):
            if (t + 1) % level.update_period == 0:
                for j in range(count):
                    rate = memory.inner_rate * memory.log_gain[number, j].exp()
                    place = number * count + j
                    delta[place] = delta[place] - rate * own[place]
                    own[place] = torch.zeros_like(own[place])
                    if memory.variant == "nested" and number > 0:
                        place -= count
                        start[place] = start[place] - rate * begun[place]
                        delta[place], own[place] = start[place], torch.zeros_like(own[place])
                        begun[place] = torch.zeros_like(begun[place])
    return torch.stack(outputs).unsqueeze(0).detach()


def test_the_state_does_not_grow_and_long_reading_stays_finite():
    memory = make("online", periods=(8, 32), dtype=torch.float32, limit=1.0)
    x = tokens(torch.float32, length=1500)
    y, state = memory(x)
    assert y.isfinite().all()
    assert memory(x, state)[1].num_bytes() == state.num_bytes()
    assert state.moved().max() <= 0.03 * 2 * (1500 / 8 + 1500 / 32)


def test_errors_say_what_to_do():
    with pytest.raises(UnknownNameError, match="online"):
        make("onlin")
    with pytest.raises(UnknownNameError, match="nested"):
        make(variant="nestd")
    with pytest.raises(UnknownNameError, match="local"):
        make(objective="locl")
    with pytest.raises(InputError, match="multiple of the one before"):
        make(variant="nested", periods=(2, 3))
    with pytest.raises(InputError, match="inner_rate"):
        make(inner_rate=-1.0)
    with pytest.raises(InputError, match="limit"):
        make(limit=0.0)
    with pytest.raises(InputError, match="anchor='start'"):
        make(level={"retention": 0.5})
    with pytest.raises(InputError, match="hidden"):
        ContinuumMemory(dim=4, hidden=0)
    memory, x = make(), tokens()
    with pytest.raises(ShapeError, match="D = 6"):
        memory(x[..., :2])
    _, state = memory(x)
    with pytest.raises(InputError, match="objective 'given'"):
        memory.write(state, state.delta, num_tokens=1)
    memory = make(objective="given")
    state = memory.initial_state(BATCH)
    with pytest.raises(InputError, match="1 to 2"):
        memory.write(state, state.delta, num_tokens=3)
    with pytest.raises(ShapeError, match="gradients"):
        memory.write(state, state.delta[:2], num_tokens=1)
