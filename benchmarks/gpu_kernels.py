"""Erase-write Triton kernels on a CUDA GPU: correctness, then forward + backward time against the peers.

    python benchmarks/gpu_kernels.py --out gpu_kernels.json         (needs a CUDA GPU; peers are timed if installed)
    python benchmarks/gpu_kernels.py --compile-only                 (needs no GPU: shared memory of every kernel)

Peers: flash-linear-attention's chunk_gated_delta_rule (`pip install flash-linear-attention`) and torch SDPA kept to
flash attention. Same batch, heads, widths, bfloat16 and machine in one run; median of repeated runs after warm-up.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import normalize, scaled_dot_product_attention

from gpu_kernels_compile import print_compiled
from nestling.ops.erase_write import erase_write_recurrent
from nestling.ops.erase_write_triton import erase_write_triton

NAMES = ("query", "key", "value", "erase", "write", "log_alpha", "state")
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
Call = Callable[[], tuple[Tensor, list[Tensor]]]


def draw(B: int, T: int, H: int, K: int, V: int, dtype: torch.dtype) -> list[Tensor]:
    """Inputs of the kernels with unit keys and a retention near 1, on the GPU."""
    generator = torch.Generator("cuda").manual_seed(0)
    options = {"generator": generator, "device": "cuda"}
    query, key = (normalize(torch.randn(B, T, H, K, **options), dim=-1).to(dtype) for _ in range(2))
    value = torch.randn(B, T, H, V, **options).to(dtype)
    erase = torch.rand(B, T, H, **options)
    log_alpha = 0.05 * torch.rand(B, T, H, **options).log()
    return [query, key, value, erase, erase.clone(), log_alpha, torch.zeros(B, H, V, K, device="cuda")]


def results(function: Callable[..., tuple[Tensor, Tensor]], inputs: list[Tensor]) -> list[Tensor]:
    """Outputs and gradients of one fixed random projection of both outputs."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    outputs = function(*leaves)
    generator = torch.Generator("cuda").manual_seed(1)
    loss = torch.zeros((), device="cuda")
    for output in outputs:
        loss = loss + (output * torch.randn(output.shape, generator=generator, device="cuda")).sum()
    return [*outputs, *torch.autograd.grad(loss, leaves)]


def check_correctness() -> list[dict[str, object]]:
    """Relative errors of outputs and gradients against the float64 recurrence; stops at the first that is too large."""
    rows: list[dict[str, object]] = []
    for dtype, tolerance in TOLERANCE.items():
        for T, K, V in ((1, 64, 64), (63, 64, 64), (64, 64, 64), (65, 128, 64), (135, 100, 72), (300, 256, 256)):
            inputs = draw(2, T, 2, K, V, dtype)
            if T > 60:
                inputs[5][:, 40] = -torch.inf
            got = results(erase_write_triton, inputs)
            expected = results(erase_write_recurrent, [x.double() for x in inputs])
            errors = {}
            for name, mine, reference in zip(("output", "final_state", *NAMES), got, expected):
                errors[name] = ((mine.double() - reference).norm() / reference.norm().clamp(min=1e-6)).item()
                if not errors[name] < tolerance:
                    sys.exit(f"{dtype} T {T} K {K} V {V}: {name} is off by {errors[name]:.2e}, allowed {tolerance}")
            rows.append({"dtype": str(dtype), "T": T, "K": K, "V": V, **errors})
            print(f"correct: {dtype!s:15} T {T:4} K {K:3} V {V:3}   largest relative error {max(errors.values()):.1e}")
    return rows


def ours(inputs: list[Tensor]) -> Call:
    leaves = [x.requires_grad_() for x in inputs]
    return lambda: (erase_write_triton(*leaves)[0], leaves)


def fla(inputs: list[Tensor]) -> Call:
    """The gated delta rule of flash-linear-attention: erase = alpha beta, write = beta; the same amount of work."""
    rule = importlib.import_module("fla.ops.gated_delta_rule").chunk_gated_delta_rule
    query, key, value, erase, _, log_alpha, state = inputs
    leaves = [x.requires_grad_() for x in (query, key, value, log_alpha, erase.to(query.dtype), state.mT.contiguous())]
    q, k, v, g, beta, initial = leaves
    options = {"scale": 1.0, "output_final_state": True}
    return lambda: (rule(q, k, v, g=g, beta=beta, initial_state=initial, **options)[0], leaves)


def flash_attention(inputs: list[Tensor]) -> Call:
    leaves = [x.transpose(1, 2).contiguous().requires_grad_() for x in inputs[:3]]

    def call() -> tuple[Tensor, list[Tensor]]:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return scaled_dot_product_attention(*leaves, is_causal=True), leaves

    return call


def milliseconds(call: Call, *, backward: bool, repeats: int = 20) -> float:
    """Median time of one forward, or forward and backward, pass."""
    projection = torch.randn_like(call()[0])

    def once() -> None:
        output, leaves = call()
        if backward:
            torch.autograd.grad(output, leaves, projection, allow_unused=True)

    times = []
    for number in range(5 + repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        once()
        end.record()
        torch.cuda.synchronize()
        if number >= 5:
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def time_all(B: int, H: int, width: int, lengths: list[int]) -> list[dict[str, object]]:
    peers: dict[str, Callable[[list[Tensor]], Call]] = {"nestling": ours, "flash-attention": flash_attention}
    if importlib.util.find_spec("fla"):
        peers["flash-linear-attention"] = fla
    else:
        print("flash-linear-attention is not installed: its column is missing (pip install flash-linear-attention)")
    rows: list[dict[str, object]] = []
    for T in lengths:
        for name, build in peers.items():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            call = build(draw(B, T, H, width, width, torch.bfloat16))
            forward, both = (milliseconds(call, backward=backward) for backward in (False, True))
            peak = torch.cuda.max_memory_allocated() / 2**20
            rows.append({"name": name, "T": T, "forward_ms": forward, "forward_backward_ms": both, "peak_mib": peak})
    return rows


def table(rows: list[dict[str, object]]) -> str:
    lines = ["| T | kernel | forward ms | forward + backward ms | peak MiB |", "|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row['T']} | {row['name']} | {row['forward_ms']:.2f} | {row['forward_backward_ms']:.2f} "
            f"| {row['peak_mib']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--width", type=int, default=128, help="key and value width of a head")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 8192, 16384, 32768])
    parser.add_argument("--out", type=Path, default=Path("gpu_kernels.json"))
    parser.add_argument("--compile-only", action="store_true", help="compile for sm_80 and sm_90 without a GPU")
    options = parser.parse_args()
    if options.compile_only:
        print_compiled(options.width)
        return
    if not torch.cuda.is_available():
        sys.exit("gpu_kernels: expected a CUDA GPU and a CUDA build of torch, found none; try --compile-only here")
    correctness = check_correctness()
    rows = time_all(options.batch, options.heads, options.width, options.lengths)
    print(table(rows))
    machine = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    shape = {"batch": options.batch, "heads": options.heads, "width": options.width, "dtype": "bfloat16"}
    report = {"machine": machine, "shape": shape, "correctness": correctness, "times": rows}
    options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
