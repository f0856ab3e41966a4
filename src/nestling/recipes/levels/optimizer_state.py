"""How many numbers an optimizer carries for each parameter, also before its first step."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from nestling.errors import NestlingError
from nestling.optim.recursive_dgd import RecursiveDGD
from nestling.optim.watching import WatchingOptimizer

__all__ = ["Entries", "entries_of"]

Entries = dict[str, int]
_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


def entries_of(optimizer: Optimizer) -> dict[Tensor, Entries | None]:
    """Per trained parameter the entries of its state and how many numbers each holds.

    Where the optimizer has not stepped yet, a copy of it takes one step on zeros of the same shapes, one parameter
    of every shape; the given one, its parameters and its hooks are not touched.

    Returns:
        None for a parameter whose state is known only after a step (the optimizer must see the layers at work).
    """
    if isinstance(optimizer, WatchingOptimizer):
        return _of_layers(optimizer)
    found: dict[Tensor, Entries | None] = {}
    for group in optimizer.param_groups:
        params = [parameter for parameter in group["params"] if parameter.requires_grad]
        fresh = {(tuple(p.shape), p.dtype): p for p in params if p not in optimizer.state}
        tried = _tried(optimizer, group, list(fresh.values())) if fresh else {}
        for p in params:
            key = (tuple(p.shape), p.dtype)
            found[p] = _sizes(optimizer.state[p]) if p in optimizer.state else tried.get(key)
    return found


def _of_layers(optimizer: WatchingOptimizer) -> dict[Tensor, Entries | None]:
    """Of an optimizer that watches layers: what it keeps of their inputs follows from their widths."""
    memories = {watched.layer.weight: watched for watched in optimizer.inputs}
    found: dict[Tensor, Entries | None] = {}
    for group in optimizer.param_groups:
        for parameter in (p for p in group["params"] if p.requires_grad):
            known = optimizer.state.get(parameter, {})
            if not known and isinstance(optimizer, RecursiveDGD) and parameter in memories:
                memory = optimizer._fresh(memories[parameter])
                layer = memories[parameter].layer
                moving = {"momentum": layer.pack(layer.parameters())} if group["momentum"] else {}
                known = {**memory, **moving}
            found[parameter] = _sizes(known)
    return found


def _tried(optimizer: Optimizer, group: dict[str, Any], params: list[Tensor]) -> dict[Any, Entries | None]:
    """The state after one step; on the meta device where the optimizer can, since that takes no memory and no time.

    Those that look at the gradients, to leave out what is not finite, step on zeros.
    """
    for device in ("meta", "cpu"):
        zeros = [torch.zeros(p.shape, dtype=p.dtype, device=device, requires_grad=True) for p in params]
        for zero in zeros:
            zero.grad = torch.zeros_like(zero)
        trial = _copied(optimizer, {**group, "params": zeros})
        step = getattr(type(trial).step, "__wrapped__", type(trial).step)  # without hooks
        try:
            step(trial)
        except (NestlingError, NotImplementedError, AttributeError, KeyError, RuntimeError, TypeError):
            continue
        return {(tuple(p.shape), p.dtype): _sizes(trial.state[zero]) for p, zero in zip(params, zeros)}
    return {}  # it needs more than gradients; the caller shows its state as not known


def _copied(optimizer: Optimizer, group: dict[str, Any]) -> Any:
    """An optimizer of the same class and settings with one group and nothing remembered."""
    group.pop("param_names", None)
    # One step must show it all, on any device, and soon: `steps` are those of Newton-Schulz.
    plain_ways = {"capturable": False, "fused": False, "update_period": 1, "steps": 1}
    group.update({key: value for key, value in plain_ways.items() if key in group})
    trial = object.__new__(type(optimizer))
    trial.__dict__.update({key: value for key, value in vars(optimizer).items() if not callable(value)})
    fresh: dict[str, Any] = {"state": defaultdict(dict), "param_groups": [group], "defaults": optimizer.defaults}
    trial.__setstate__({**fresh, **{name: OrderedDict() for name in _HOOKS}})
    return trial


def _sizes(state: dict[str, Any]) -> Entries:
    """Numbers per entry; settings and what is not a number do not count."""
    sizes = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            sizes[name] = value.numel()
        elif type(value) in (int, float):
            sizes[name] = 1
    return sizes
