"""The optimizer of a training, its groups, and its learning rate at every step."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from nestling.errors import InputError
from nestling.optim import OPTIMIZERS, NestedOptimizer
from nestling.optim.name_patterns import groups_by_name
from nestling.recipes.language.recipe import Recipe
from nestling.recipes.levels.load import parse_optimizer
from nestling.schedule import Level

__all__ = ["build_optimizer", "learning_rate", "optimizer_for", "set_learning_rate", "watches_layers"]

_BETAS = (0.9, 0.95)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine down to `min_lr_share` of the peak.

    lr_t = lr (t + 1) / W  for t < W,   else  lr (m + (1 - m) (1 + cos(pi (t - W) / (N - W))) / 2)

    Source: SGDR (arXiv 1608.03983) eq. 5 without restarts.

    Args:
        recipe: lr, steps N, warmup_share (W = share of N, rounded), min_lr_share m.
        step: t, counted from 0.
    """
    warmup = round(recipe.warmup_share * recipe.steps)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, recipe.steps - warmup)
    return recipe.lr * (recipe.min_lr_share + (1 - recipe.min_lr_share) * (1 + math.cos(math.pi * done)) / 2)


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """The same learning rate in every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def watches_layers(recipe: Recipe) -> bool:
    """Whether the optimizer needs the inputs of layers, which only this process has seen."""
    name = recipe.optimizer.partition(":")[0]
    return name in OPTIMIZERS and OPTIMIZERS[name].needs == "module"


def build_optimizer(recipe: Recipe, module: nn.Module) -> Optimizer:
    """The optimizer of a recipe on the trainable parameters of a module; see `optimizer_for`."""
    return optimizer_for(module, recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay, levels=recipe.levels)


def optimizer_for(
    module: nn.Module, text: str, *, lr: float, weight_decay: float, levels: Mapping[str, int] | None = None
) -> Optimizer:
    """An optimizer on the trainable parameters of a module.

    Weights of linear maps and embeddings get the weight decay, everything else (norms, rates, initial states of
    memories) none. AdamW's betas are 0.9 and 0.95, as is usual for language models. Of optimizers that treat matrices
    as such (Muon, M3) linear maps are matrices, and the initial memories of heads stacks of them; embeddings, head,
    convolutions and rates take their step for vectors.

    Args:
        module: anything with parameters.
        text: NAME or NAME:option=value,...
        lr, weight_decay: unless the options say otherwise.
        levels: pattern of parameter names to update period in steps; empty: all every step.

    Raises:
        UnknownNameError, InputError: naming what is wrong.
    """
    made, options = parse_optimizer(text)
    known = inspect.signature(made).parameters
    common: dict[str, Any] = {"lr": lr}
    if text.partition(":")[0] == "adamw":
        common["betas"] = _BETAS
    if "module" in known:
        common["module"] = module
    if "weight_decay" in known:
        common["weight_decay"] = weight_decay
    common.update(options)
    if levels:
        return _by_level(levels, module, made, common)
    decayed, others = _by_decay(module)
    if "weight_decay" not in known:
        return made([*decayed, *others], **common)
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    if "elementwise" in known:
        ends, stacks = _embeddings(module), _stacks(module)
        groups = [
            {"params": [pair for pair in decayed if id(pair[1]) not in ends]},
            {"params": [pair for pair in decayed if id(pair[1]) in ends], "elementwise": True},
            {"params": [pair for pair in others if id(pair[1]) in stacks], "stacked": True},
            {"params": [pair for pair in others if id(pair[1]) not in stacks], "elementwise": True},
        ]
        groups[2]["weight_decay"] = groups[3]["weight_decay"] = 0.0
    return made([group for group in groups if group["params"]], **common)


def _by_decay(module: nn.Module) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    """(name, parameter) of weights that decay, and of the others."""
    heavy = {id(part.weight) for part in module.modules() if isinstance(part, nn.Linear | nn.Embedding)}
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    return [pair for pair in named if id(pair[1]) in heavy], [pair for pair in named if id(pair[1]) not in heavy]


def _embeddings(module: nn.Module) -> set[int]:
    """Weights of embeddings and of the head of a model of transformers."""
    parts: list[Any] = [part for part in module.modules() if isinstance(part, nn.Embedding)]
    parts.append(getattr(module, "get_output_embeddings", lambda: None)())
    return {id(part.weight) for part in parts if part is not None}


def _stacks(module: nn.Module) -> set[int]:
    """Initial memories with a matrix per head, [H, out, in]; not those of the rates, which are vectors."""
    found = [getattr(part, "initial", None) for part in module.modules()]
    memories = [
        weight
        for initial in found
        if isinstance(initial, nn.ParameterDict | nn.ParameterList)
        for name, weight in (initial.items() if isinstance(initial, nn.ParameterDict) else enumerate(initial))
        if name != "rates"
    ]
    return {id(weight) for weight in memories if weight.ndim == 3}


def _by_level(levels: Mapping[str, int], module: nn.Module, made: Any, options: dict[str, Any]) -> Optimizer:
    """`NestedOptimizer` with these patterns; what they leave changes at every step."""
    groups: dict[str, dict[str, Any]] = {
        pattern: {
            "level": Level(name=pattern, update_period=period, accumulation="mean"),
            "optimizer": made,
            **options,
        }
        for pattern, period in levels.items()
    }
    if "*" not in groups:
        groups["*"] = {"level": Level(name="*"), "optimizer": made, **options}
    try:
        return NestedOptimizer(groups_by_name(module, groups))
    except InputError as error:
        raise InputError(f"levels {dict(levels)}: {error}") from error
