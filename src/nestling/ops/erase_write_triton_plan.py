"""Sizes and settings of the Triton kernels of the erase-write recurrence, fixed by shapes and types alone.

No timing decides anything here, so that every run gives the same bits. The settings keep every kernel under 99 KiB of
shared memory on sm_80 and sm_90 (compiled, not guessed: `benchmarks/gpu_kernels.py --compile-only`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


def make_plan(query: Tensor, value: Tensor, chunk_size: int) -> Plan:
    """The plan for query [B, T, H, K] and value [B, T, H, V] of one type.

    float32 products are done in three TF32 passes (float32 accuracy) unless torch.set_float32_matmul_precision allows
    TF32; float16 operands are widened to TF32, which has the same precision and does not overflow.
    """
    B, T, H, K = query.shape
    exact = query.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    operand = torch.bfloat16 if query.dtype == torch.bfloat16 else torch.float32
    largest_chunk = 64 if operand == torch.bfloat16 else 32
    chunk = min(largest_chunk, power_of_two(chunk_size))
    return Plan(B, T, H, K, value.shape[-1], chunk, operand, "tf32x3" if exact else "tf32")


def power_of_two(size: int) -> int:
    """The next power of two that the tensor cores can take as an axis: at least 16."""
    return max(16, 1 << (size - 1).bit_length())


class Plan(NamedTuple):
    """Sizes and settings of one call; `operand` is the type that products and stored intermediates have."""

    B: int
    T: int
    H: int
    K: int
    V: int
    C: int
    operand: torch.dtype
    precision: str

    @property
    def num_chunks(self) -> int:
        """Chunks per sequence, the last one perhaps partial."""
        return -(-self.T // self.C)

    @property
    def largest_block(self) -> int:
        """Columns of a tile at most: float32 tiles of 64 columns spill registers."""
        return 32 if self.operand == torch.float32 else 64

    @property
    def key_block(self) -> int:
        """Key columns of one tile."""
        return min(self.largest_block, power_of_two(self.K))

    @property
    def value_block(self) -> int:
        """Value columns of one tile."""
        return min(self.largest_block, power_of_two(self.V))

    @property
    def num_key_blocks(self) -> int:
        """Tiles that cover K."""
        return -(-self.K // self.key_block)

    @property
    def num_value_blocks(self) -> int:
        """Tiles that cover V."""
        return -(-self.V // self.value_block)

    @property
    def state_block(self) -> int:
        """Value columns of one sequential program: narrow, so that more programs run side by side."""
        return min(16 if self.operand == torch.float32 else 32, power_of_two(self.V))

    @property
    def chunk_grid(self) -> tuple[int, int]:
        """Programs of the kernels that are parallel over chunks."""
        return self.num_chunks, self.B * self.H

    @property
    def state_grid(self) -> tuple[int, int]:
        """Programs of the sequential kernels."""
        return -(-self.V // self.state_block), self.B * self.H

    @property
    def tiles(self) -> dict[str, Any]:
        """Compile-time sizes of the kernels that are parallel over chunks."""
        return {**self._widths, "BK": self.key_block, "BV": self.value_block, "num_warps": 4, "num_stages": 2}

    @property
    def gradient_tiles(self) -> dict[str, Any]:
        """The same for the two kernels that hold the most tiles at once: more threads share the registers."""
        return {**self.tiles, "num_warps": 8}

    @property
    def state_tiles(self) -> dict[str, Any]:
        """Compile-time sizes of the two sequential kernels, which hold all key rows at once."""
        warps = 8 if self.K > 128 or self.operand == torch.float32 else 4
        return {
            **self._widths,
            "BK": power_of_two(self.K),
            "BV": self.state_block,
            "num_warps": warps,
            "num_stages": 1,
        }

    @property
    def solve_tiles(self) -> dict[str, Any]:
        """Compile-time sizes of the kernel that inverts."""
        levels = self.C.bit_length() - 1
        tiles = {name: size for name, size in self.tiles.items() if name not in ("V", "BV")}
        return {**tiles, "LEVELS": levels, "SOLVE_PRECISION": self.precision}

    @property
    def _widths(self) -> dict[str, Any]:
        return {"H": self.H, "K": self.K, "V": self.V, "C": self.C, "PRECISION": self.precision}
