"""Which calls the Triton kernels can take: the tensors' device, type and widths, and whether Triton is installed."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch
from torch import Tensor

LARGEST_WIDTH = 256
KERNEL_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@functools.cache
def triton_installed() -> bool:
    """Whether the optional package `triton` can be imported."""
    return importlib.util.find_spec("triton") is not None


def triton_interpreted() -> bool:
    """Whether Triton was told to run its kernels on the CPU (TRITON_INTERPRET=1 before Triton's first import)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def runs_on_triton(query: Tensor, key: Tensor, value: Tensor, state: Tensor) -> bool:
    """Whether the kernels take this call: CUDA, half or float32 types, float32 state, widths 1..256.

    The rest (CPU, float64, wider memories) belongs to the torch twin, which computes the same function.
    """
    return (
        query.is_cuda
        and torch.version.hip is None
        and all(tensor.dtype in KERNEL_DTYPES for tensor in (query, key, value))
        and state.dtype == torch.float32
        and 1 <= query.shape[-1] <= LARGEST_WIDTH
        and 1 <= value.shape[-1] <= LARGEST_WIDTH
        and triton_installed()
    )
