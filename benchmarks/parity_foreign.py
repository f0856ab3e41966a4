"""Our rules against references written by others: flash-linear-attention and titans-unofficial.

    pip install --no-deps --target DIR fla-core flash-linear-attention titans-unofficial einops
    python benchmarks/parity_foreign.py --packages DIR

`import fla` needs Triton, so its reference files (`naive.py`) are loaded one by one; they need torch and einops only.
Writes docs/results/parity_foreign.md and exits with 1 when a difference is above its tolerance.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from pathlib import Path

import torch
from torch import Tensor

from foreign_comparison import BATCH, Comparison
from foreign_fla import HEADS, KEY, VALUE, fla_comparisons
from foreign_titans import titans_deep, titans_linear

RESULT = Path(__file__).parents[1] / "docs" / "results" / "parity_foreign.md"
TIMES = (1, 16, 64)


def largest_difference(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> float:
    """Largest difference relative to 1 + the largest entry of theirs."""
    pairs = zip(ours, theirs, strict=True)
    return max(((a - b).abs().max() / (1 + b.abs().max())).item() for a, b in pairs)


def differences(comparison: Comparison) -> tuple[float, float | None]:
    """Largest difference over lengths, of answers and states, and of gradients by every input that has one."""
    forward, backward = 0.0, 0.0
    for time in TIMES:
        gradients = []
        results = []
        for run in (comparison.ours_run, comparison.theirs_run):
            x = {name: part.clone().requires_grad_() for name, part in comparison.inputs(time).items()}
            result = run({name: part * 1 for name, part in x.items()})
            results.append(tuple(part.detach() for part in result))
            total = sum((torch.linspace(-1, 1, part.numel()).to(part) * part.flatten()).sum() for part in result)
            gradients.append(torch.autograd.grad(total, list(x.values()), allow_unused=True, materialize_grads=True))
        forward = max(forward, largest_difference(*results))
        backward = max(backward, largest_difference(*gradients))
    return forward, (backward if comparison.compare_gradients else None)


def report(rows: list[tuple[Comparison, float, float | None]]) -> str:
    versions = [f"{n} {importlib.metadata.version(n)}" for n in ("fla-core", "titans-unofficial", "torch")]
    lines = [
        "# Rules against references written by others",
        "",
        f"Command: `python benchmarks/parity_foreign.py --packages DIR`. Versions: {', '.join(versions)}.",
        f"Lengths {', '.join(map(str, TIMES))}; batch {BATCH}, {HEADS} heads, key width {KEY}, value width {VALUE}.",
        "flash-linear-attention's references compute in float32, titans-unofficial was run in float64. Differences",
        "are the largest over answers and final states (forward) and over the gradients by every input (backward),",
        "divided by 1 + the largest entry. `import fla` needs Triton; its `naive.py` files are loaded one by one and",
        "need torch and einops only.",
        "",
        "| our rule | their reference | forward | backward | tolerance |",
        "|---|---|---|---|---|",
    ]
    for comparison, forward, backward in rows:
        shown = "-" if backward is None else f"{backward:.1e}"
        lines.append(
            f"| {comparison.rule} | {comparison.theirs} | {forward:.1e} | {shown} | {comparison.tolerance:.0e} |"
        )
    lines += [
        "",
        "How the references were made comparable:",
        "- TTT: the LayerNorm loss enters our step as a gradient taken by autograd, so the row checks our step and",
        "  their hand-written gradient; that gradient is detached, so no backward is compared.",
        "- Mesa: their ridge does not decay with the past and ours does, so forgetting is off; write weights are on.",
        "- titans-unofficial: gradient clipping off. Depth 1: the bias is our key's constant entry. Deeper: its biases",
        "  are set to 0 after every token, and our residual is moved into the target (v + k).",
        "- flash-linear-attention has no pure-torch reference for its gated Oja rule (Triton only).",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="folder given to pip install --target")
    folder = parser.parse_args().packages
    torch.set_num_threads(1)
    sys.path.insert(0, str(folder))
    comparisons = [*fla_comparisons(folder), titans_linear(), titans_deep(2), titans_deep(4)]
    rows = [(comparison, *differences(comparison)) for comparison in comparisons]
    text = report(rows)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(text)
    print(text)
    failed = [c.theirs for c, forward, backward in rows if not max(forward, backward or 0.0) < c.tolerance]
    if failed:
        print("above tolerance:", ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
