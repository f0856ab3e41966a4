"""Self-modifying Titans against attention, blocks of equal parameters: python benchmarks/self_modifying_speed.py.

Forward and backward of one block (norm, mixer, norm, MLP), one thread, float32, all writes differentiated. Every
subject in turn, again and again; medians of the ratio to causal SDPA in the same round (above 1 is faster), in CPU time
of the process, which other programs disturb less than the clock does.
"""

import statistics
import time

import torch
import typer

from nestling.layers import SelfModifyingTitans
from nestling.recipes.bench.subjects import Block, CachedAttention


def seconds(block: torch.nn.Module, x: torch.Tensor) -> float:
    """CPU time of one forward and backward."""
    start = time.process_time()
    y, _ = block(x)
    y.square().mean().backward()
    return time.process_time() - start


def main(width: int = 256, heads: int = 4, lengths: str = "1024,4096", repeats: int = 5) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = 12 * width**2 + 10 * width
    mixers = {
        "attention": CachedAttention(dim=width, num_heads=heads),
        "matrix, chunk 64": SelfModifyingTitans(dim=width, num_heads=heads),
        "matrix, chunk 128": SelfModifyingTitans(dim=width, num_heads=heads, chunk_size=128),
        "matrix, momentum, chunk 64": SelfModifyingTitans(dim=width, num_heads=heads, momentum=True),
        "mlp, chunk 64": SelfModifyingTitans(dim=width, num_heads=heads, kind="mlp"),
        "mlp, hidden K, chunk 128": SelfModifyingTitans(
            dim=width, num_heads=heads, kind="mlp", hidden=width // heads, chunk_size=128
        ),
    }
    blocks = {name: Block(mixer, dim=width, num_parameters=size) for name, mixer in mixers.items()}
    for length in map(int, lengths.split(",")):
        x = torch.randn(1, length, width, requires_grad=True)
        rounds = [{name: seconds(block, x) for name, block in blocks.items()} for _ in range(repeats + 1)][1:]
        for name, block in blocks.items():
            ratio = statistics.median(times["attention"] / times[name] for times in rounds)
            count = sum(parameter.numel() for parameter in block.parameters())
            print(f"T {length:5d}   {name:28s} {count} parameters   {ratio:.2f} x", flush=True)


if __name__ == "__main__":
    typer.run(main)
