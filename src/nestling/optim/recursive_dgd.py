"""Recursive Delta Gradient Descent: steps that leave the answers to remembered inputs alone."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from nestling.errors import CheckpointError, InputError, UnknownNameError
from nestling.optim.base import Group, Range
from nestling.optim.dgd import REDUCTIONS, Reduction
from nestling.optim.input_memory import BlockInputs, LowRankInputs, thin_rows
from nestling.optim.layer_inputs import WatchedLayer
from nestling.optim.layer_maps import is_embedding
from nestling.optim.row import OptimizerRow
from nestling.optim.watching import WatchingOptimizer

__all__ = ["FORMS", "MODES", "ROW", "RecursiveDGD"]

Mode = Literal["task", "step"]
Form = Literal["auto", "dense", "low_rank"]
MODES = ("task", "step")
FORMS = ("auto", "dense", "low_rank")
AUTO_ROWS = 64


class RecursiveDGD(WatchingOptimizer):
    """Gradient descent through the inverse covariance of everything a layer has read.

    memory     P = (ridge I + sum_i lambda^(t-i) x_i x_i^T)^-1   of every linear map, its bias with the key 1
    task       S <- momentum S + G;   W <- W - lr S (ridge P)    P written by `consolidate` at the end of a task
    step       P written with the samples of this step;   S as above;   W <- W - lr S P

    Source: NL 4.3 (eq. 45), 54-57 with P in the place of one sample; OWM (Zeng et al. 2019). `rules.least_squares`
    writes P. In the step mode with lr 1, reduction "sum", momentum 0 and the loss 1/2 |y - v|^2, a linear layer is
    recursive least squares: after every step the exact ridge regression on all samples so far (NL 59-60).

    In the task mode ridge P starts as the identity, so the first task is trained by plain gradient descent at lr, and a
    direction whose mean square is far above `ridge` is afterwards left alone. Parameters that are no part of a linear
    map take plain gradient steps; in the task mode they are frozen after the first consolidation unless
    `freeze_rest` is False, since nothing protects them. An embedding's P is diagonal.

    Memory: P and the covariance since the last consolidation. "auto" cuts P of the widest layers into diagonal blocks
    until both are below `memory_limit` times the watched weights, all layers together.

    Args:
        params: parameters or groups.
        lr: >= 0.
        module: whose layers are watched; build the optimizer before the first call of a compiled module.
        mode: "task" or "step"; one for all groups.
        momentum: in [0, 1].
        ridge: > 0, in units of the squared inputs.
        forgetting: lambda in (0, 1], per step or per task; 1 keeps everything. Below 1 the ridge does not decay.
        reduction: "mean": the rows of one step (of one task) count 1 together, as in a mean loss; "sum": each counts 1.
        form: "auto", "dense" or "low_rank".
        rank: of the low-rank form, >= 1; also the most rows of one step that it takes.
        max_rows: of one training step that count, evenly spaced, scaled up and taking turns; None takes all. "auto" is
            64 in the task mode, whose covariance sums over many steps and would else cost as much as a third of the
            training step, and all in the step mode, which then is exact. Batches given to `consolidate` count whole.
        memory_limit: > 0, numbers kept per watched weight, for "auto".
        freeze_rest: see above.
        weight_decay: >= 0, of parameters outside linear maps; decay of the others would change what they answer.
    """

    RANGES: ClassVar[dict[str, Range]] = {
        "lr": (0, math.inf),
        "momentum": (0, 1),
        "ridge": (1e-30, math.inf),
        "forgetting": (1e-6, 1),
        "rank": (1, math.inf),
        "max_rows": (1, math.inf),
        "weight_decay": (0, math.inf),
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-1,
        *,
        module: nn.Module,
        mode: Mode = "task",
        momentum: float = 0.0,
        ridge: float = 1e-2,
        forgetting: float = 1.0,
        reduction: Reduction = "mean",
        form: Form = "auto",
        rank: int = 64,
        max_rows: int | Literal["auto"] | None = "auto",
        memory_limit: float = 4.0,
        freeze_rest: bool = True,
        weight_decay: float = 0.0,
    ) -> None:
        for what, given, known in (("mode", mode, MODES), ("form", form, FORMS), ("reduction", reduction, REDUCTIONS)):
            if given not in known:
                raise UnknownNameError(f"{what} of recursive DGD", given, known)
        if isinstance(max_rows, str):
            if max_rows != "auto":
                raise InputError(f"max_rows: expected a number, None or 'auto', got {max_rows!r}")
            max_rows = AUTO_ROWS if mode == "task" else None
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "ridge": ridge,
            "forgetting": forgetting,
            "reduction": reduction,
            "rank": rank,
            "max_rows": max_rows,
            "weight_decay": weight_decay,
        }
        super().__init__(params, module=module, defaults=defaults)
        self.mode, self.freeze_rest, self.num_consolidated = mode, freeze_rest, 0
        self._plan_arguments = (form, memory_limit)
        self.forms = self._plan(form, memory_limit)

    @torch.no_grad()
    def consolidate(self, batches: Iterable[Any] | None = None) -> None:
        """Remember the inputs of the task that ends; from now on steps leave the answers to them alone.

        Args:
            batches: what the module is called with, once over the task; in several processes the same on every rank.
                None takes the inputs seen in training since the last call, which come for free but from weights that
                have changed since.

        Raises:
            InputError: in the step mode, or when there is nothing to remember.
        """
        if self.mode == "step":
            raise InputError("consolidate: expected mode='task', got 'step', which remembers after every step")
        if batches is not None:
            self._reread(batches)
        seen = [watched for watched in self.inputs if self._memory(watched)["count"] > 0]
        if not seen:
            raise InputError("consolidate: expected inputs since the last call, got none: train first or give batches")
        for watched in seen:
            group, state = self._group(watched), self._memory(watched)
            scale = 1 / state["count"] if group["reduction"] == "mean" else 1.0
            forgetting = float(group["forgetting"])
            if is_embedding(watched.layer.module):
                state["consolidated"].mul_(forgetting).add_(state["recent"], alpha=scale)
                state["recent"].zero_()
            else:
                form = self.forms[id(watched.layer.weight)]
                form.consolidate(state, scale=scale, forgetting=forgetting)
            state["count"] = 0
        self.num_consolidated += 1

    def num_kept(self) -> int:
        """Numbers that the memories of all layers hold, momentum not counted."""
        total = 0
        for watched in self.inputs:
            layer = watched.layer
            if is_embedding(layer.module):
                total += 2 * layer.key_width
            else:
                total += self.forms[id(layer.weight)].numbers(layer.groups, layer.key_width)
        return total

    def state_dict(self) -> dict[str, Any]:
        """Also how many tasks were consolidated."""
        return {**super().state_dict(), "num_consolidated": self.num_consolidated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            CheckpointError: naming the parameter or layer that differs.
        """
        order = {id(p): i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        for watched in self.inputs:
            saved = state_dict["state"].get(order[id(watched.layer.weight)], {}).get("consolidated")
            fresh = self._fresh(watched)["consolidated"]
            if saved is not None and saved.shape != fresh.shape:
                raise CheckpointError(
                    f"input memory of layer {watched.layer.name!r}: expected shape {list(fresh.shape)}, the saved "
                    f"state has {list(saved.shape)}: build the optimizer with the same form, rank and memory_limit"
                )
        super().load_state_dict(state_dict)
        self.forms = self._plan(*self._plan_arguments)
        self.num_consolidated = state_dict.get("num_consolidated", 0)

    def _update_layer(self, group: Group, watched: WatchedLayer, weight: Tensor, grad: Tensor, keys: Tensor) -> Tensor:
        state = self._memory(watched)
        if group["momentum"]:
            past = state.setdefault("momentum", torch.zeros_like(grad))
            grad = past.mul_(group["momentum"]).add_(grad)
        self._remember(group, watched, keys)
        ridge = float(group["ridge"])
        if is_embedding(watched.layer.module):
            step = grad / (ridge + state["consolidated"].view(1, -1, 1))
        else:
            step = self.forms[id(watched.layer.weight)].protect(state, grad)
        return weight - float(group["lr"]) * (ridge if self.mode == "task" else 1.0) * step

    def _remember(self, group: Group, watched: WatchedLayer, keys: Tensor, *, thin: bool = True) -> None:
        """Task mode: keep for the consolidation. Step mode: write P now."""
        state, one_hot = self._memory(watched), is_embedding(watched.layer.module)
        num_rows = int(keys.sum()) if one_hot else keys.shape[1]
        if thin and not one_hot and group["max_rows"] is not None:
            keys = thin_rows(keys, int(group["max_rows"]), turn=state["count"] // max(num_rows, 1))
        state["count"] += num_rows
        if self.mode == "task":
            if one_hot:
                state["recent"] += keys
            else:
                self.forms[id(watched.layer.weight)].gather(state, keys)
            return
        scale = 1 / max(num_rows, 1) if group["reduction"] == "mean" else 1.0
        forgetting = float(group["forgetting"])
        if one_hot:
            state["consolidated"].mul_(forgetting).add_(keys, alpha=scale)
        else:
            form = self.forms[id(watched.layer.weight)]
            form.write(state, scale**0.5 * keys, forgetting=forgetting)

    def _update_rest(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        if self.num_consolidated == 0 or not self.freeze_rest:
            super()._update_rest(group, params, grads)

    def _reread(self, batches: Iterable[Any]) -> None:
        """Count only the inputs that the module, in evaluation mode, reads while it answers `batches`."""
        for watched in self.inputs:
            state = self._memory(watched)
            state["recent"].zero_()
            state["count"] = 0
        was_training = self.module.training
        self.module.eval()
        self.inputs.clear()
        self.inputs.record(True)
        try:
            for batch in batches:
                self.module(batch)
                for watched in self.inputs:
                    keys = watched.keys()
                    if keys is not None:
                        self._remember(self._group(watched), watched, keys, thin=False)
                self.inputs.clear()
        finally:
            self.inputs.record(False)
            self.inputs.clear()
            self.module.train(was_training)

    def _plan(self, form: Form, limit: float) -> dict[int, BlockInputs | LowRankInputs]:
        """The form of every layer but embeddings; "auto" cuts where most numbers per weight are kept."""
        layers = {id(w.layer.weight): w.layer for w in self.inputs if not is_embedding(w.layer.module)}
        ridge = {key: float(self._group(self.inputs.layers[key])["ridge"]) for key in layers}
        if form == "low_rank":
            ranks = {key: int(self._group(self.inputs.layers[key])["rank"]) for key in layers}
            return {key: LowRankInputs(ridge=ridge[key], rank=rank) for key, rank in ranks.items()}
        blocks = dict.fromkeys(layers, 1)
        weights = sum(layer.weight.numel() for layer in layers.values())

        def kept(key: int) -> int:
            return BlockInputs(ridge=ridge[key], blocks=blocks[key]).numbers(layers[key].groups, layers[key].key_width)

        while form == "auto" and sum(map(kept, layers)) > limit * weights:
            widest = max(layers, key=lambda key: kept(key) / layers[key].weight.numel())
            if blocks[widest] >= layers[widest].key_width:
                break
            blocks[widest] += 1
        return {key: BlockInputs(ridge=ridge[key], blocks=count) for key, count in blocks.items()}

    def _group(self, watched: WatchedLayer) -> Group:
        weight = watched.layer.weight
        return next(group for group in self.param_groups if any(p is weight for p in group["params"]))

    def _memory(self, watched: WatchedLayer) -> dict[str, Any]:
        """The state of a layer's weight."""
        state = self.state[watched.layer.weight]
        if "consolidated" not in state:
            state.update(self._fresh(watched))
        return state

    def _fresh(self, watched: WatchedLayer) -> dict[str, Any]:
        layer = watched.layer
        like = layer.weight.to(torch.promote_types(layer.weight.dtype, torch.float32))
        if is_embedding(layer.module):
            counts = torch.zeros(layer.key_width, dtype=like.dtype, device=like.device)
            return {"consolidated": counts, "recent": counts.clone(), "count": 0}
        start = self.forms[id(layer.weight)].start
        return {**start(layer.groups, layer.key_width, like=like), "count": 0}


ROW = OptimizerRow(
    name="recursive_dgd",
    optimizer=RecursiveDGD,
    summary="gradient steps through the inverse covariance of past inputs: earlier tasks keep their answers",
    update="P <- (P^-1 + X^T X)^-1; W <- W - lr G P",
    equations="NL 45, 54-57, 59-60",
    needs="module",
)
