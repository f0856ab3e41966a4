"""Recursive DGD over tasks: what is consolidated keeps its answers; memory, faults, save and load."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nestling.errors import CheckpointError, InputError
from nestling.optim import RecursiveDGD
from nestling.optim.input_memory import thin_rows

EXACT = {"rtol": 1e-8, "atol": 1e-10}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stream(module: nn.Module, optimizer: RecursiveDGD, x: Tensor, y: Tensor, size: int) -> None:
    for rows, values in zip(x.split(size), y.split(size)):
        optimizer.zero_grad()
        (0.5 * (module(rows) - values).square().sum()).backward()
        optimizer.step()


def direct(rows: list[Tensor], *, ridge: float, forgetting: float = 1.0) -> Tensor:
    """(ridge I + sum_i lambda^(t - i) X_i^T X_i)^-1."""
    total = ridge * torch.eye(rows[0].shape[1], dtype=torch.float64)
    for age, chunk in enumerate(reversed(rows)):
        total = total + forgetting**age * chunk.T @ chunk
    return torch.linalg.inv(total)


def test_before_the_first_consolidation_it_is_gradient_descent_with_momentum() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    other = copy.deepcopy(module)
    one = RecursiveDGD(module.parameters(), lr=0.1, module=module, momentum=0.9)
    two = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    for step in range(4):
        for part, optimizer in ((module, one), (other, two)):
            optimizer.zero_grad()
            part(draw(5, 4, seed=step)).sin().mean().backward()
            optimizer.step()
    for p, q in zip(module.parameters(), other.parameters()):
        torch.testing.assert_close(p, q, **EXACT)


def test_eq_45_a_consolidated_subspace_keeps_its_answers() -> None:
    """Inputs of the first task span two directions; a second task with other inputs moves the weights around them."""
    module = nn.Linear(6, 3, bias=False).double()
    optimizer = RecursiveDGD(module.parameters(), lr=0.5, module=module, ridge=1e-6, form="dense")
    first = draw(20, 2) @ draw(2, 6, seed=1)
    second = draw(20, 6, seed=2)
    module(first).square().mean().backward()
    optimizer.step()
    optimizer.consolidate([first])
    answers, others = module(first).detach(), module(second).detach()
    for _ in range(50):
        optimizer.zero_grad()
        (module(second) - 3).square().mean().backward()
        optimizer.step()
    assert (module(first) - answers).abs().max().item() < 1e-3
    assert (module(second) - others).abs().max().item() > 0.5


@pytest.mark.parametrize("form", ["dense", "low_rank", "auto"])
def test_eq_45_it_forgets_less_than_plain_descent(form: str) -> None:
    """Two regression tasks whose inputs live in different corners; the loss on the first after the second."""

    def run(consolidate: bool) -> float:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)).double()
        options: dict[str, Any] = {"rank": 12} if form == "low_rank" else {}
        optimizer = RecursiveDGD(
            module.parameters(), lr=0.2, momentum=0.9, module=module, ridge=1e-3, form=form, **options
        )
        tasks = []
        for task in range(2):
            x = torch.zeros(64, 8).double()
            x[:, 4 * task : 4 * task + 4] = draw(64, 4, seed=task)
            tasks.append((x, (-1) ** task * x.sum(1, keepdim=True).sin()))
        for x, y in tasks:
            for _ in range(150):
                optimizer.zero_grad()
                (module(x) - y).square().mean().backward()
                optimizer.step()
            if consolidate:
                optimizer.consolidate()
        x, y = tasks[0]
        return (module(x) - y).square().mean().item()

    assert run(True) < 0.5 * run(False)


def test_the_rest_is_frozen_after_the_first_task_unless_told_otherwise() -> None:
    for freeze in (True, False):
        module = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)).double()
        optimizer = RecursiveDGD(module.parameters(), lr=0.1, module=module, freeze_rest=freeze)
        moved = []
        for step in range(2):
            before = module[1].weight.detach().clone()
            optimizer.zero_grad()
            module(draw(9, 4, seed=step)).sin().mean().backward()
            optimizer.step()
            optimizer.consolidate()
            moved.append(not torch.equal(module[1].weight, before))
        assert moved == [True, not freeze]


def test_rereading_replaces_what_training_left_and_keeps_the_mode() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    optimizer = RecursiveDGD(module.parameters(), lr=0.1, module=module, ridge=0.2, form="dense")
    module(draw(9, 4)).sum().backward()
    optimizer.step()
    x = draw(12, 4, seed=5)
    optimizer.consolidate(x.split(5))
    assert module.training
    augmented = torch.cat([x, torch.ones(12, 1).double()], dim=1) / 12**0.5
    expected = direct([augmented], ridge=0.2)
    torch.testing.assert_close(optimizer.state[module[0].weight]["consolidated"][0], expected, **EXACT)


def test_consolidate_says_what_is_wrong() -> None:
    module = nn.Linear(4, 3)
    with pytest.raises(InputError, match="train first or give batches"):
        RecursiveDGD(module.parameters(), module=module).consolidate()
    with pytest.raises(InputError, match="mode='task'"):
        RecursiveDGD(module.parameters(), module=module, mode="step").consolidate()


def test_memory_of_wide_layers_stays_below_the_limit() -> None:
    module = nn.Sequential(nn.Linear(16, 64), nn.Linear(64, 16), nn.Conv2d(16, 4, 5))
    weights = 16 * 64 + 64 * 16 + 4 * 16 * 25
    whole = RecursiveDGD(module.parameters(), module=module, form="dense")
    assert whole.num_kept() == 2 * (17**2 + 65**2 + 401**2)
    for limit in (4.0, 2.0):
        optimizer = RecursiveDGD(module.parameters(), module=module, memory_limit=limit)
        assert optimizer.num_kept() <= limit * weights
        assert optimizer.forms[id(module[0].weight)].blocks == 1
    kept = optimizer.num_kept()
    module(torch.randn(7, 16, 9, 16, generator=torch.Generator().manual_seed(0))).mean().backward()
    optimizer.step()
    tensors = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    assert sum(tensor.numel() for tensor in tensors) == kept


def test_a_state_of_another_form_names_the_layer() -> None:
    module = nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 2))
    optimizer = RecursiveDGD(module.parameters(), module=module, form="dense")
    module(torch.ones(3, 8)).sum().backward()
    optimizer.step()
    other = RecursiveDGD(module.parameters(), module=module, form="low_rank", rank=2)
    with pytest.raises(CheckpointError, match=r"layer '0': expected shape \[1, 2, 9\].*\[1, 9, 9\]"):
        other.load_state_dict(optimizer.state_dict())


def test_consolidated_tasks_survive_save_and_load() -> None:
    module = nn.Linear(4, 3)
    optimizer = RecursiveDGD(module.parameters(), module=module, ridge=0.3)
    module(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    optimizer.consolidate()
    again = RecursiveDGD(module.parameters(), module=module, ridge=0.1)
    again.load_state_dict(optimizer.state_dict())
    assert again.num_consolidated == 1
    assert again.forms[id(module.weight)].ridge == 0.3
    key = module.weight
    assert torch.equal(again.state[key]["consolidated"], optimizer.state[key]["consolidated"])


def test_thinned_rows_keep_the_size_of_the_covariance() -> None:
    rows = draw(1, 4000, 3)
    thin = thin_rows(rows, 1000)
    assert thin.shape == (1, 1000, 3)
    torch.testing.assert_close(thin.mT @ thin / 4000, rows.mT @ rows / 4000, rtol=0, atol=0.1)
    assert thin_rows(rows, 5000) is rows
    module = nn.Linear(4, 3, bias=False).double()
    optimizer = RecursiveDGD(
        module.parameters(), lr=1.0, module=module, mode="step", ridge=0.2, reduction="sum", max_rows=2
    )
    x = draw(9, 4)
    stream(module, optimizer, x, draw(9, 3), 9)
    expected = direct([4.5**0.5 * x[[0, 4]]], ridge=0.2)
    torch.testing.assert_close(optimizer.state[module.weight]["consolidated"][0], expected, **EXACT)


def test_thinned_rows_take_turns_and_reread_batches_count_whole() -> None:
    """After as many steps as the batch has rows each row counted alike: the sum is the exact covariance."""
    x, y = draw(9, 4), draw(9, 3)
    module = nn.Linear(4, 3, bias=False).double()
    optimizer = RecursiveDGD(module.parameters(), lr=0.0, module=module, max_rows=3)
    for _ in range(9):
        stream(module, optimizer, x, y, 9)
    state = optimizer.state[module.weight]
    torch.testing.assert_close(state["recent"][0], 9 * x.T @ x, **EXACT)
    assert state["count"] == 81
    optimizer.consolidate([x])
    torch.testing.assert_close(state["consolidated"][0], direct([x / 3], ridge=1e-2), **EXACT)


def test_all_rows_count_in_the_step_mode_and_64_in_the_task_mode() -> None:
    x, y = draw(100, 4), draw(100, 3)
    for mode, ranks in (("task", 64), ("step", 100)):
        module = nn.Linear(4, 3, bias=False).double()
        optimizer = RecursiveDGD(module.parameters(), lr=0.0, module=module, mode=mode, reduction="sum")
        stream(module, optimizer, x, y, 100)
        rows = x if ranks == 100 else (100 / 64) ** 0.5 * x[torch.arange(64) * 100 // 64]
        state = optimizer.state[module.weight]
        if mode == "task":
            torch.testing.assert_close(state["recent"][0], rows.T @ rows, **EXACT)
        else:
            torch.testing.assert_close(state["consolidated"][0], direct([rows], ridge=1e-2), **EXACT)
    with pytest.raises(InputError, match="max_rows"):
        RecursiveDGD(module.parameters(), module=module, max_rows="all")  # type: ignore[arg-type]
