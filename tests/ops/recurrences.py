"""Random inputs and tolerances for the recurrences of ops."""

import torch
from torch import Tensor
from torch.nn import functional as F

# Largest difference, relative to the largest entry of the reference, at lengths up to 200 tokens.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-4}
CHUNK_SIZE = 8
LENGTHS = (1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 2 * CHUNK_SIZE + 7)
NAMES = ("query", "key", "value", "erase", "write", "log_alpha", "state")


def random_inputs(
    length: int,
    *,
    dtype: torch.dtype = torch.float64,
    erase: bool = True,
    seed: int = 0,
    batch: int = 2,
    heads: int = 3,
) -> list[Tensor | None]:
    """query, key, value, erase, write, log_alpha, state that require gradients; keys of length 1."""
    draw = torch.Generator().manual_seed(seed)
    key_width, value_width = 5, 4

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=draw, dtype=torch.float64)

    tokens = (batch, length, heads)
    inputs = [
        normal(*tokens, key_width),
        F.normalize(normal(*tokens, key_width), dim=-1),
        normal(*tokens, value_width),
        uniform(*tokens) if erase else None,
        uniform(*tokens),
        -0.3 * uniform(*tokens),
        normal(batch, heads, value_width, key_width),
    ]
    return [None if tensor is None else tensor.to(dtype).requires_grad_() for tensor in inputs]


def assert_near(got: Tensor, expected: Tensor, name: str = "") -> None:
    scale = max(1.0, float(expected.detach().abs().max())) if expected.numel() else 1.0
    gap = float((got - expected).detach().abs().max()) if expected.numel() else 0.0
    assert gap <= TOLERANCE[expected.dtype] * scale, f"{name}: {gap / scale:.2e}"
