"""Random inputs for rules, in float64 and from a seed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

Draw = Callable[..., SimpleNamespace]


@pytest.fixture(scope="session")
def draw() -> Draw:
    def make(
        seed: int = 0,
        *,
        batch: int = 2,
        heads: int = 3,
        value_width: int = 4,
        key_width: int = 5,
        dtype: torch.dtype = torch.float64,
    ) -> SimpleNamespace:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(batch, heads, *shape, generator=generator, dtype=dtype)

        def uniform(low: float, high: float) -> torch.Tensor:
            return low + (high - low) * torch.rand(batch, heads, generator=generator, dtype=dtype)

        return SimpleNamespace(
            state=normal(value_width, key_width),
            surprise=normal(value_width, key_width),
            key=normal(key_width),
            value=normal(value_width),
            query=normal(key_width),
            keys=normal(4, key_width),
            values=normal(4, value_width),
            gamma=normal(4).abs(),
            eta=uniform(0.1, 1.5),
            alpha=uniform(0.5, 1.0),
            momentum=uniform(0.1, 0.9),
            weights=(normal(7, key_width) / 2, normal(6, 7) / 2, normal(key_width, 6) / 2),
            target=normal(key_width),
        )

    return make
