"""Two processes: sharded parameters (FSDP2) and data parallel training end where one process ends, or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel

from nestling.errors import InputError
from nestling.optim import OPTIMIZERS

pytestmark = pytest.mark.slow
RANKS, STEPS, ROWS = 2, 5, 12
SHARDED = ("momentum", "delta_momentum", "deep_momentum", "feature_momentum", "muon", "m3")
WATCHING = ("dgd", "recursive_dgd")
OPTIONS: dict[str, dict[str, Any]] = {
    "muon": {"precision": "parameter"},
    "m3": {"precision": "parameter", "update_period": 2},
    "delta_momentum": {"momentum": 0.8},
}
# what the test is called: the optimizer's name and its options
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, OPTIONS.get(name, {})) for name in (*SHARDED, *WATCHING)},
    "delta_momentum, preconditioned": ("delta_momentum", {"preconditioner": "diagonal"}),
    "delta_momentum, scalar": ("delta_momentum", {"form": "scalar"}),
    "recursive_dgd, step": ("recursive_dgd", {"mode": "step"}),
}


def network() -> nn.Sequential:
    """Shapes that two ranks cannot share evenly, wide and tall, with a kernel of four axes and an embedding."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(9, 12), nn.Unflatten(-1, (1, 3, 4)), nn.Conv2d(1, 3, 3, padding=1), nn.Flatten(), nn.Tanh(),
        nn.Linear(36, 5), nn.LayerNorm(5), nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)
    ).double()  # fmt: skip


def batch(step: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(100 + step)
    tokens = torch.randint(9, (ROWS,), generator=draw)
    return tokens, torch.randn(ROWS, 3, generator=draw, dtype=torch.float64)


def train(model: nn.Module, owner: nn.Module, case: str, rank: int, world: int) -> None:
    name, options = CASES[case]
    optimizer = OPTIMIZERS[name].build(owner.parameters(), module=owner, lr=0.05, **options)
    for step in range(STEPS):
        inputs, targets = (part.chunk(world)[rank] for part in batch(step))
        optimizer.zero_grad()
        (model(inputs) - targets).square().mean().backward()
        optimizer.step()


def whole(model: nn.Module) -> list[Tensor]:
    tensors = [p.detach() for p in model.parameters()]
    return [p.full_tensor() if isinstance(p, DTensor) else p for p in tensors]


def work(rank: int, folder: str) -> None:
    """One of the processes; the first writes what came out."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", RANKS), rank=rank, world_size=RANKS)
    results: dict[str, Any] = {}
    for case, (name, _) in CASES.items():
        model = network()
        if name in WATCHING:
            wrapped = DistributedDataParallel(model)
            train(wrapped, wrapped, case, rank, RANKS)
        else:
            fully_shard(model)
            train(model, model, case, rank, RANKS)
        results[case] = whole(model)
    for name in WATCHING:
        model = fully_shard(network())
        try:
            OPTIMIZERS[name].build(model.parameters(), module=model)
        except InputError as error:
            results[f"{name}, refused"] = str(error)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    spawn(work, args=(str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_where_one_ends(case: str, results: list[dict[str, Any]]) -> None:
    model = network()
    start = [p.detach().clone() for p in model.parameters()]
    train(model, model, case, 0, 1)
    moved = max(float((p - q).detach().abs().max()) for p, q in zip(model.parameters(), start))
    assert moved > 1e-2
    for ours in results:
        torch.testing.assert_close(ours[case], whole(model), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", WATCHING)
def test_sharded_layers_are_refused_where_whole_ones_are_needed(name: str, results: list[dict[str, Any]]) -> None:
    for ours in results:
        assert "DistributedDataParallel" in ours[f"{name}, refused"]
