"""NestedOptimizer: plain optimizers at period 1, large batches at longer ones, and state at any moment."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, AdamW, Muon
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from nestling.errors import CheckpointError, InputError
from nestling.optim.dgd import DGD
from nestling.optim.momentum import Momentum
from nestling.optim.nested import NestedOptimizer
from nestling.schedule import Level

PLAIN: dict[str, Callable[..., Any]] = {
    "adamw": partial(AdamW, lr=1e-2, weight_decay=0.1),
    "adamw fused": partial(AdamW, lr=1e-2, fused=True),
    "sgd": partial(SGD, lr=0.1, momentum=0.9, nesterov=True),
    "muon": partial(Muon, lr=0.02),
    "momentum": partial(Momentum, lr=0.1, preconditioner="diagonal"),
}


def network(seed: int = 0, *, bias: bool = False) -> nn.Sequential:
    """5 -> 6 -> 6 -> 3; parameters 0.weight, 2.weight, 4.weight."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(5, 6, bias=bias), nn.Tanh(), nn.Linear(6, 6, bias=bias), nn.Tanh(), nn.Linear(6, 3, bias=bias)
    )


def loss_at(model: nn.Module, step: int) -> Tensor:
    draw = torch.Generator().manual_seed(1000 + step)
    return (model(torch.randn(8, 5, generator=draw)) - torch.randn(8, 3, generator=draw)).square().mean()


def train(model: nn.Module, optimizer: Any, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_at(model, step).backward()
        optimizer.step()


def level(name: str, model: nn.Module, period: int = 1, make: Any = AdamW, **more: Any) -> dict[str, Any]:
    settings = {key: more.pop(key) for key in ("accumulation", "retention", "anchor") if key in more}
    params = list(model.parameters()) if isinstance(model, nn.Module) else model
    return {
        "params": params,
        "level": Level(name=name, update_period=period, **settings),
        "optimizer": make,
        **more,
    }


def continuum(model: nn.Sequential) -> NestedOptimizer:
    """Three levels, every setting used."""
    return NestedOptimizer(
        [
            level("fast", model[0], 1, AdamW, lr=1e-2),
            level("middle", model[2], 4, SGD, lr=0.1, momentum=0.9, accumulation="mean", retention=0.9),
            level("slow", model[4], 6, Momentum, lr=0.02, retention=0.8, anchor="start"),
        ]
    )


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def saved_and_loaded(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)  # weights only: nothing but tensors and plain values


@pytest.mark.parametrize("name", PLAIN)
def test_period_1_is_the_plain_optimizer_bit_for_bit(name: str) -> None:
    ours, plain = network(), network()
    nested = NestedOptimizer([level(str(i), ours[i], 1, PLAIN[name]) for i in (0, 2, 4)])
    train(ours, nested, range(12))
    train(plain, PLAIN[name](plain.parameters()), range(12))
    assert equal(ours, plain)
    assert not equal(ours, network())
    assert not any(nested.state.values())  # nothing is kept twice


def test_period_1_is_dgd_too_which_watches_its_layers() -> None:
    def run(nested: bool) -> nn.Module:
        model = network(bias=True)
        make = partial(DGD, module=model, lr=0.3)
        params = list(model.parameters())
        optimizer = NestedOptimizer([level("all", params, 1, make)]) if nested else make(params)
        for step in range(8):
            if step in (2, 5):  # a batch that is dropped
                loss_at(model, 50 + step).backward()
            train(model, optimizer, range(step, step + 1))
        return model

    assert equal(run(nested=True), run(nested=False))


def test_dgd_over_a_period_sees_the_inputs_of_all_its_steps() -> None:
    """Two half batches with mean losses are the whole batch."""
    draw = torch.Generator().manual_seed(3)
    inputs, targets = torch.randn(8, 5, generator=draw), torch.randn(8, 3, generator=draw)
    halves, whole = network().double(), network().double()
    nested = NestedOptimizer(
        [level("all", halves, 2, partial(DGD, module=halves), lr=0.3, accumulation="mean")]
    )  # fmt: skip
    for part in (slice(0, 4), slice(4, 8)):
        nested.zero_grad()
        (halves(inputs[part].double()) - targets[part]).square().mean().backward()
        nested.step()
    plain = DGD(whole.parameters(), module=whole, lr=0.3)
    (whole(inputs.double()) - targets).square().mean().backward()
    plain.step()
    for one, other in zip(halves.parameters(), whole.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("accumulation", ["sum", "mean"])
@pytest.mark.parametrize("name", PLAIN)
def test_a_period_is_gradient_accumulation_bit_for_bit(name: str, accumulation: str) -> None:
    ours, plain = network(), network()
    train(ours, NestedOptimizer([level("all", ours, 4, PLAIN[name], accumulation=accumulation)]), range(13))
    optimizer = PLAIN[name](plain.parameters())
    for step in range(12):
        loss_at(plain, step).backward()
        if step % 4 == 3:
            for parameter in plain.parameters():
                assert parameter.grad is not None
                parameter.grad /= 4 if accumulation == "mean" else 1
            optimizer.step()
            optimizer.zero_grad()
    assert equal(ours, plain)


def test_levels_change_when_their_period_is_over_and_only_then() -> None:
    model = network()
    optimizer = NestedOptimizer([level(str(p), model[i], p, SGD, lr=0.1) for i, p in ((0, 1), (2, 4), (4, 6))])
    changed: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for step in range(1, 13):
        before = weights(model)
        train(model, optimizer, range(step, step + 1))
        for i, (old, new) in enumerate(zip(before, model.parameters())):
            if not torch.equal(old, new):
                changed[i].append(step)
    assert changed == {0: list(range(1, 13)), 1: [4, 8, 12], 2: [6, 12]}
    assert optimizer.num_steps == 12
    assert optimizer.levels.ranks() == {"1": 0, "4": 1, "6": 2}


def test_one_number_by_hand() -> None:
    """W = 8, gradients 1, 2, 3; period 3, lr 0.5, start anchor: decay first, then the step."""
    expected = {
        ("sum", 1.0, "zero"): 8 - 0.5 * 6,
        ("mean", 1.0, "zero"): 8 - 0.5 * 2,
        ("sum", 0.5, "zero"): 4 - 0.5 * 6,
        ("sum", 0.5, "start"): 8 - 0.5 * 6,  # the anchor is where it is
    }
    for (accumulation, retention, anchor), first in expected.items():
        weight = nn.Parameter(torch.tensor([8.0]))
        group = level(
            "w", [weight], 3, SGD, lr=0.5, accumulation=accumulation, retention=retention, anchor=anchor
        )  # fmt: skip
        optimizer = NestedOptimizer([group])
        for grad in (1.0, 2.0, 3.0):
            weight.grad = torch.tensor([grad])
            optimizer.step()
        assert weight.item() == first
    for grad in (0.0, 0.0, 2.0):  # the last case goes on: 8 + 0.5 (5 - 8) - 0.5 * 2
        weight.grad = torch.tensor([grad])
        optimizer.step()
    assert weight.item() == 5.5


def test_retention_0_at_the_start_anchor_starts_every_period_anew() -> None:
    model = network()
    first = weights(model)
    optimizer = NestedOptimizer([level("all", model, 2, SGD, lr=0.0, retention=0.0, anchor="start")])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    train(model, optimizer, range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, model.parameters()))


@pytest.mark.parametrize("stop", [1, 3, 4, 5, 10])
def test_resumed_anywhere_in_a_period_it_ends_the_same_bit_for_bit(stop: int) -> None:
    whole, part = network(), network()
    train(whole, continuum(whole), range(25))
    optimizer = continuum(part)
    train(part, optimizer, range(stop))
    saved = saved_and_loaded({"model": part.state_dict(), "optimizer": optimizer.state_dict()})
    assert any("level_pending" in entries for entries in saved["optimizer"]["state"].values())
    train(part, optimizer, range(stop, stop + 3))  # goes on, which must not reach the saved state

    other = network(seed=1)
    resumed = continuum(other)
    train(other, resumed, range(2))
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train(other, resumed, range(stop, 25))
    assert equal(other, whole)


def test_a_state_loaded_twice_is_not_shared() -> None:
    model = network()
    optimizer = continuum(model)
    train(model, optimizer, range(5))
    state = optimizer.state_dict()
    kept = copy.deepcopy(state)
    twin = network()
    other = continuum(twin)
    other.load_state_dict(state)
    train(twin, other, range(5, 9))
    for index, entries in kept["state"].items():
        for key, value in entries.items():
            assert torch.equal(torch.as_tensor(state["state"][index][key]), torch.as_tensor(value)), key


def test_copied_and_pickled_optimizers_go_on_alike() -> None:
    model = network()
    optimizer = continuum(model)
    train(model, optimizer, range(5))
    pair = (model, optimizer)
    copies = [copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))]
    train(model, optimizer, range(5, 13))
    for twin, its in copies:
        assert not equal(twin, model)
        train(twin, its, range(5, 13))
        assert equal(twin, model)
        assert its.param_groups[0] is its.inner["fast"].param_groups[0]


def test_zero_grad_may_stand_anywhere() -> None:
    def run(before: bool, after: bool, to_none: bool) -> nn.Module:
        model = network()
        optimizer = continuum(model)
        for step in range(13):
            if before:
                optimizer.zero_grad(set_to_none=to_none)
            loss_at(model, step).backward()
            optimizer.step()
            if after:
                optimizer.zero_grad(set_to_none=to_none)
        return model

    first = run(before=True, after=False, to_none=True)
    for before, after, to_none in ((True, False, False), (False, True, True), (False, True, False), (True, True, True)):
        assert equal(first, run(before, after, to_none))


def test_step_leaves_the_gradients_of_the_user_alone() -> None:
    model = network()
    optimizer = NestedOptimizer([level("all", model, 2)])
    for step in range(2):
        optimizer.zero_grad()
        loss_at(model, step).backward()
        before = [(p.grad, p.grad.clone()) for p in model.parameters() if p.grad is not None]
        optimizer.step()
        for parameter, (grad, values) in zip(model.parameters(), before):
            assert parameter.grad is grad
            assert torch.equal(grad, values)


def test_a_closure_is_called_once_with_gradients_and_its_loss_returned() -> None:
    ours, plain = network(), network()
    optimizer = continuum(ours)
    calls = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_at(ours, len(calls))
        loss.backward()
        calls.append(loss.item())
        return loss

    losses = [optimizer.step(closure).item() for _ in range(9)]
    train(plain, continuum(plain), range(9))
    assert losses == calls
    assert equal(ours, plain)


def test_schedulers_act_on_the_inner_optimizers() -> None:
    ours, plain = network(), network()
    nested = NestedOptimizer([level("a", ours[0:3], 1, PLAIN["sgd"]), level("b", ours[3:], 1, PLAIN["sgd"])])
    single = PLAIN["sgd"](plain.parameters())
    pairs = [(ours, nested, CosineAnnealingLR(nested, 10)), (plain, single, CosineAnnealingLR(single, 10))]
    for model, optimizer, scheduler in pairs:
        for step in range(10):
            train(model, optimizer, range(step, step + 1))
            scheduler.step()
    assert equal(ours, plain)
    assert nested.inner["b"].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    # also those that look for momentum, and after loading a state
    model = network()
    optimizer = NestedOptimizer([level("a", model[0], 1, AdamW), level("b", model[2:], 2, AdamW)])
    optimizer.load_state_dict(optimizer.state_dict())
    scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=5)
    train(model, optimizer, range(1))
    scheduler.step()
    assert optimizer.inner["b"].param_groups[0]["betas"] == optimizer.param_groups[1]["betas"] != (0.9, 0.999)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_gradients_that_are_not_finite_are_counted_and_never_enter(bad: float) -> None:
    model, clean = network(), network()
    optimizer, reference = continuum(model), continuum(clean)
    for step in range(13):
        if step in (0, 2, 5):
            optimizer.zero_grad()
            loss_at(model, 99).backward()
            assert model[4].weight.grad is not None
            model[4].weight.grad[1, 2] = bad
            before = weights(model)
            optimizer.step()
            assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
        train(model, optimizer, range(step, step + 1))
        train(clean, reference, range(step, step + 1))
    assert equal(model, clean)
    assert (optimizer.num_skipped, optimizer.num_steps) == (3, 13)
    assert (reference.num_skipped, reference.num_steps) == (0, 13)
    restored = continuum(network())
    restored.load_state_dict(optimizer.state_dict())
    assert (restored.num_skipped, restored.num_steps) == (3, 13)


def test_a_gradient_whose_length_overflows_is_still_finite() -> None:
    weight = nn.Parameter(torch.zeros(4))
    optimizer = NestedOptimizer([level("w", [weight], 1, SGD, lr=1e-30)])
    weight.grad = torch.full_like(weight, 3e38)
    optimizer.step()
    assert weight.tolist() == pytest.approx([-3e8] * 4)
    assert (optimizer.num_skipped, optimizer.num_steps) == (0, 1)


def test_a_sum_that_leaves_the_range_of_the_weights_is_dropped() -> None:
    weight = nn.Parameter(torch.ones(3, dtype=torch.float16))
    optimizer = NestedOptimizer([level("w", [weight], 2, SGD, lr=1.0)])
    for _ in range(2):
        weight.grad = torch.full_like(weight, 40_000)
        optimizer.step()
    assert weight.tolist() == [1, 1, 1]
    assert optimizer.num_skipped == 1
    for _ in range(2):
        weight.grad = torch.full_like(weight, 0.25)
        optimizer.step()
    assert weight.tolist() == [0.5, 0.5, 0.5]


def test_half_precision_gradients_are_summed_in_single_precision() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    optimizer = NestedOptimizer([level("w", [weight], 513, SGD, lr=1.0)])
    for step in range(513):
        weight.grad = torch.full_like(weight, 256 if step == 0 else 0.5)  # in bfloat16 256 + 0.5 is 256
        optimizer.step()
    assert weight.item() == -512


def test_grad_scaler_hands_over_true_gradients_and_skips_overflow() -> None:
    ours, plain = network(), network()
    nested, single = NestedOptimizer([level("all", ours, 2, SGD, lr=0.1)]), SGD(plain.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    for step in range(8):
        nested.zero_grad()
        scaler.scale(loss_at(ours, step) * (math.inf if step == 3 else 1)).backward()
        scaler.step(nested)
        scaler.update()
    good = [step for step in range(8) if step != 3]
    for i, step in enumerate(good[:6]):
        loss_at(plain, step).backward()
        if i % 2:
            single.step()
            single.zero_grad()
    assert equal(ours, plain)
    assert scaler.get_scale() == 512
    assert (nested.num_steps, nested.param_groups[0]["level_num_pending"]) == (7, 1)


def test_parameters_without_gradient_are_left_alone() -> None:
    model = network()
    optimizer = NestedOptimizer([level("all", model, 2, AdamW, lr=0.1, weight_decay=0.5, retention=0.5)])
    before = weights(model)
    for _ in range(2):
        assert model[0].weight is not None
        model[0].weight.grad = torch.ones_like(model[0].weight)
        optimizer.step()
    after = list(model.parameters())
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_a_level_added_later_joins_the_clock() -> None:
    weight, late = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = NestedOptimizer([level("w", [weight], 4, SGD, lr=1.0, accumulation="mean")])
    for step in range(1, 9):
        if step == 3:
            optimizer.add_param_group(level("late", [late], 4, SGD, lr=1.0, accumulation="mean"))
        weight.grad, late.grad = torch.tensor([float(step)]), torch.tensor([float(step)])
        optimizer.step()
    assert weight.item() == -(2.5 + 6.5)
    assert late.item() == -(3.5 + 6.5)


def test_levels_from_name_patterns() -> None:
    model = network(bias=True)
    model[4].bias.requires_grad_(False)
    model.tied = model[2]
    optimizer = NestedOptimizer.for_module(
        model,
        {
            "*bias": {"level": Level(name="biases"), "optimizer": SGD, "lr": 0.1},
            "tied.*": {"level": Level(name="middle", update_period=4), "optimizer": Adagrad},
            "*": {"level": Level(name="rest", update_period=16), "optimizer": AdamW},
        },
    )
    names = {group["level"]: group["param_names"] for group in optimizer.param_groups}
    assert names == {"biases": ["0.bias", "2.bias"], "middle": ["2.weight"], "rest": ["0.weight", "4.weight"]}
    assert [type(inner) for inner in optimizer.inner.values()] == [SGD, Adagrad, AdamW]
    before = weights(model)
    train(model[:5], optimizer, range(4))
    moved = [not torch.equal(old, new) for old, new in zip(before, model.parameters())]
    assert moved == [False, True, True, True, False, False]


def test_patterns_that_fit_nothing_and_parameters_that_nothing_fits_are_named() -> None:
    model = network(bias=True)
    model[0].bias.requires_grad_(False)
    rest = {"optimizer": SGD, "lr": 0.1}
    patterns = {name: {"level": Level(name=name), **rest} for name in ("2.*", "head.*", "2.weight", "0.bias")}
    with pytest.raises(InputError) as caught:
        NestedOptimizer.for_module(model, patterns)
    message = str(caught.value)
    assert "pattern 'head.*' fits no parameter: there are 0.weight, 0.bias" in message
    assert "pattern '2.weight' takes nothing: 2.weight are frozen or taken by an earlier pattern" in message
    assert "pattern '0.bias' takes nothing" in message
    assert "no pattern takes 0.weight, 4.weight, 4.bias: add a pattern" in message


def test_what_cannot_be_a_level_is_refused() -> None:
    model = network()
    good = level("a", model)
    cases: list[tuple[Any, str]] = [
        ([], "at least one level"),
        ([{"params": list(model.parameters()), "lr": 0.1}], "missing: level, optimizer"),
        ([{**good, "level": 4}], r"expected nestling.schedule.Level.*got 4"),
        ([{**good, "learning_rate": 0.1}], "level 'a': its optimizer cannot be made: .*learning_rate"),
        ([{**good, "lr": -1}], "level 'a': .*Invalid learning rate"),
        ([{**good, "optimizer": torch.optim.LBFGS}], "LBFGS evaluates the loss anew"),
        ([{**good, "optimizer": lambda params: params}], "must make one torch optimizer"),
        ([level("a", model[0]), level("a", model[2])], "level 'a' is there already"),
    ]
    for levels, message in cases:
        with pytest.raises(InputError, match=message):
            NestedOptimizer(levels)
    with pytest.raises(ValueError, match="more than one parameter group"):
        NestedOptimizer([level("a", model), level("b", model[0])])
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = NestedOptimizer([level("a", table, 2, SGD)])
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match="sparse=False"):
        optimizer.step()


def test_a_state_that_does_not_fit_says_where() -> None:
    model = network()
    state = continuum(model).state_dict()
    other = nn.Sequential(nn.Linear(5, 6, bias=False), nn.Tanh(), nn.Linear(6, 7, bias=False), nn.Tanh())
    other.append(nn.Linear(7, 3, bias=False))
    with pytest.raises(CheckpointError, match=r"level 'middle', parameter number 0: expected shape \[7, 6\].*\[6, 6\]"):
        continuum(other).load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"the levels \['fast', 'middle', 'slow'\], expected \['all'\]"):
        NestedOptimizer([level("all", model)]).load_state_dict(state)
    with pytest.raises(CheckpointError, match="level 'fast': the saved state has 1 parameters, expected 2"):
        continuum(network(bias=True)).load_state_dict(state)
    with pytest.raises(CheckpointError, match="not the state of a NestedOptimizer: inner, num_skipped"):
        NestedOptimizer([level("all", model)]).load_state_dict(AdamW(model.parameters()).state_dict())
