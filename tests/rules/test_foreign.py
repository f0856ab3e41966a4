"""Checks against code that is not ours and is installed with the project: transformers' gated delta rule.

References from packages that are not requirements are compared in `benchmarks/parity_foreign.py`; its recorded outcome
is `docs/results/parity_foreign.md`. torch's attention is the reference in `test_rule_limits.py`.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nestling.rules import delta, gated_delta

qwen = pytest.importorskip(
    "transformers.models.qwen3_next.modeling_qwen3_next", reason="transformers (the text extra) is not installed"
)

# transformers computes in float32 whatever it is given
TOLERANCE = 2e-6


def inputs(time: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    key = torch.randn(2, time, 3, 8, generator=generator)
    return {
        "query": torch.randn(2, time, 3, 8, generator=generator),
        "key": torch.nn.functional.normalize(key, dim=-1),
        "value": torch.randn(2, time, 3, 5, generator=generator),
        "eta": torch.rand(2, time, 3, generator=generator),
        "alpha": 0.6 + 0.4 * torch.rand(2, time, 3, generator=generator),
        "state": torch.randn(2, 3, 5, 8, generator=generator),
    }


def run_ours(x: dict[str, Tensor], *, plain: bool) -> tuple[Tensor, Tensor]:
    """Write, then read, token after token. transformers divides every query by sqrt(K)."""
    step = delta.step if plain else gated_delta.step
    state, answers = x["state"], []
    for t in range(x["key"].shape[1]):
        alpha = torch.ones_like(x["alpha"][:, t]) if plain else x["alpha"][:, t]
        state = step(state, x["key"][:, t], x["value"][:, t], eta=x["eta"][:, t], alpha=alpha)
        answers.append(delta.read(state, x["query"][:, t] / 8**0.5))
    return torch.stack(answers, dim=1), state


def run_theirs(function: object, x: dict[str, Tensor], *, plain: bool, **options: int) -> tuple[Tensor, Tensor]:
    decay = torch.zeros_like(x["alpha"]) if plain else x["alpha"].log()
    answers, state = function(  # type: ignore[operator]
        x["query"],
        x["key"],
        x["value"],
        g=decay,
        beta=x["eta"],
        initial_state=x["state"].mT.clone(),
        output_final_state=True,
        **options,
    )
    return answers, state.mT


@pytest.mark.parametrize("plain", [True, False], ids=["delta", "gated_delta"])
@pytest.mark.parametrize("time", [1, 15, 16, 17, 39])
@pytest.mark.parametrize("form", ["recurrent", "chunk"])
def test_transformers_gated_delta_rule(form: str, time: int, plain: bool) -> None:
    x = inputs(time)
    if form == "recurrent":
        theirs = run_theirs(qwen.torch_recurrent_gated_delta_rule, x, plain=plain)
    else:
        theirs = run_theirs(qwen.torch_chunk_gated_delta_rule, x, plain=plain, chunk_size=16)
    for ours, other in zip(run_ours(x, plain=plain), theirs):
        assert (ours - other).abs().max() < TOLERANCE * (1 + other.abs().max())


def test_transformers_gradients() -> None:
    """The same scalar of the answers has the same gradient by every input."""
    names = ("query", "key", "value", "eta", "alpha", "state")
    gradients = []
    for run in ("ours", "theirs"):
        x = {name: part.clone().requires_grad_() for name, part in inputs(19).items()}
        if run == "ours":
            answers, state = run_ours(x, plain=False)
        else:
            answers, state = run_theirs(qwen.torch_chunk_gated_delta_rule, x, plain=False, chunk_size=16)
        weights = torch.linspace(-1, 1, answers.numel()).reshape(answers.shape)
        total = (weights * answers).sum() + state.square().sum()
        gradients.append(torch.autograd.grad(total, [x[name] for name in names]))
    for name, ours, theirs in zip(names, *gradients):
        assert (ours - theirs).abs().max() < 1e-5 * (1 + theirs.abs().max()), name
