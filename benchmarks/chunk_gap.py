"""How far chunk-wise learning is from the recurrence: python benchmarks/chunk_gap.py [folder].

A fresh memory reads 512 tokens whose keys and values are related by a hidden linear map and drift slowly, so that there
is something to learn and to forget. Gap: |y_C - y_1| / |y_1| over the answers of the memory (before the output
projection is learned), mean of three seeds. Rules with an exact parallel form have only rounding.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from nestling.memory import MEMORIES

DIM, HEADS, LENGTH, SEEDS = 64, 2, 512, (0, 1, 2)
CHUNK_SIZES = (4, 16, 64, 256)
NAMES = [name for name in MEMORIES if name not in ("attention", "sliding_window")]


def drifting_tokens(seed: int) -> Tensor:
    """[1, T, D]: an autoregressive walk, so that neighbours are alike as in text features."""
    draw = torch.Generator().manual_seed(seed)
    noise, walk = torch.randn(LENGTH, DIM, generator=draw), torch.zeros(DIM)
    rows = []
    for step in noise:
        walk = 0.9 * walk + step
        rows.append(walk)
    return torch.stack(rows).mul(0.43).unsqueeze(0)


@torch.no_grad()
def gap(name: str, chunk_size: int) -> float:
    """Mean relative distance to chunk size 1."""
    gaps = []
    for seed in SEEDS:
        x, answers = drifting_tokens(seed), []
        for size in (1, chunk_size):
            torch.manual_seed(seed)
            answers.append(MEMORIES[name](dim=DIM, num_heads=HEADS, chunk_size=size)(x)[0])
        exact, chunked = answers
        gaps.append(((exact - chunked).norm() / exact.norm()).item())
    return sum(gaps) / len(gaps)


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/results")
    sizes = " | ".join(f"C {size}" for size in CHUNK_SIZES)
    lines = [
        "# Distance of chunk-wise learning from the recurrence",
        "",
        "Written by `python benchmarks/chunk_gap.py`. Relative distance of answers to chunk size 1; fresh memories,",
        f"width {DIM}, {HEADS} heads, {LENGTH} slowly drifting tokens, mean of {len(SEEDS)} seeds, float32.",
        "",
        f"| memory | {sizes} |",
        "|---|" + "---|" * len(CHUNK_SIZES),
    ]
    for name in NAMES:
        cells = [f"{gap(name, size):.1e}" for size in CHUNK_SIZES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chunk_gap.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
