"""Parameter groups as levels: each with its own update period, optimizer, accumulation and retention."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nestling.errors import InputError
from nestling.optim.base import MemoryOptimizer, all_finite
from nestling.optim.name_patterns import groups_by_name
from nestling.optim.nested_checks import COUNTS, check_saved, make_inner
from nestling.schedule import Level, Schedule, is_update

__all__ = ["NestedOptimizer"]

_OURS = "level_"
_PENDING, _START = "level_pending", "level_start"
_SETTINGS = ("update_period", "accumulation", "retention", "anchor")


class NestedOptimizer(Optimizer):
    """Every parameter group is a level that gathers gradients and changes once per `update_period` steps.

        G <- G + g                              at every step
        W <- A + alpha (W - A)                  at every C-th step t = 0 mod C: retention towards the anchor A,
        W <- inner optimizer's step with G      then the level's own optimizer ("mean": with G / C); G <- 0

    With period 1 and retention 1 a level is its inner optimizer, bit for bit. Gradients wait in the state of this
    optimizer and not in `.grad`, so `zero_grad` may stand anywhere, and `state_dict` in the middle of a period holds
    them. A group is the very dictionary of its inner optimizer: learning rate schedulers act on both at once.

    A step in which any gradient is NaN or infinite changes nothing but `num_skipped`; it does not count in
    `num_steps`, as if it had not been taken (GradScaler does the same). A parameter without a gradient in a whole
    period is left alone, retention included.

    Source: NL eq. 70-71; retention is Ret of NL 59-60 with one past state. See `nestling.schedule.Level`.

    Args:
        levels: dictionaries with "params" (tensors or (name, tensor) pairs), "level" (a `Level`; update_period in
            steps), "optimizer" (any class or function that makes a torch optimizer with one group), and the options
            of that optimizer, such as "lr".

    Raises:
        InputError: a missing key, options that the optimizer does not take, one that asks for a closure (LBFGS) or
            makes several groups, or two levels of one name.
    """

    def __init__(self, levels: Iterable[Mapping[str, Any]]) -> None:
        self.inner: dict[str, Optimizer] = {}
        self.num_steps = 0
        self.num_skipped = 0
        groups = [dict(level) for level in levels]
        if not groups:
            raise InputError("expected at least one level: a dictionary with 'params', 'level' and 'optimizer'")
        super().__init__(groups, {})
        self._share_defaults()

    @classmethod
    def for_module(cls, module: nn.Module, levels: Mapping[str, Mapping[str, Any]]) -> NestedOptimizer:
        """Levels from patterns of parameter names.

        Args:
            module: its trainable parameters are distributed; frozen ones are left out.
            levels: pattern such as "*.mlp.*" or "*" to the dictionary of a level without "params". The first pattern
                that fits a parameter takes it.

        Raises:
            InputError: naming patterns that take no parameter, and parameters that no pattern takes.
        """
        return cls(groups_by_name(module, levels))

    @property
    def levels(self) -> Schedule:
        """The levels as they are now."""
        return Schedule(tuple(_level_of(group) for group in self.param_groups), unit="steps")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a level; see the class for the keys. It joins the clock of the others."""
        options = dict(param_group)
        missing = [key for key in ("params", "level", "optimizer") if key not in options]
        if missing:
            raise InputError(f"a level needs 'params', 'level' and 'optimizer', missing: {', '.join(missing)}")
        params, level, make = (options.pop(key) for key in ("params", "level", "optimizer"))
        if not isinstance(level, Level):
            raise InputError(f"'level': expected nestling.schedule.Level(name=..., update_period=...), got {level!r}")
        if level.name in self.inner:
            raise InputError(f"level {level.name!r} is there already: expected levels with different names")
        inner = make_inner(level, make, [params] if isinstance(params, Tensor) else list(params), options)
        (group,) = inner.param_groups
        group.update({"level": level.name, **_settings(level), "level_num_pending": 0})
        super().add_param_group(group)
        self.inner[level.name] = inner
        if level.anchor == "start":
            for parameter in group["params"]:
                self.state[parameter][_START] = parameter.detach().clone()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gather the gradients, and update the levels whose period is over.

        Args:
            closure: computes the gradients and returns the loss; it is called once.

        Returns:
            the loss of the closure, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not _are_finite([p for group in self.param_groups for p in group["params"]]):
            self.num_skipped += 1
            for inner in self.inner.values():
                if isinstance(inner, MemoryOptimizer):
                    inner._discard()  # what it saw of the layers in this step
            return loss
        self.num_steps += 1
        for group in self.param_groups:
            level = _level_of(group)
            if level.update_period == 1 and not group["level_num_pending"]:
                self._update(group, level)
                continue
            self._gather(group)
            if is_update(self.num_steps, level.update_period):
                self._release(group, level)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset `.grad`, not what is pending; optimizers that watch layers forget what a dropped batch showed them.

        Those with a longer period keep it, for they need the inputs of the whole period.
        """
        super().zero_grad(set_to_none)
        for group in self.param_groups:
            inner = self.inner[group["level"]]
            if group["level_update_period"] == 1 and isinstance(inner, MemoryOptimizer):
                inner.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """torch's layout, with the inner optimizer's entries and the pending gradient of every parameter.

        Beside it the counters, the shapes, and under "inner" what an inner optimizer adds to its own state.
        """
        packed = super().state_dict()
        mine: dict[int, Any] = packed["state"]
        state: dict[int, Any] = {}
        inner: dict[str, Any] = {}
        offset = 0
        for name, optimizer in self.inner.items():
            own = optimizer.state_dict()
            inner[name] = {key: value for key, value in own.items() if key not in ("state", "param_groups")}
            for index in range(len(optimizer.param_groups[0]["params"])):
                entries = {**own["state"].get(index, {}), **mine.get(offset, {})}
                if entries:
                    state[offset] = entries
                offset += 1
        shapes = [list(parameter.shape) for group in self.param_groups for parameter in group["params"]]
        counts = {key: getattr(self, key) for key in COUNTS}
        return {**packed, "state": state, **counts, "shapes": shapes, "inner": inner}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, pending gradients included; nothing is shared with it.

        Raises:
            CheckpointError: other levels, or naming the first parameter whose shape differs.
        """
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = hook(self, state_dict) or state_dict
        check_saved(self.param_groups, state_dict)
        saved = deepcopy(state_dict)
        for group, old in zip(saved["param_groups"], list(self.param_groups)):
            entries = [saved["state"].get(index, {}) for index in group["params"]]
            theirs = {i: _entries(each, ours=False) for i, each in enumerate(entries)}
            group["params"] = list(theirs)
            state = {i: each for i, each in theirs.items() if each}
            extras = saved["inner"].get(group["level"], {})
            self.inner[group["level"]].load_state_dict({**extras, "state": state, "param_groups": [group]})
            for parameter, each in zip(old["params"], entries):
                mine = _entries(each, ours=True)
                self.state[parameter] = {key: value.to(parameter.device) for key, value in mine.items()}
        self.param_groups = [inner.param_groups[0] for inner in self.inner.values()]
        for key in COUNTS:
            setattr(self, key, saved[key])
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "inner": self.inner, **{key: getattr(self, key) for key in COUNTS}}

    def _gather(self, group: dict[str, Any]) -> None:
        """Add the gradients of one step to the pending ones, in at least float32."""
        group["level_num_pending"] += 1
        sums, grads = [], []
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            if parameter.grad.is_sparse:
                raise InputError(
                    f"level {group['level']!r} gathers gradients over {group['level_update_period']} steps, which "
                    "sparse ones do not allow: use update_period 1, or an embedding with sparse=False"
                )
            if _PENDING in self.state[parameter]:
                sums.append(self.state[parameter][_PENDING])
                grads.append(parameter.grad)
            else:
                self.state[parameter][_PENDING] = parameter.grad.detach().to(_sum_dtype(parameter.grad), copy=True)
        if sums:
            torch._foreach_add_(sums, grads)

    def _release(self, group: dict[str, Any], level: Level) -> None:
        """Update a level with what it gathered; `.grad` is as before afterwards."""
        params: Sequence[Tensor] = group["params"]
        before = [parameter.grad for parameter in params]
        count, group["level_num_pending"] = group["level_num_pending"], 0
        try:
            for parameter in params:
                gathered = self.state[parameter].pop(_PENDING, None)
                if gathered is not None and level.accumulation == "mean":
                    gathered = gathered / count
                parameter.grad = None if gathered is None else gathered.to(parameter.dtype)
            if _are_finite(params):
                self._update(group, level)
            else:  # the sum left the range of its type
                self.num_skipped += 1
        finally:
            for parameter, grad in zip(params, before):
                parameter.grad = grad

    def _update(self, group: dict[str, Any], level: Level) -> None:
        """Retention, then one step of the inner optimizer with what stands in `.grad`."""
        touched = [parameter for parameter in group["params"] if parameter.grad is not None]
        if level.retention != 1 and touched:
            if level.anchor == "start":
                torch._foreach_lerp_(touched, [self.state[p][_START] for p in touched], 1 - level.retention)
            else:
                torch._foreach_mul_(touched, level.retention)
        self.inner[level.name].step()

    def _share_defaults(self) -> None:
        """Options that every inner optimizer has: schedulers look there for "betas" and "momentum"."""
        common = set.intersection(*(set(inner.defaults) for inner in self.inner.values()))
        first = next(iter(self.inner.values())).defaults
        self.defaults = {key: value for key, value in first.items() if key in common}


def _settings(level: Level) -> dict[str, Any]:
    return {_OURS + key: value for key, value in asdict(level).items() if key in _SETTINGS}


def _level_of(group: Mapping[str, Any]) -> Level:
    return Level(name=group["level"], **{key: group[_OURS + key] for key in _SETTINGS})


def _sum_dtype(grad: Tensor) -> torch.dtype:
    """float32 for half precision, which would lose small gradients in a sum."""
    return torch.float32 if grad.dtype in (torch.float16, torch.bfloat16) else grad.dtype


def _entries(state: Mapping[str, Any], *, ours: bool) -> dict[str, Any]:
    """The part of a parameter's saved state that is this class's, or the inner optimizer's."""
    return {key: value for key, value in state.items() if key.startswith(_OURS) == ours}


def _are_finite(params: Sequence[Tensor]) -> bool:
    """Whether no gradient holds NaN or an infinity."""
    grads = [parameter.grad for parameter in params if parameter.grad is not None]
    dense = [grad.coalesce().values() if grad.is_sparse else grad for grad in grads]
    if not dense:
        return True
    # A length is a ninth of the work of the largest entry; that of a finite gradient can overflow, which is seldom.
    lengths = [length.to(dense[0].device, torch.float32) for length in torch._foreach_norm(dense)]
    return bool(torch.stack(lengths).isfinite().all()) or all_finite(dense)
