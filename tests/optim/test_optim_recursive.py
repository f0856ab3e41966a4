"""Recursive DGD: P against direct inverses, a linear layer against ridge regression, tasks that stay learned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nestling.optim import RecursiveDGD
from nestling.optim.input_memory import BlockInputs, LowRankInputs, join_columns, split_columns
from nestling.rules import RULES

EXACT = {"rtol": 1e-8, "atol": 1e-10}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def direct(rows: list[Tensor], *, ridge: float, forgetting: float = 1.0) -> Tensor:
    """(ridge I + sum_i lambda^(t - i) X_i^T X_i)^-1."""
    total = ridge * torch.eye(rows[0].shape[1], dtype=torch.float64)
    for age, chunk in enumerate(reversed(rows)):
        total = total + forgetting**age * chunk.T @ chunk
    return torch.linalg.inv(total)


@pytest.mark.parametrize("forgetting", [1.0, 0.8])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_p_by_woodbury_is_the_direct_inverse(count: int, forgetting: float) -> None:
    form = BlockInputs(ridge=0.3)
    state = form.start(1, 5, like=draw(1))
    rows = [draw(count, 5, seed=seed) for seed in range(6)]
    for chunk in rows:
        form.write(state, chunk[None], forgetting=forgetting)
    torch.testing.assert_close(state["consolidated"][0], direct(rows, ridge=0.3, forgetting=forgetting), **EXACT)


def test_p_stays_bounded_where_nothing_is_read_any_more() -> None:
    form = BlockInputs(ridge=0.5)
    state = form.start(1, 3, like=draw(1))
    for seed in range(400):
        rows = draw(2, 3, seed=seed)
        rows[:, 2] = 0
        form.write(state, rows[None], forgetting=0.9)
    assert float(torch.linalg.eigvalsh(state["consolidated"][0]).max()) <= 2 * (1 + 1e-6)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_blocks_are_the_inverses_of_the_blocks(blocks: int) -> None:
    form = BlockInputs(ridge=0.3, blocks=blocks)
    state = form.start(1, 7, like=draw(1))
    rows, gradient = draw(10, 7), draw(1, 4, 7, seed=3)
    form.write(state, rows[None], forgetting=1.0)
    size = -(-7 // blocks)
    expected = [g @ direct([x], ridge=0.3) for g, x in zip(gradient[0].split(size, 1), rows.split(size, 1))]
    torch.testing.assert_close(form.protect(state, gradient)[0], torch.cat(expected, dim=1), **EXACT)


def test_columns_split_and_joined_are_the_same() -> None:
    matrix = draw(2, 3, 7)
    for blocks in (1, 2, 3, 7):
        assert torch.equal(join_columns(split_columns(matrix, blocks), blocks, 7), matrix)


def test_low_rank_is_exact_when_the_inputs_have_that_rank_and_best_otherwise() -> None:
    form, basis = LowRankInputs(ridge=0.3, rank=3), draw(3, 8)
    state = form.start(1, 8, like=draw(1))
    rows = [draw(3, 3, seed=seed) @ basis for seed in range(5)]
    for chunk in rows:
        form.write(state, chunk[None], forgetting=0.9)
    gradient = draw(1, 4, 8, seed=9)
    torch.testing.assert_close(
        form.protect(state, gradient)[0], gradient[0] @ direct(rows, ridge=0.3, forgetting=0.9), **EXACT
    )
    state = form.start(1, 8, like=draw(1))
    rows = [draw(3, 8)]
    form.write(state, torch.cat([rows[0], 1e-3 * draw(1, 8, seed=1)])[None][:, :3], forgetting=1.0)
    torch.testing.assert_close(form.protect(state, gradient)[0], gradient[0] @ direct(rows, ridge=0.3), **EXACT)


def test_consolidating_is_writing_all_recent_inputs_at_once() -> None:
    rows, gradient = [draw(6, 5, seed=seed) for seed in range(3)], draw(1, 2, 5, seed=9)
    for form in (BlockInputs(ridge=0.3), LowRankInputs(ridge=0.3, rank=5)):
        state = form.start(1, 5, like=draw(1))
        for chunk in rows:
            form.gather(state, chunk[None] if isinstance(form, BlockInputs) else chunk[None, :5])
        form.consolidate(state, scale=0.25, forgetting=1.0)
        seen = rows if isinstance(form, BlockInputs) else [chunk[:5] for chunk in rows]
        expected = gradient[0] @ direct([0.5 * chunk for chunk in seen], ridge=0.3)
        torch.testing.assert_close(form.protect(state, gradient)[0], expected, **EXACT)
        assert state["recent"].abs().max() == 0


# A linear layer in the step mode is recursive least squares -----------------------------------------------------------


def ridge_regression(x: Tensor, y: Tensor, ridge: float, start: Tensor) -> Tensor:
    """argmin_W sum |W x - y|^2 + ridge |W - W_0|^2."""
    gram = x.T @ x + ridge * torch.eye(x.shape[1], dtype=torch.float64)
    return torch.linalg.solve(gram, x.T @ y + ridge * start.T).T


def stream(module: nn.Module, optimizer: RecursiveDGD, x: Tensor, y: Tensor, size: int) -> None:
    for rows, values in zip(x.split(size), y.split(size)):
        optimizer.zero_grad()
        (0.5 * (module(rows) - values).square().sum()).backward()
        optimizer.step()


@pytest.mark.parametrize("size", [1, 4, 13])
def test_eq_59_60_a_linear_head_is_ridge_regression_on_everything_in_any_order(size: int) -> None:
    x, y = draw(40, 5), draw(40, 3, seed=1)
    x = torch.cat([x[:20], 3 * x[20:] + 1])  # two tasks with inputs of their own
    augmented = torch.cat([x, torch.ones(40, 1).double()], dim=1)
    for order in (torch.arange(40), torch.arange(39, -1, -1)):
        module = nn.Linear(5, 3).double()
        start = torch.cat([module.weight, module.bias[:, None]], dim=1).detach()
        optimizer = RecursiveDGD(
            module.parameters(), lr=1.0, module=module, mode="step", ridge=0.2, reduction="sum", form="dense"
        )
        stream(module, optimizer, x[order], y[order], size)
        expected = ridge_regression(augmented, y, 0.2, start)
        torch.testing.assert_close(torch.cat([module.weight, module.bias[:, None]], dim=1), expected, **EXACT)


def test_one_sample_at_a_time_is_the_rule_of_the_memories() -> None:
    rule, x, y = RULES["least_squares"], draw(6, 4), draw(6, 3, seed=1)
    state = rule.initial(1, 1, 3, 4, ridge=0.2, dtype=torch.float64)
    module = nn.Linear(4, 3, bias=False).double()
    module.weight.data.zero_()
    optimizer = RecursiveDGD(
        module.parameters(), lr=1.0, module=module, mode="step", ridge=0.2, reduction="sum", form="dense"
    )
    stream(module, optimizer, x, y, 1)
    one = torch.ones(1, 1, dtype=torch.float64)
    for key, value in zip(x, y):
        state = rule.write(state, key[None, None], value[None, None], eta=one, alpha=one)
    torch.testing.assert_close(module.weight.detach(), state.memory[0, 0], **EXACT)
    torch.testing.assert_close(optimizer.state[module.weight]["consolidated"][0], state.inverse[0, 0], **EXACT)


def test_an_embedding_in_the_step_mode_is_ridge_regression_on_one_hot_keys() -> None:
    table = nn.Embedding(5, 3).double()
    start = table.weight.detach().clone()
    tokens = torch.randint(0, 4, (30,), generator=torch.Generator().manual_seed(0))
    y = draw(30, 3)
    optimizer = RecursiveDGD(table.parameters(), lr=1.0, module=table, mode="step", ridge=0.2, reduction="sum")
    stream(table, optimizer, tokens, y, 7)
    one_hot = nn.functional.one_hot(tokens, 5).double()
    torch.testing.assert_close(table.weight.detach().T, ridge_regression(one_hot, y, 0.2, start.T), **EXACT)
