"""Our rules beside the pure-torch references of flash-linear-attention."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from foreign_comparison import BATCH, FLOAT32_TOLERANCE, Comparison, Run, Tensors
from nestling.rules import delta, gated_delta, momentum, recursive
from nestling.rules.matrix import Gradient

HEADS, KEY, VALUE = 3, 8, 5


def load(folder: Path, name: str) -> ModuleType:
    """One reference file of flash-linear-attention, without importing its package."""
    path = folder / "fla" / "ops" / name / "naive.py"
    specification = importlib.util.spec_from_file_location(f"fla_naive_{name}", path)
    if specification is None or specification.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def draw(time: int, *, value_width: int = VALUE) -> Tensors:
    """Inputs [B, T, H, ...] with unit keys, eta in (0, 1) and alpha in (0.6, 1)."""
    generator = torch.Generator().manual_seed(time)
    shape = (BATCH, time, HEADS)
    return {
        "query": torch.randn(*shape, KEY, generator=generator),
        "key": torch.nn.functional.normalize(torch.randn(*shape, KEY, generator=generator), dim=-1),
        "value": torch.randn(*shape, value_width, generator=generator),
        "eta": torch.rand(*shape, generator=generator),
        "alpha": 0.6 + 0.4 * torch.rand(*shape, generator=generator),
        "momentum": 0.9 * torch.rand(*shape, generator=generator) + 0.05,
    }


def heads_first(x: Tensors) -> Tensors:
    return {name: part.transpose(1, 2) for name, part in x.items()}


def over_time(x: Tensors, state: object, write: Callable, read: Callable) -> tuple[Tensor, object]:
    """Write, then read with q / sqrt(K), token after token."""
    answers = []
    for t in range(x["key"].shape[1]):
        state = write(state, {name: part[:, t] for name, part in x.items()})
        answers.append(read(state, x["query"][:, t] / KEY**0.5))
    return torch.stack(answers, dim=1), state


def empty(value_width: int = VALUE, key_width: int = KEY) -> Tensor:
    return torch.zeros(BATCH, HEADS, value_width, key_width)


def ours_delta(x: Tensors) -> tuple[Tensor, ...]:
    def write(state: Tensor, now: Tensors) -> Tensor:
        return delta.step(state, now["key"], now["value"], eta=now["eta"], alpha=torch.ones_like(now["eta"]))

    return over_time(x, empty(), write, delta.read)  # type: ignore[return-value]


def ours_gated(x: Tensors) -> tuple[Tensor, ...]:
    def write(state: Tensor, now: Tensors) -> Tensor:
        return gated_delta.step(state, now["key"], now["value"], eta=now["eta"], alpha=now["alpha"])

    return over_time(x, empty(), write, delta.read)  # type: ignore[return-value]


def ours_momentum(x: Tensors) -> tuple[Tensor, ...]:
    def write(state: momentum.Accumulated, now: Tensors) -> momentum.Accumulated:
        rates = {name: now[name] for name in ("eta", "alpha", "momentum")}
        return momentum.step(state, now["key"], now["value"], **rates)

    start = momentum.Accumulated(memory=empty(), surprise=empty())
    answers, state = over_time(x, start, write, momentum.read)
    return answers, state.memory, state.surprise  # type: ignore[attr-defined]


RIDGE = 0.1


def ours_least_squares(x: Tensors) -> tuple[Tensor, ...]:
    def write(state: recursive.Recursive, now: Tensors) -> recursive.Recursive:
        return recursive.write(state, now["key"], now["value"], eta=now["eta"], alpha=torch.ones_like(now["eta"]))

    def read(state: recursive.Recursive, query: Tensor) -> Tensor:
        return recursive.read(state, query * KEY**0.5)

    answers, _ = over_time(x, recursive.initial(BATCH, HEADS, KEY, KEY, ridge=RIDGE), write, read)
    return (answers,)


def ttt_gradient(weight: Tensor, bias: Tensor, epsilon: float) -> Gradient:
    """Autograd's gradient of TTT-Linear's loss 1/2 |w LayerNorm(M (k, 1)) + b - (v - k)|^2 by M."""

    def gradient(state: Tensor, key: Tensor, value: Tensor, /) -> Tensor:
        with torch.enable_grad():
            leaf = state.detach().clone().requires_grad_()
            answer = torch.einsum("bhvk,bhk->bhv", leaf, key)
            normal = torch.nn.functional.layer_norm(answer, (KEY,), eps=epsilon)
            error = weight * normal + bias - (value - key[..., :-1])
            return torch.autograd.grad(0.5 * error.square().sum(), leaf)[0]

    return gradient


def ttt_inputs(time: int) -> Tensors:
    return {**draw(time, value_width=KEY), "weight": torch.linspace(0.5, 1.5, HEADS * KEY).reshape(HEADS, KEY)}


def ours_ttt(x: Tensors) -> tuple[Tensor, ...]:
    """TTT-Linear as our momentum step without momentum; its bias is the key's constant entry 1."""
    weight, bias, epsilon = x["weight"], 0.1 * x["weight"], 1e-6
    gradient = ttt_gradient(weight, bias, epsilon)
    state = momentum.Accumulated(memory=empty(KEY, KEY + 1), surprise=empty(KEY, KEY + 1))
    answers = []
    for t in range(x["key"].shape[1]):
        key, query = (torch.cat([x[n][:, t] * s, torch.ones(BATCH, HEADS, 1)], -1) for n, s in QUERY_SCALES)
        one, zero = torch.ones(BATCH, HEADS), torch.zeros(BATCH, HEADS)
        rates = {"eta": x["eta"][:, t], "alpha": one, "momentum": zero}
        state = momentum.step(state, key, x["value"][:, t], gradient=gradient, **rates)
        answer = momentum.read(state, query)
        normal = torch.nn.functional.layer_norm(answer, (KEY,), eps=epsilon)
        answers.append(answer + weight * normal + bias)
    return torch.stack(answers, dim=1), state.memory


QUERY_SCALES = (("key", 1.0), ("query", KEY**-0.5))


def fla_comparisons(folder: Path) -> list[Comparison]:
    """Every pure-torch reference of flash-linear-attention that computes one of our rules."""
    delta_file, gated_file = load(folder, "delta_rule"), load(folder, "gated_delta_rule")
    momentum_file, mesa_file, ttt_file = (load(folder, n) for n in ("momentum_delta_rule", "mesa_net", "ttt"))

    def recurrent(x: Tensors) -> tuple[Tensor, ...]:
        y = heads_first(x)
        answers, state = delta_file.delta_rule_recurrence(y["query"], y["key"], y["value"], y["eta"])
        return answers.transpose(1, 2), state.mT

    def chunked(x: Tensors) -> tuple[Tensor, ...]:
        y = heads_first(x)
        size = min(16, x["key"].shape[1])
        answers, state = delta_file.delta_rule_chunkwise(y["query"], y["key"], y["value"], y["eta"], chunk_size=size)
        return answers.transpose(1, 2), state.mT

    def gated(function: Callable, **options: int) -> Run:
        def run(x: Tensors) -> tuple[Tensor, ...]:
            rates = {"beta": x["eta"], "g": x["alpha"].log(), "output_final_state": True, **options}
            answers, state = function(x["query"], x["key"], x["value"], **rates)
            return answers, state.mT

        return run

    def momentum_reference(x: Tensors) -> tuple[Tensor, ...]:
        logs = {"log_alpha": x["alpha"].log(), "log_mu": x["momentum"].log()}
        rates = {"beta": torch.ones_like(x["eta"]), "eta": x["eta"], "output_final_state": True}
        answers, state = momentum_file.recurrent_momentum_delta_rule_ref(
            x["query"], x["key"], x["value"], p=x["key"], **logs, **rates
        )
        return answers, state[0].mT, -state[1].mT

    def mesa(x: Tensors) -> tuple[Tensor, ...]:
        ridge = torch.full((HEADS, KEY), RIDGE)
        answers, _, _ = mesa_file.naive_mesa_net_exact(
            x["query"], x["key"], x["value"], torch.zeros_like(x["eta"]), ridge, x["eta"]
        )
        return (answers,)

    def ttt(x: Tensors) -> tuple[Tensor, ...]:
        answers, state, bias = ttt_file.chunk_ttt_linear_ref(
            x["query"],
            x["key"],
            x["value"],
            x["weight"],
            0.1 * x["weight"],
            x["eta"].unsqueeze(-1),
            mini_batch_size=1,
            output_final_state=True,
        )
        return answers, torch.cat([state.mT, bias.mT], dim=-1)

    def row(rule: str, theirs: str, ours_run: Run, theirs_run: Run, inputs: Callable = draw) -> Comparison:
        return Comparison(
            rule=rule,
            theirs=f"fla {theirs}",
            inputs=inputs,
            ours_run=ours_run,
            theirs_run=theirs_run,
            tolerance=FLOAT32_TOLERANCE,
            compare_gradients=inputs is not ttt_inputs,
        )

    recurrent_gated, chunk_gated = gated_file.naive_recurrent_gated_delta_rule, gated_file.naive_chunk_gated_delta_rule
    square = lambda time: draw(time, value_width=KEY)  # noqa: E731
    return [
        row("delta", "delta_rule_recurrence", ours_delta, recurrent),
        row("delta", "delta_rule_chunkwise", ours_delta, chunked),
        row("gated_delta", "naive_recurrent_gated_delta_rule", ours_gated, gated(recurrent_gated)),
        row("gated_delta", "naive_chunk_gated_delta_rule", ours_gated, gated(chunk_gated, chunk_size=16)),
        row("momentum", "recurrent_momentum_delta_rule_ref", ours_momentum, momentum_reference),
        row("least_squares", "naive_mesa_net_exact (no forgetting)", ours_least_squares, mesa, square),
        row("momentum 0 on TTT's loss", "chunk_ttt_linear_ref (mini batch 1)", ours_ttt, ttt, ttt_inputs),
    ]
