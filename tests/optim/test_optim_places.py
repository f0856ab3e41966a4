"""Where optimizers run: autocast, sharded parameters, modules that move, gradients whose length overflows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from nestling.optim import OPTIMIZERS, MemoryOptimizer

Make = Callable[..., Any]
OURS = [name for name, row in OPTIMIZERS.items() if not row.reference]


@pytest.mark.parametrize("name", OURS)
def test_autocast_with_a_scaler_learns(name: str, problem: Make) -> None:
    case = problem()
    optimizer = case.build(name)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    start = case.loss().item()
    for _ in range(40):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = case.loss()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(case.model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    assert case.loss().item() < 0.8 * start


@pytest.mark.parametrize("name", OURS)
def test_a_finite_gradient_whose_length_overflows_is_not_skipped(name: str, problem: Make) -> None:
    case = problem()
    optimizer = case.build(name)
    case.loss().backward()
    case.model[3].bias.grad.fill_(3e38)
    optimizer.step()
    assert optimizer.num_skipped == 0


@pytest.mark.parametrize("name", OURS)
def test_state_goes_where_its_parameter_goes(name: str, problem: Make) -> None:
    """The meta device stands for another one: state left behind is moved before the update."""
    case = problem()
    optimizer = case.build(name)
    assert isinstance(optimizer, MemoryOptimizer)
    case.train(optimizer, 2)
    here = case.model[3].weight
    there = nn.Parameter(torch.empty_like(here, device="meta"))
    optimizer.state[there] = dict(optimizer.state[here])
    optimizer._follow([here, there])
    for p in (here, there):
        devices = {value.device for value in optimizer.state[p].values() if isinstance(value, torch.Tensor)}
        assert devices <= {p.device}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    store = dist.FileStore(str(tmp_path_factory.mktemp("store") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("placement", [Shard(0), Shard(1), Replicate()])
@pytest.mark.parametrize("name", ["momentum", "delta_momentum", "feature_momentum", "muon", "m3", "deep_momentum"])
def test_sharded_parameters_take_the_same_steps(name: str, placement: Any, mesh: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    start, grads = torch.randn(8, 6, generator=draw), [torch.randn(8, 6, generator=draw) for _ in range(4)]
    whole = nn.Parameter(start.clone())
    sharded = nn.Parameter(distribute_tensor(start.clone(), mesh, [placement]))
    for p in (whole, sharded):
        optimizer = OPTIMIZERS[name].build([p], lr=0.01)
        for grad in grads:
            p.grad = distribute_tensor(grad, mesh, [placement]) if isinstance(p, DTensor) else grad.clone()
            optimizer.step()
    torch.testing.assert_close(sharded.full_tensor(), whole, rtol=1e-3, atol=1e-4)
