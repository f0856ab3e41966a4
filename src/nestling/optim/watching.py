"""The step of optimizers that watch layer inputs: which parameters belong to a layer, which stand alone."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nestling.errors import InputError
from nestling.optim.base import Group, MemoryOptimizer, finite_numbers
from nestling.optim.layer_inputs import LayerInputs, WatchedLayer
from nestling.optim.rank_inputs import gather_inputs

__all__ = ["WatchingOptimizer"]


class WatchingOptimizer(MemoryOptimizer):
    """An optimizer that sees the inputs of every linear map.

    A layer is updated when its weight has a gradient and inputs; then its bias goes with it. All other parameters go to
    `_update_rest`. Inputs are forgotten after every step and by `zero_grad`.

    In several processes give the DistributedDataParallel module itself as `module`: its gradients are means over all
    ranks, so the inputs of all ranks count, and every rank takes the same step. A module of that kind that is not
    wrapped is taken to be this process's own.

    Raises:
        InputError: parameters sharded over processes (FSDP2, tensor parallel), whose layers nobody sees whole.
    """

    def __init__(self, params: Any, *, module: nn.Module, defaults: Group) -> None:
        super().__init__(params, defaults)
        self._refuse_sharded()
        self.module = module
        self._ranks = module.process_group if isinstance(module, DistributedDataParallel) else None
        self.inputs = LayerInputs(module, [p for group in self.param_groups for p in group["params"]])
        self._check_groups()

    def __getstate__(self) -> dict[str, Any]:
        """Refused: a copy would watch nothing.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"{type(self).__name__} watches the layers of its module and cannot be copied or pickled alone: "
            "build it on the copied module and load this one's state_dict()"
        )

    def _refuse_sharded(self) -> None:
        for p in (p for group in self.param_groups for p in group["params"]):
            if hasattr(p, "device_mesh"):
                raise InputError(
                    f"{type(self).__name__}: expected whole parameters, got one of shape {list(p.shape)} sharded over "
                    "processes: it sees each layer's inputs beside its whole weight; use DistributedDataParallel, or "
                    "an optimizer that needs only gradients (muon, m3, delta_momentum)"
                )

    def _check_groups(self) -> None:
        where = {id(p): number for number, group in enumerate(self.param_groups) for p in group["params"]}
        for watched in self.inputs:
            if len({where[id(p)] for p in watched.layer.parameters()}) > 1:
                raise InputError(
                    f"layer {watched.layer.name!r}: expected weight and bias in one group, got two: they are one memory"
                )

    def step(self, closure: Any = None) -> Any:
        """As in MemoryOptimizer; the gathered inputs are forgotten afterwards."""
        try:
            return super().step(closure)
        finally:
            self.inputs.clear()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget gradients and the inputs they belong to."""
        super().zero_grad(set_to_none)
        self.inputs.clear_gathered()

    def _usable(self, params: list[Tensor]) -> bool:
        """Also whether the squares of all inputs are finite; those of all ranks, so that all decide alike."""
        if self._ranks is not None:
            gather_inputs(self.inputs, self._ranks)
        lengths = torch._foreach_norm([key for watched in self.inputs for key in watched.gathered] or [torch.zeros(1)])
        return super()._usable(params) and finite_numbers([length.square() for length in lengths])

    def _update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        slopes = {id(p): grad for p, grad in zip(params, grads)}
        for p in params:
            watched = self.inputs.layers.get(id(p))
            keys = None if watched is None else watched.keys()
            if watched is None or keys is None:
                continue
            owned = watched.layer.parameters()
            grad = [slopes.pop(id(q), None) for q in owned]
            packed = watched.layer.pack([torch.zeros_like(q) if g is None else g for q, g in zip(owned, grad)])
            weight = watched.layer.pack(owned).to(keys.dtype)  # half types are not updated in half precision
            new = self._update_layer(group, watched, weight, packed.to(keys.dtype), keys)
            for q, value in zip(owned, watched.layer.unpack(new)):
                q.copy_(value)
        rest = [p for p in params if id(p) in slopes]
        if rest:
            self._update_rest(group, rest, [slopes[id(p)] for p in rest])

    @abstractmethod
    def _update_layer(self, group: Group, watched: WatchedLayer, weight: Tensor, grad: Tensor, keys: Tensor) -> Tensor:
        """The new memory [G, out, K] of a layer, from the old one, its gradient and its keys."""

    def _update_rest(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        """Plain gradient steps: what a memory without keys can do."""
        rate = float(group["lr"])
        torch._foreach_mul_(params, 1 - rate * group["weight_decay"])
        torch._foreach_add_(params, grads, alpha=-rate)
