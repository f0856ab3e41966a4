"""What optimizers of matrices do with parameters that are none: AdamW's step, and how the two kinds are told apart."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import torch
from torch import Tensor

from nestling.optim.base import Group, MemoryOptimizer

Pairs = tuple[list[Tensor], list[Tensor]]


def split_matrices(group: Group, params: list[Tensor], grads: list[Tensor]) -> tuple[Pairs, Pairs]:
    """(matrices, the rest): parameters of two axes and more are matrices, unless the group says `elementwise`."""
    matrices: Pairs = ([], [])
    rest: Pairs = ([], [])
    for p, grad in zip(params, grads):
        chosen = matrices if p.ndim >= 2 and not group["elementwise"] else rest
        chosen[0].append(p)
        chosen[1].append(grad)
    return matrices, rest


def adam_step(optimizer: MemoryOptimizer, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
    """Adam without weight decay, at the rate lr * vector_scale.

    m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2;   W <- W - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)

    Source: NL eq. 101-105; Kingma and Ba 2015. Reads vector_betas, vector_eps and vector_scale of the group.
    """
    if not params:
        return
    first, second = group["vector_betas"]
    memory, squares = optimizer._buffers(params, "memory"), optimizer._buffers(params, "square")
    steps = optimizer._count_steps(params)
    torch._foreach_lerp_(memory, grads, 1 - first)
    torch._foreach_mul_(squares, second)
    torch._foreach_addcmul_(squares, grads, grads, value=1 - second)
    scale = torch._foreach_sqrt(squares)
    torch._foreach_div_(scale, [(1 - second**step) ** 0.5 for step in steps])
    torch._foreach_add_(scale, group["vector_eps"])
    rate = -float(group["lr"]) * group["vector_scale"]
    torch._foreach_addcdiv_(params, memory, scale, scalars=[rate / (1 - first**step) for step in steps])
