"""Compile the erase-write kernels for GPUs that are not at hand and print the shared memory that each needs.

Called by `python benchmarks/gpu_kernels.py --compile-only`. A block may use at most 163 KiB on sm_80 (A100) and
227 KiB on sm_90 (H100), 99 KiB on the consumer cards of both generations.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from nestling.ops.erase_write_triton_plan import Plan, make_plan
from nestling.ops.triton_dispatch import triton_installed

TARGETS = (80, 90)
VECTORS = {"query", "key", "value", "output", "d_output", "d_query", "d_key", "d_value"}
FLOATS = {"erase", "write", "log_alpha", "state", "final_state", "d_final_state", "d_state", "d_write"}
FLOATS |= {"d_erase_slots", "d_log_alpha_slots"}
NUMBERS = {"T": "i32", "slot_size": "i32"}
TRITON_TYPE = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def kernels(plan: Plan) -> list[tuple[Any, dict[str, Any]]]:
    from nestling.ops import erase_write_triton_backward as backward
    from nestling.ops import erase_write_triton_forward as forward

    return [
        (forward.solve_kernel, plan.solve_tiles),
        (forward.vectors_kernel, plan.tiles),
        (forward.states_kernel, plan.state_tiles),
        (forward.output_kernel, plan.tiles),
        (backward.local_kernel, plan.tiles),
        (backward.reverse_kernel, plan.state_tiles),
        (backward.matrices_kernel, plan.gradient_tiles),
        (backward.gradients_kernel, plan.gradient_tiles),
    ]


def signature(kernel: Any, dtype: torch.dtype, operand: torch.dtype) -> dict[str, str]:
    kinds = {**NUMBERS}
    for name in kernel.arg_names:
        if name in VECTORS:
            kinds[name] = "*" + TRITON_TYPE[dtype]
        elif name in FLOATS:
            kinds[name] = "*fp32"
        elif name not in NUMBERS:
            kinds[name] = "constexpr" if name.isupper() else "*" + TRITON_TYPE[operand]
    return {name: kinds[name] for name in kernel.arg_names}


def shared_memory(kernel: Any, settings: dict[str, Any], plan: Plan, dtype: torch.dtype, target: int) -> int:
    """Bytes of shared memory of one program, from compiling for compute capability `target`."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    launch = {name: settings[name] for name in ("num_warps", "num_stages")}
    constants = {name: settings[name] for name in kernel.arg_names if name in settings}
    kinds = signature(kernel, dtype, plan.operand)
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(kinds) if kinds[name].startswith("*")}
    source = ASTSource(kernel, kinds, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=launch).metadata.shared


def print_compiled(width: int) -> None:
    """One table row per kernel, type and target, for key and value width `width`."""
    if not triton_installed():
        sys.exit("gpu_kernels: expected the package triton, which is not installed: pip install triton")
    print("| kernel | type | target | shared KiB |\n|---|---|---|---|")
    for dtype in (torch.bfloat16, torch.float32):
        plan = make_plan(torch.empty(1, 256, 1, width, dtype=dtype), torch.empty(1, 256, 1, width, dtype=dtype), 64)
        for kernel, settings in kernels(plan):
            for target in TARGETS:
                size = shared_memory(kernel, settings, plan, dtype, target) / 1024
                print(f"| {kernel.__name__} | {TRITON_TYPE[dtype]} | sm_{target} | {size:.1f} |", flush=True)
