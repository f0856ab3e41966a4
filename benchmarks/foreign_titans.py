"""Our momentum rules beside the recurrence of titans-unofficial."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from foreign_comparison import BATCH, FLOAT64_TOLERANCE, Comparison, Tensors
from nestling.rules import deep, lp, momentum
from nestling.rules.losses import lp_loss

WIDTH = 6


def titans_module(depth: int) -> torch.nn.Module:
    memory = importlib.import_module("titans.utils.memory")
    torch.manual_seed(0)
    return memory.NeuralMemoryModule(WIDTH, memory_depth=depth, max_grad_norm=None).double()


def titans_inputs(time: int) -> Tensors:
    generator = torch.Generator().manual_seed(time)
    return {"x": torch.randn(BATCH, time, WIDTH, generator=generator, dtype=torch.float64)}


def titans_gates(module: torch.nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Key, value, eta, alpha, momentum of one token in our letters, with a head axis."""
    shift = importlib.import_module("titans.utils.memory").FORGET_GATE_SHIFT
    key = torch.nn.functional.normalize(module.W_K(x), dim=-1)
    eta, decay = torch.sigmoid(module.theta_proj(x)), torch.sigmoid(module.eta_proj(x))
    alpha = 1 - torch.sigmoid(module.alpha_proj(x) - shift)
    return key[:, None], module.W_V(x)[:, None], eta, alpha, decay


def titans_linear() -> Comparison:
    """One linear layer with bias: our momentum rule on |M (k, 1) - v|^2."""
    module = titans_module(1)

    def ours(x: Tensors) -> tuple[Tensor, ...]:
        layer = module.memory_layers[0]
        start = torch.cat([layer.weight, layer.bias[:, None]], -1).expand(BATCH, 1, WIDTH, WIDTH + 1)
        state = momentum.Accumulated(memory=start, surprise=torch.zeros_like(start))
        for t in range(x["x"].shape[1]):
            key, value, eta, alpha, decay = titans_gates(module, x["x"][:, t])
            extended = torch.cat([key, torch.ones_like(key[..., :1])], -1)
            rates = {"eta": eta, "alpha": alpha, "momentum": decay}
            state = momentum.step(state, extended, value, gradient=lp.with_power(2.0), **rates)
        return state.memory, state.surprise

    def theirs(x: Tensors) -> tuple[Tensor, ...]:
        parts = module.update(x["x"], module.init_state(BATCH))
        return tuple(torch.cat([weight, bias[..., None]], -1)[:, None] for weight, bias in parts)

    name = "titans-unofficial, memory depth 1"
    return Comparison(
        rule="momentum on L_2^2",
        theirs=name,
        inputs=titans_inputs,
        ours_run=ours,
        theirs_run=theirs,
        tolerance=FLOAT64_TOLERANCE,
    )


def titans_deep(depth: int) -> Comparison:
    """Layers without bias (theirs is set to 0 after every token); our residual is moved into the target."""
    module = titans_module(depth)

    def without_bias(parts: list[Tensor]) -> list[Tensor]:
        return [part if part.ndim == 3 else torch.zeros_like(part) for part in parts]

    def ours(x: Tensors) -> tuple[Tensor, ...]:
        start = tuple(layer.weight.expand(BATCH, 1, WIDTH, WIDTH) for layer in module.memory_layers)
        state = deep.Accumulated(memory=start, surprise=tuple(torch.zeros_like(weight) for weight in start))
        for t in range(x["x"].shape[1]):
            key, value, eta, alpha, decay = titans_gates(module, x["x"][:, t])
            rates = {"eta": eta, "alpha": alpha, "momentum": decay}
            state = deep.step_momentum(state, key, value + key, loss=lp_loss(2.0), activation="relu", **rates)
        return (*state.memory, *state.surprise)

    def theirs(x: Tensors) -> tuple[Tensor, ...]:
        state = tuple(without_bias(parts) for parts in module.init_state(BATCH))
        for t in range(x["x"].shape[1]):
            state = tuple(without_bias(parts) for parts in module._update_step(x["x"][:, t], state))
        return tuple(part[:, None] for parts in state for part in parts if part.ndim == 3)

    name = f"titans-unofficial, memory depth {depth}, no bias"
    return Comparison(
        rule="deep_momentum on L_2^2",
        theirs=name,
        inputs=titans_inputs,
        ours_run=ours,
        theirs_run=theirs,
        tolerance=FLOAT64_TOLERANCE,
    )
