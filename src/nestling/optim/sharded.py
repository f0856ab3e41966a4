"""Parameters sharded over processes (DTensor, as FSDP2 makes them): whole for a moment, and back to their places."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["placed_like", "whole"]


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or what all ranks hold of it together; every rank calls this."""
    gather: Any = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def placed_like(tensor: Tensor, like: Any) -> Tensor:
    """A whole tensor, the same on every rank, placed as `like` is; nothing is sent."""
    if not hasattr(like, "device_mesh"):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate  # slow to import; only sharded runs need it

    mesh = like.device_mesh
    everywhere = DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(placements=like.placements)
