"""A million tokens of hostile input through every memory: python benchmarks/hostile.py [tokens [memory ...]].

Keys and values that are huge, tiny, constant, repeated or of wildly mixed size, in float32 and bfloat16, streamed in
pieces of unequal length. Prints one line per memory, kind and type; exit code 1 when anything is not finite.
"""

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from nestling.memory import MEMORIES

DIM, HEADS = 16, 2
PIECE = 4099
KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "huge": lambda x: 1e15 * x,
    "tiny": lambda x: 1e-30 * x,
    "constant": torch.ones_like,
    "repeated": lambda x: x[:, :1].expand_as(x),
    "mixed": lambda x: x * 10.0 ** torch.linspace(-30, 15, x.shape[1]).unsqueeze(-1),
}


@torch.no_grad()
def survivors(name: str, dtype: torch.dtype, num_tokens: int) -> dict[str, bool]:
    """Whether answers and states stay finite, per kind; every kind is one batch row of the same run."""
    torch.manual_seed(0)
    memory = MEMORIES[name](dim=DIM, num_heads=HEADS).to(dtype)
    draw, state, done = torch.Generator().manual_seed(1), None, 0
    fine = torch.ones(len(KINDS), dtype=torch.bool)
    while done < num_tokens and fine.any():
        length = min(PIECE, num_tokens - done)
        x = torch.randn(1, length, DIM, generator=draw)
        x = torch.cat([make(x) for make in KINDS.values()]).to(dtype)
        y, state = memory(x, state)
        for tensor in (y, *state.state_dict().values()):
            if tensor.is_floating_point():
                fine &= tensor.flatten(1).isfinite().all(1)
        done += length
    return dict(zip(KINDS, fine.tolist()))


def main() -> int:
    torch.set_num_threads(1)
    num_tokens = int(float(sys.argv[1])) if len(sys.argv) > 1 else 1_000_000
    failures = 0
    # Attention grows with the input by definition.
    for name in sys.argv[2:] or [name for name in MEMORIES if name != "attention"]:
        for dtype in (torch.float32, torch.bfloat16):
            start = time.perf_counter()
            found = survivors(name, dtype, num_tokens)
            failures += sum(not fine for fine in found.values())
            shown = "  ".join(f"{kind} {'finite' if fine else 'NOT FINITE'}" for kind, fine in found.items())
            print(f"{name:18} {str(dtype)[6:]:9} {shown}  {time.perf_counter() - start:7.1f} s", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
