"""One suite over every optimizer of the table."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from nestling.errors import CheckpointError, InputError, UnknownNameError
from nestling.optim import OPTIMIZERS, MemoryOptimizer, optimizer_named

NAMES = list(OPTIMIZERS)
OURS = [name for name, row in OPTIMIZERS.items() if not row.reference]
Make = Callable[..., Any]


def saved(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state through a file."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", NAMES)
def test_rows_say_what_they_are(name: str) -> None:
    row = optimizer_named(name)
    assert row.name == name
    assert row.summary
    assert row.equations.startswith("NL ")
    assert row.reference == (not issubclass(row.optimizer, MemoryOptimizer))


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'muon'"):
        optimizer_named("mion")


@pytest.mark.parametrize("name", NAMES)
def test_it_learns(name: str, problem: Make) -> None:
    case = problem()
    start = case.loss().item()
    case.train(case.build(name), 60)
    assert case.loss().item() < 0.7 * start


@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_bit_for_bit_after_save_and_load(name: str, problem: Make) -> None:
    whole = problem()
    optimizer = whole.build(name)
    whole.train(optimizer, 11)
    other = problem()
    other.model.load_state_dict(whole.model.state_dict())
    again = other.build(name, lr=123.0)
    again.load_state_dict(saved(optimizer))
    whole.train(optimizer, 9)
    other.train(again, 9)
    assert torch.equal(whole.weights(), other.weights())


@pytest.mark.parametrize("name", NAMES)
def test_closures(name: str, problem: Make) -> None:
    plain, closed = problem(), problem()
    plain.train(plain.build(name), 3)
    optimizer = closed.build(name)
    rows = iter([slice(0, 12), slice(12, 24), slice(24, 36)])

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = closed.loss(next(rows))
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(3)]
    assert all(loss > 0 for loss in losses)
    assert torch.equal(plain.weights(), closed.weights())


@pytest.mark.parametrize("name", NAMES)
def test_groups_have_rates_of_their_own(name: str, problem: Make) -> None:
    case = problem()
    first, last = list(case.model[0].parameters()), list(case.model[3].parameters())
    frozen = [p.detach().clone() for p in first]
    optimizer = case.build(name, params=[{"params": first, "lr": 0.0}, {"params": last}])
    before = last[0].detach().clone()
    case.train(optimizer, 3)
    assert all(torch.equal(p, q) for p, q in zip(first, frozen))
    assert not torch.equal(last[0], before)


@pytest.mark.parametrize("name", NAMES)
def test_schedulers_set_the_rate(name: str, problem: Make) -> None:
    scheduled, by_hand = problem(), problem()
    optimizer, other = scheduled.build(name, lr=0.04), by_hand.build(name, lr=0.04)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for step in range(4):
        for group in other.param_groups:
            group["lr"] = 0.04 * 0.5**step
        scheduled.train(optimizer, 1)
        by_hand.train(other, 1)
        scheduler.step()
    assert torch.equal(scheduled.weights(), by_hand.weights())


@pytest.mark.parametrize("name", NAMES)
def test_accumulated_halves_are_the_whole(name: str, problem: Make) -> None:
    whole, halves = problem(dtype=torch.float64), problem(dtype=torch.float64)
    options = {"precision": "parameter"} if name in ("muon", "m3") else {}
    one, two = whole.build(name, **options), halves.build(name, **options)
    for _ in range(3):
        one.zero_grad()
        whole.loss(slice(0, 24)).backward()
        one.step()
        two.zero_grad()
        (halves.loss(slice(0, 12)) / 2).backward()
        (halves.loss(slice(12, 24)) / 2).backward()
        two.step()
    torch.testing.assert_close(halves.weights(), whole.weights(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", OURS)
def test_a_step_with_a_bad_gradient_never_happened(name: str, bad: float, problem: Make) -> None:
    clean, faulty = problem(), problem()
    one, two = clean.build(name), faulty.build(name)
    assert isinstance(two, MemoryOptimizer)
    clean.train(one, 4)
    faulty.train(two, 2)
    before, weights = copy.deepcopy(two.state_dict()), faulty.weights()
    two.zero_grad()
    faulty.loss().backward()
    faulty.model[3].weight.grad[0, 1] = bad
    two.step()
    assert two.num_skipped == 1
    assert torch.equal(faulty.weights(), weights)
    assert str(before["state"]) == str(two.state_dict()["state"])
    faulty.train(two, 1)  # continues at the third batch, but train() counts from the first
    clean_again = problem()
    three = clean_again.build(name)
    clean_again.train(three, 2)
    clean_again.train(three, 1)
    assert torch.equal(faulty.weights(), clean_again.weights())
    restored = problem().build(name)
    restored.load_state_dict(saved(two))
    assert restored.num_skipped == 1


@pytest.mark.parametrize("name", OURS)
def test_the_scaler_of_mixed_precision_is_undone(name: str, problem: Make) -> None:
    plain, scaled = problem(), problem()
    one, two = plain.build(name), scaled.build(name)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for _ in range(3):
        plain.train(one, 1)
        two.zero_grad()
        scaler.scale(scaled.loss(slice(0, 12))).backward()
        scaler.step(two)
        scaler.update()
    torch.testing.assert_close(scaled.weights(), plain.weights(), rtol=1e-5, atol=1e-6)
    two.zero_grad()
    scaler.scale(scaled.loss()).backward()
    scaled.model[0].weight.grad[0, 0] = math.inf
    before = scaled.weights()
    scaler.step(two)
    scaler.update()
    assert two.num_skipped == 1
    assert torch.equal(scaled.weights(), before)
    assert scaler.get_scale() == 2.0**9


@pytest.mark.parametrize("name", OURS)
def test_a_state_of_other_shapes_names_the_parameter(name: str, problem: Make) -> None:
    case = problem()
    optimizer = case.build(name)
    case.train(optimizer, 2)
    other = problem(hidden=17).build(name)
    with pytest.raises(CheckpointError, match=r"parameter 0 \(0\.weight\): expected shape \[17, 5\].*\[16, 5\]"):
        other.load_state_dict(optimizer.state_dict())
    fewer = problem()
    partial = fewer.build(name, params=list(fewer.model[0].parameters()))
    with pytest.raises(CheckpointError, match=r"groups of \[6\].*\[2\]"):
        partial.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("name", OURS)
def test_sparse_gradients_are_refused(name: str) -> None:
    model = nn.Sequential(nn.Embedding(7, 4, sparse=True), nn.Linear(4, 2))
    optimizer = OPTIMIZERS[name].build(model.parameters(), module=model, lr=0.1)
    model(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(InputError, match="sparse=False"):
        optimizer.step()


@pytest.mark.parametrize("name", OURS)
def test_options_out_of_range_are_named(name: str, problem: Make) -> None:
    with pytest.raises(InputError, match="lr: expected"):
        problem().build(name, lr=-1.0)
    case = problem()
    optimizer = case.build(name)
    with pytest.raises(InputError, match="lr: expected"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))], "lr": -0.5})


@pytest.mark.parametrize("name", NAMES)
def test_parameters_without_gradient_stay(name: str, problem: Make) -> None:
    case = problem()
    optimizer = case.build(name)
    case.model[3].requires_grad_(False)
    before = case.model[3].weight.detach().clone()
    case.train(optimizer, 2)
    assert torch.equal(case.model[3].weight, before)


@pytest.mark.parametrize("name", NAMES)
def test_a_zero_rate_changes_nothing(name: str, problem: Make) -> None:
    case = problem()
    before = case.weights()
    case.train(case.build(name, lr=0.0), 3)
    torch.testing.assert_close(case.weights(), before, rtol=0, atol=1e-6 if "dgd" in name else 0)


@pytest.mark.parametrize("name", OURS)
def test_half_precision_parameters(name: str, problem: Make) -> None:
    case = problem(dtype=torch.bfloat16)
    optimizer = case.build(name)
    case.train(optimizer, 5)
    assert case.weights().isfinite().all()
    other = problem(dtype=torch.bfloat16)
    other.model.load_state_dict(case.model.state_dict())
    again = other.build(name)
    again.load_state_dict(saved(optimizer))
    case.train(optimizer, 2)
    other.train(again, 2)
    assert torch.equal(case.weights(), other.weights())


@pytest.mark.parametrize("name", [name for name, row in OPTIMIZERS.items() if row.needs == "module"])
def test_a_missing_module_is_asked_for(name: str, problem: Make) -> None:
    case = problem()
    with pytest.raises(InputError, match="module"):
        OPTIMIZERS[name].build(case.model.parameters())
    with pytest.raises(InputError, match="at least one linear map"):
        OPTIMIZERS[name].build(case.model.parameters(), module=problem().model)


@pytest.mark.parametrize("name", [name for name in OURS if OPTIMIZERS[name].needs == "parameters"])
def test_a_copy_keeps_state_and_count(name: str, problem: Make) -> None:
    case = problem()
    optimizer = case.build(name)
    case.train(optimizer, 3)
    optimizer.num_skipped = 2
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert twin.num_skipped == 2
        mine, theirs = optimizer.state_dict()["state"], twin.state_dict()["state"]
        assert mine.keys() == theirs.keys()
        for index, entries in mine.items():
            for key, value in entries.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(theirs[index][key]))
        twin.step()


@pytest.mark.parametrize("name", [name for name in OURS if OPTIMIZERS[name].needs == "module"])
def test_what_watches_a_module_is_not_copied_alone(name: str, problem: Make) -> None:
    with pytest.raises(InputError, match="state_dict"):
        copy.deepcopy(problem().build(name))
