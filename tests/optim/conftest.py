"""A small problem that every optimizer can learn, and every row of the table built on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nestling.optim import OPTIMIZERS

LRS = {
    "adamw": 0.02,
    "momentum": 0.02,
    "delta_momentum": 0.05,
    "deep_momentum": 0.02,
    "feature_momentum": 0.02,
    "muon": 0.05,
    "m3": 0.05,
    "dgd": 0.1,
    "recursive_dgd": 0.1,
}
OPTIONS: dict[str, dict[str, Any]] = {"muon": {"weight_decay": 0.0}, "m3": {"weight_decay": 0.0}}


class Problem:
    """A two-layer network and samples of a smooth function."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32, hidden: int = 16) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = nn.Sequential(nn.Linear(5, hidden), nn.Tanh(), nn.LayerNorm(hidden), nn.Linear(hidden, 3))
        self.model = self.model.to(dtype)
        self.x = torch.randn(48, 5, generator=generator, dtype=dtype)
        self.y = torch.stack([self.x[:, 0] * self.x[:, 1], self.x.sum(1).sin(), self.x[:, 2].abs()], dim=1)

    def loss(self, rows: slice = slice(None)) -> Tensor:
        return (self.model(self.x[rows]) - self.y[rows]).square().mean()

    def build(self, name: str, params: Any = None, **options: Any) -> torch.optim.Optimizer:
        chosen = {"lr": LRS.get(name, 0.02), **OPTIONS.get(name, {}), **options}
        params = self.model.named_parameters() if params is None else params
        return OPTIMIZERS[name].build(params, module=self.model, **chosen)

    def train(self, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for step in range(steps):
            optimizer.zero_grad()
            first = 12 * (step % 4)
            self.loss(slice(first, first + 12)).backward()
            optimizer.step()

    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters()]).clone()


@pytest.fixture
def problem() -> Callable[..., Problem]:
    return Problem
