"""The erase-write recurrence in Triton kernels, forward and backward: the GPU twin of `nestling.ops.erase_write`.

Importable without Triton; the kernels are loaded on the first call.
"""

from __future__ import annotations

import contextlib
import functools
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nestling.errors import InputError, ResourceError
from nestling.ops.erase_write_triton_plan import Plan, make_plan
from nestling.ops.triton_dispatch import KERNEL_DTYPES, LARGEST_WIDTH, triton_installed, triton_interpreted
from nestling.shapes import check_shape


def erase_write_triton(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    erase: Tensor | None,
    write: Tensor,
    log_alpha: Tensor,
    state: Tensor,
    *,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Run a matrix memory over T tokens, chunk-parallel and exact.

    M_t = M_{t-1} (alpha_t I - erase_t k_t k_t^T) + write_t v_t k_t^T,   y_t = M_t q_t

    erase 0 is the Hebbian rule, erase = write the delta rule, alpha < 1 its gated form, erase = 2 write explicit DGD.
    Sums are float32; operands have the promoted type of query, key and value (see `make_plan`). The backward pass keeps
    the inputs and the [C, C] inverses and computes the rest again; it cannot be differentiated a second time.

    Source: NL eq. 65, 88, 93; chunk form and gradient derived in docs/derivations/erase_write.md.

    Args:
        query: [B, T, H, K], K in 1..256.
        key: [B, T, H, K], any norm.
        value: [B, T, H, V], V in 1..256.
        erase: [B, T, H] or None for 0.
        write: [B, T, H].
        log_alpha: [B, T, H] <= 0, natural log of the retention; -inf forgets everything.
        state: [B, H, V, K] float32, the memory before the first token.
        chunk_size: tokens per chunk, >= 1. Changes speed, not the result: the kernels know chunks of 16, 32 and
            (bfloat16) 64 tokens and take the next one.

    Returns:
        output [B, T, H, V] in the type of `value`, and the final state [B, H, V, K] float32; inputs are unchanged.

    Raises:
        ShapeError: an axis does not match.
        InputError: type, width, chunk_size or device that the kernels do not take.
        ResourceError: Triton is not installed.
    """
    erase = torch.zeros_like(write) if erase is None else erase
    _check_inputs(query, key, value, erase, write, log_alpha, state, chunk_size)
    if value.numel() == 0:
        return value.clone(), state.float().clone()
    common = torch.promote_types(torch.promote_types(query.dtype, key.dtype), value.dtype)
    vectors = tuple(tensor.to(common).contiguous() for tensor in (query, key, value))
    scalars = tuple(tensor.float().contiguous() for tensor in (erase, write, log_alpha))
    output, final_state = _EraseWrite.apply(*vectors, *scalars, state.float().contiguous(), chunk_size)
    return output.to(value.dtype), final_state


class _EraseWrite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        erase: Tensor,
        write: Tensor,
        log_alpha: Tensor,
        state: Tensor,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor]:
        plan = make_plan(query, value, chunk_size)
        forward, _ = _kernels()
        with _on_device(query):
            inverse = query.new_empty(*key.shape[:3], plan.C, dtype=plan.operand)
            forward.solve_kernel[plan.chunk_grid](key, erase, log_alpha, inverse, plan.T, **plan.solve_tiles)
            _, writes, states, final_state = _scan(plan, key, value, erase, write, log_alpha, state, inverse)
            output = torch.empty_like(value)
            forward.output_kernel[(*plan.chunk_grid, plan.num_value_blocks)](
                query, key, log_alpha, writes, states, output, plan.T, **plan.tiles
            )
        ctx.save_for_backward(query, key, value, erase, write, log_alpha, state, inverse)
        ctx.plan = plan
        return output, final_state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        d_output, d_final_state = (grad.contiguous() for grad in grads)
        with _on_device(d_output):
            return *_backward(ctx.plan, ctx.saved_tensors, d_output, d_final_state), None


def _scan(
    plan: Plan,
    key: Tensor,
    value: Tensor,
    erase: Tensor,
    write: Tensor,
    log_alpha: Tensor,
    state: Tensor,
    inverse: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Erase vectors X, writes U, the memory before every chunk and after the last, from the stored inverses."""
    forward, _ = _kernels()
    erase_vectors = torch.empty_like(key, dtype=plan.operand)
    write_vectors, writes = (torch.empty_like(value, dtype=plan.operand) for _ in range(2))
    states = key.new_empty(plan.B, plan.H, plan.num_chunks, plan.K, plan.V, dtype=plan.operand)
    final_state = torch.empty_like(state)
    forward.vectors_kernel[plan.chunk_grid](
        key, value, erase, write, log_alpha, inverse, erase_vectors, write_vectors, plan.T, **plan.tiles
    )
    forward.states_kernel[plan.state_grid](
        key, log_alpha, erase_vectors, write_vectors, state, writes, states, final_state, plan.T, **plan.state_tiles
    )
    return erase_vectors, writes, states, final_state


def _backward(plan: Plan, saved: tuple[Tensor, ...], d_output: Tensor, d_final_state: Tensor) -> tuple[Tensor, ...]:
    """Gradients of query, key, value, erase, write, log_alpha and state."""
    query, key, value, erase, write, log_alpha, state, inverse = saved
    _, kernels = _kernels()
    erase_vectors, writes, states, _ = _scan(plan, key, value, erase, write, log_alpha, state, inverse)
    d_local, d_writes, residual = (torch.empty_like(value, dtype=plan.operand) for _ in range(3))
    d_states, d_state = torch.empty_like(states), torch.empty_like(state)
    kernels.local_kernel[plan.chunk_grid](query, key, log_alpha, d_output, d_local, plan.T, **plan.tiles)
    kernels.reverse_kernel[plan.state_grid](
        query, key, log_alpha, erase_vectors, d_output, d_local, d_final_state, d_writes, d_states, d_state,
        plan.T, **plan.state_tiles,
    )  # fmt: skip
    d_query, d_key, d_value, d_write = map(torch.empty_like, (query, key, value, write))
    scores, solves = torch.empty_like(inverse), torch.empty_like(inverse)
    d_erase, d_log_alpha = (erase.new_empty(1 + plan.num_key_blocks, *erase.shape) for _ in range(2))
    kernels.matrices_kernel[plan.chunk_grid](
        query, key, value, erase, write, log_alpha, inverse, writes, d_output, d_writes,
        residual, scores, solves, d_value, d_write, d_erase, d_log_alpha, plan.T, **plan.gradient_tiles,
    )  # fmt: skip
    kernels.gradients_kernel[(*plan.chunk_grid, plan.num_key_blocks)](
        query, key, erase, log_alpha, writes, states, d_output, d_states, residual, scores, solves,
        d_query, d_key, d_erase, d_log_alpha, plan.T, erase.numel(), **plan.gradient_tiles,
    )  # fmt: skip
    return d_query, d_key, d_value, d_erase.sum(0), d_write, d_log_alpha.sum(0), d_state


@functools.cache
def _kernels() -> tuple[ModuleType, ModuleType]:
    if not triton_installed():
        raise ResourceError(
            "erase_write_triton: expected the package 'triton', which is not installed: "
            "pip install triton, or call nestling.ops.erase_write"
        )
    from nestling.ops import erase_write_triton_backward, erase_write_triton_forward

    return erase_write_triton_forward, erase_write_triton_backward


def _on_device(tensor: Tensor) -> AbstractContextManager[Any]:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def _check_inputs(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    erase: Tensor,
    write: Tensor,
    log_alpha: Tensor,
    state: Tensor,
    chunk_size: int,
) -> None:
    sizes = check_shape("query", query, "BTHK")
    sizes = check_shape("key", key, "BTHK", sizes)
    sizes = check_shape("value", value, "BTHV", sizes)
    for name, tensor in (("erase", erase), ("write", write), ("log_alpha", log_alpha)):
        check_shape(name, tensor, "BTH", sizes)
    check_shape("state", state, "BHVK", sizes)
    for axis in "KV":
        if not 1 <= sizes[axis] <= LARGEST_WIDTH:
            raise InputError(
                f"erase_write_triton: expected {axis} in 1..{LARGEST_WIDTH}, got {sizes[axis]}: "
                "split the memory into more heads, or call nestling.ops.erase_write"
            )
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dtype not in KERNEL_DTYPES:
            raise InputError(
                f"{name}: expected bfloat16, float16 or float32, got {tensor.dtype}: "
                "convert it, or call nestling.ops.erase_write"
            )
    if chunk_size < 1:
        raise InputError(f"chunk_size: expected at least 1 token, got {chunk_size}: 64 is a good choice")
    if not query.is_cuda and not triton_interpreted():
        raise InputError(
            f"query: expected a CUDA tensor, got one on {query.device}: call nestling.ops.erase_write, "
            "or set TRITON_INTERPRET=1 before Triton is imported to run the kernels slowly on the CPU"
        )
