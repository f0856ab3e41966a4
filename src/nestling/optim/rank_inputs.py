"""Layer inputs of all processes put together: data parallel training, where gradients are means over ranks."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from nestling.optim.layer_inputs import LayerInputs
from nestling.optim.layer_maps import is_embedding

__all__ = ["gather_inputs", "gather_rows"]


def gather_inputs(inputs: LayerInputs, ranks: Any) -> None:
    """Give every rank the keys that all ranks gathered; a layer that no rank used stays empty.

    Every rank calls this at the same step. A rank that did not use a layer takes part with no keys.

    Args:
        inputs: the watched layers, in the same order on every rank.
        ranks: the process group.
    """
    for watched in inputs:
        layer, keys = watched.layer, watched.keys()
        like = layer.weight.new_zeros((), dtype=torch.promote_types(layer.weight.dtype, torch.float32))
        if is_embedding(layer.module):
            counts = like.new_zeros(layer.key_width) if keys is None else keys.clone()
            dist.all_reduce(counts, group=ranks)
            together, used = counts, bool(counts.any())
        else:
            rows = like.new_zeros(layer.groups, 0, layer.key_width) if keys is None else keys
            together = gather_rows(rows, ranks)
            used = together.shape[1] > 0
        watched.gathered[:] = [together] if used else []


def gather_rows(rows: Tensor, ranks: Any) -> Tensor:
    """The rows [G, n, K] of all ranks, rank after rank: [G, sum of n, K]; n may differ between ranks."""
    world = dist.get_world_size(ranks)
    count = torch.tensor([rows.shape[1]], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(world)]
    dist.all_gather(counts, count, group=ranks)
    numbers = [int(number) for number in counts]
    padded = F.pad(rows, (0, 0, 0, max(numbers) - rows.shape[1])).contiguous()
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded, group=ranks)
    return torch.cat([part[:, :number] for part, number in zip(parts, numbers)], dim=1)
