"""What all optimizers of this package share: the step around the update, faults, and a state that names its shapes."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from nestling.errors import CheckpointError, InputError
from nestling.optim.sharded import whole

Group = dict[str, Any]
Range = tuple[float, float]


class MemoryOptimizer(torch.optim.Optimizer, ABC):
    """An optimizer as an associative memory of gradients.

    A step whose gradients are not all finite is skipped and counted in `num_skipped`; nothing of it enters a memory.
    GradScaler hands its own finding over, so its skipped steps are counted too.

    A subclass gives `_update` and, in RANGES, the closed interval allowed for each numeric option.
    """

    RANGES: ClassVar[dict[str, Range]] = {}
    # GradScaler then calls step() always, with what it found in `found_inf` and the scale in `grad_scale`.
    _step_supports_amp_scaling = True

    def __init__(self, params: Any, defaults: Group) -> None:
        self.num_skipped = 0
        self._lengths: dict[int, Tensor] = {}
        super().__init__(params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle keeps: all but what belongs to the step under way."""
        return {**super().__getstate__(), "num_skipped": self.num_skipped, "_lengths": {}}

    @abstractmethod
    def _update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        """One update of the parameters of a group that have a gradient; all gradients are dense and finite."""

    def _discard(self) -> None:
        """Drop what was gathered for the step that is now skipped."""

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters with options of its own.

        Raises:
            InputError: an option outside its range.
        """
        for name, (low, high) in self.RANGES.items():
            value = param_group.get(name, self.defaults.get(name))
            if value is not None and not low <= float(value) <= high:
                raise InputError(f"{name}: expected a number in [{low:g}, {high:g}], got {float(value):g}")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient.

        Args:
            closure: computes the loss and its gradients anew; called once, with gradients enabled.

        Returns:
            what the closure returned, or None.

        Raises:
            InputError: a sparse or complex gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        owners = [p for _, params in work for p in params]
        _refuse_unusable([p.grad for p in owners])
        self._unscale([p.grad for p in owners])
        if not self._usable(owners):
            self.num_skipped += 1
            self._discard()
            return loss
        for group, params in work:
            if params:
                self._follow(params)
                self._update(group, params, [p.grad for p in params])
        return loss

    def state_dict(self) -> dict[str, Any]:
        """State, groups, the count of skipped steps, and the shape of every parameter."""
        shapes = [list(p.shape) for group in self.param_groups for p in group["params"]]
        return {**super().state_dict(), "num_skipped": self.num_skipped, "shapes": shapes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, bit for bit.

        Raises:
            CheckpointError: naming the parameter whose shape differs, or the number of parameters.
        """
        self._check_saved(state_dict)
        super().load_state_dict(state_dict)
        self.num_skipped = state_dict.get("num_skipped", 0)
        # torch casts every state tensor to the parameter's type; memories keep the type they were saved in.
        params = [p for group in self.param_groups for p in group["params"]]
        for index, saved in state_dict["state"].items():
            for key, value in saved.items():
                if isinstance(value, Tensor) and self.state[params[index]][key].dtype != value.dtype:
                    self.state[params[index]][key] = value.to(params[index].device, copy=True)

    def _check_saved(self, state_dict: dict[str, Any]) -> None:
        sizes = [len(group["params"]) for group in self.param_groups]
        saved_sizes = [len(group["params"]) for group in state_dict["param_groups"]]
        if sizes != saved_sizes:
            raise CheckpointError(
                f"the saved state has groups of {saved_sizes} parameters, this optimizer {sizes}: "
                "build it on the same model with the same groups"
            )
        names = [name for group in self.param_groups for name in group.get("param_names", group["params"])]
        params = [p for group in self.param_groups for p in group["params"]]
        for index, (name, p, shape) in enumerate(zip(names, params, state_dict.get("shapes", []))):
            if list(p.shape) != list(shape):
                called = f" ({name})" if isinstance(name, str) else ""
                raise CheckpointError(
                    f"parameter {index}{called}: expected shape {list(p.shape)}, the saved state has {list(shape)}: "
                    "load a state of the same model"
                )

    def _unscale(self, grads: list[Tensor]) -> None:
        scale = getattr(self, "grad_scale", None)
        if scale is not None and grads:
            torch._foreach_div_(grads, float(scale))

    def _usable(self, params: list[Tensor]) -> bool:
        """Whether all gradients are finite; their lengths are kept for `_lengths_of`."""
        found = getattr(self, "found_inf", None)
        if found is not None and float(found) > 0:
            return False
        grads = [p.grad for p in params if p.grad is not None]
        lengths = [whole(length) for length in torch._foreach_norm(grads)] if grads else []
        self._lengths = {id(p): length for p, length in zip(params, lengths)}
        # The length of a finite gradient can overflow; only then is every entry looked at.
        return finite_numbers(lengths) or all_finite(grads)

    def _lengths_of(self, params: list[Tensor]) -> list[Tensor]:
        """|g| of each parameter's gradient in this step, measured once."""
        return [self._lengths[id(p)] for p in params]

    def _follow(self, params: list[Tensor]) -> None:
        """Move state to where its parameter went since the last step."""
        for p in params:
            state = self.state[p]
            for key, value in state.items():
                if isinstance(value, Tensor) and value.device != p.device:
                    state[key] = value.to(p.device)

    def _buffers(self, params: list[Tensor], name: str) -> list[Tensor]:
        """One state tensor per parameter, zeros at first."""
        buffers = []
        for p in params:
            state = self.state[p]
            if name not in state:
                state[name] = torch.zeros_like(p)
            buffers.append(state[name])
        return buffers

    def _count_steps(self, params: list[Tensor]) -> list[int]:
        """Updates so far per parameter, this one included."""
        for p in params:
            self.state[p]["step"] = self.state[p].get("step", 0) + 1
        return [self.state[p]["step"] for p in params]


def decay_weights(group: Group, params: list[Tensor]) -> None:
    """Decoupled weight decay: W <- (1 - lr weight_decay) W."""
    if group["weight_decay"]:
        torch._foreach_mul_(params, 1 - float(group["lr"]) * group["weight_decay"])


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no entry is NaN or infinite."""
    filled = [tensor for tensor in tensors if tensor.numel()]
    return finite_numbers([whole(size) for size in torch._foreach_norm(filled, float("inf"))] if filled else [])


def finite_numbers(numbers: Sequence[Tensor]) -> bool:
    """Whether none of these scalars is NaN or infinite; one wait for the device."""
    if not numbers:
        return True
    home = numbers[0].device
    return bool(torch.stack([number.to(home, torch.float64) for number in numbers]).isfinite().all())


def _refuse_unusable(grads: list[Tensor]) -> None:
    for grad in grads:
        if grad.layout != torch.strided:
            raise InputError(
                f"gradient of shape {list(grad.shape)}: expected a dense gradient, got layout {grad.layout}: "
                "build the embedding with sparse=False"
            )
        if grad.is_complex():
            raise InputError(f"gradient of shape {list(grad.shape)}: expected real numbers, got {grad.dtype}")
