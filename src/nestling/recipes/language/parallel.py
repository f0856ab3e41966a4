"""One process or many: torchrun's processes, DDP and FSDP2, all of torch.distributed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from nestling.errors import InputError, UnknownNameError

__all__ = ["KINDS", "World", "average_gradients_now", "in_world", "spread"]

KINDS = ("ddp", "fsdp")


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of a training.

    rank: of this one, 0 writes.   size: how many.   device: of this one.
    kind: "ddp" (every process has the model, gradients are averaged) or "fsdp" (every process has a share of it).
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    kind: str = "ddp"

    @property
    def writes(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    @property
    def is_sharded(self) -> bool:
        """Whether weights are spread over processes."""
        return self.kind == "fsdp" and self.size > 1

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def in_world(kind: str, device: str) -> Iterator[World]:
    """The process group that torchrun asks for (WORLD_SIZE, RANK, LOCAL_RANK); without it, this process alone.

    A group that is there already is used, and left as it is.

    Args:
        kind: "ddp" or "fsdp".
        device: "auto" (CUDA where there is one), "cpu" or "cuda".

    Raises:
        UnknownNameError: for the kind.
        InputError: CUDA was asked for and is not there.
    """
    if kind not in KINDS:
        raise UnknownNameError("way of training in parallel", kind, KINDS)
    if device not in ("auto", "cpu", "cuda"):
        raise UnknownNameError("device", device, ("auto", "cpu", "cuda"))
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise InputError("device 'cuda' was asked for, but torch sees no CUDA device: leave --device out, or give cpu")
    on_cuda = has_cuda if device == "auto" else device == "cuda"
    size, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    place = torch.device("cuda", local) if on_cuda else torch.device("cpu")
    if on_cuda:
        torch.cuda.set_device(place)
    if size == 1:
        yield World(device=place, kind=kind)
        return
    started = not dist.is_initialized()
    if started:
        dist.init_process_group("nccl" if on_cuda else "gloo")
    try:
        yield World(rank=dist.get_rank(), size=size, device=place, kind=kind)
    finally:
        if started:
            dist.destroy_process_group()


def spread(model: Any, world: World) -> nn.Module:
    """The model as this process trains it.

    fsdp: `fully_shard` of every block and then of the whole (FSDP2).   ddp: `DistributedDataParallel`.
    """
    model.to(world.device)
    if world.size == 1:
        return model
    if world.kind == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        place = [world.device.index] if world.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=place)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    blocks = set(model._no_split_modules or ())
    for part in list(model.modules()):
        if type(part).__name__ in blocks:
            fully_shard(part, mesh=mesh)
    return fully_shard(model, mesh=mesh)  # pyright: ignore[reportReturnType]  the same module


def average_gradients_now(module: nn.Module, world: World, now: bool) -> AbstractContextManager[Any]:
    """Gradients are exchanged in backward passes inside, or wait for a later one."""
    if world.size == 1:
        return nullcontext()
    if world.is_sharded:
        module.set_requires_gradient_sync(now)  # pyright: ignore[reportCallIssue]  of FSDPModule
        return nullcontext()
    return nullcontext() if now else module.no_sync()  # pyright: ignore[reportReturnType, reportCallIssue]
