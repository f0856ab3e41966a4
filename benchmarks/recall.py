"""How many random pairs each rule can recall as their number grows past the state's width.

    python benchmarks/recall.py

Every rule is used as it stands: nothing is trained. n pairs of random unit vectors are written once, one after another,
with retention 1; then every key is asked, and an answer counts as recalled when its nearest value is the right one. The
inner rate of every rule and n (for attention: the sharpness of its softmax) is chosen on a separate validation draw.
Writes docs/results/recall_capacity.md, .png and .json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from torch import Tensor

from nestling.rules import RULES, Rule

mpl.use("Agg")
import matplotlib.pyplot as plt

RESULT = Path(__file__).parents[1] / "docs" / "results" / "recall_capacity"
WIDTH = 32
COUNTS = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
SEEDS = (0, 1, 2)
DRAWS = 8
ETAS = (0.01, 0.03, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 2.0, 4.0)
SHARPNESS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
PANELS = {
    "one gradient step": ("hebbian", "oja", "delta", "huber", "lp"),
    "beyond one gradient step": ("delta", "momentum", "omega", "dgd_explicit", "dgd", "least_squares"),
    "larger or other state": ("delta", "deep", "deep_momentum", "deep_dgd", "sliding_window", "attention"),
}
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")


def pairs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random unit keys and values [DRAWS, count, WIDTH]."""
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2, DRAWS, count, WIDTH, generator=generator)
    keys, values = torch.nn.functional.normalize(both, dim=-1)
    return keys, values


def recalled(rule: Rule, keys: Tensor, values: Tensor) -> Tensor:
    """Fraction of pairs recalled, one number per rate [R]: every head writes the same pairs with another rate."""
    num_rates, count = len(ETAS), keys.shape[1]
    state = rule.initial(DRAWS, num_rates, WIDTH, WIDTH)
    eta = torch.tensor(ETAS).expand(DRAWS, num_rates)
    keys_heads, values_heads = (x[:, :, None].expand(-1, -1, num_rates, -1) for x in (keys, values))
    for t in range(count):
        state = rule.write(state, keys_heads[:, t], values_heads[:, t], eta=eta, alpha=torch.ones_like(eta))
    sharpness = torch.tensor(SHARPNESS)[:, None] if rule.state_kind == "pairs" else torch.ones(num_rates, 1)
    answers = torch.stack([rule.read(state, keys_heads[:, t] * sharpness) for t in range(count)], dim=2)
    distances = torch.cdist(answers, values_heads.transpose(1, 2))
    right = distances.argmin(-1) == torch.arange(count)
    # an answer that is not a number recalls nothing
    right &= answers.isfinite().all(-1)
    return right.float().mean((0, 2))


def measure(rule: Rule, count: int, seed: int) -> tuple[float, float]:
    """Fraction recalled on a test draw with the rate that did best on a validation draw, and that rate."""
    best = int(recalled(rule, *pairs(count, seed=1000 + seed)).argmax())
    rates = SHARPNESS if rule.state_kind == "pairs" else ETAS
    return recalled(rule, *pairs(count, seed=seed))[best].item(), rates[best]


def numbers(state: Any) -> int:
    """How many numbers one row and head of a state holds."""

    def tensors(part: Any) -> Iterator[Tensor]:
        if isinstance(part, Tensor):
            yield part
        else:
            for inner in part:
                yield from tensors(inner)

    return sum(tensor.numel() for tensor in tensors(state))


def measure_all() -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, rule in RULES.items():
        started = time.perf_counter()
        cells = {count: [measure(rule, count, seed) for seed in SEEDS] for count in COUNTS}
        results[name] = {
            "state": "grows" if name == "attention" else numbers(rule.initial(1, 1, WIDTH, WIDTH)),
            "recall": {count: [recall for recall, _ in cell] for count, cell in cells.items()},
            "rate": {count: [rate for _, rate in cell] for count, cell in cells.items()},
        }
        print(f"{name} {time.perf_counter() - started:.1f} s", flush=True)
    results["sliding_window"]["state"] = 16 * 2 * WIDTH
    return results


def capacity(recall: dict[int, list[float]]) -> str:
    """Largest number of pairs of which at least 90 % are recalled in the mean over seeds."""
    good = [count for count in COUNTS if sum(recall[count]) / len(SEEDS) >= 0.9]
    return str(max(good)) if good else f"< {COUNTS[0]}"


def report(results: dict[str, Any]) -> str:
    shown = (16, 32, 64, 128, 256)
    lines = [
        "# Recall against the number of pairs",
        "",
        "Command: `python benchmarks/recall.py` (CPU, a few minutes on one core). Nothing is trained.",
        "",
        f"Random unit keys and values of width {WIDTH}; n pairs written once each, retention 1, nearest value counts.",
        f"Mean ± standard deviation over {len(SEEDS)} seeds ({DRAWS} draws of n pairs each). The inner rate",
        "(attention: the sharpness of its softmax) was chosen per rule, n and seed on a separate validation draw. A",
        f"guess is right with probability 1/n. `state` counts numbers per head ({WIDTH} x {WIDTH} = {WIDTH**2}).",
        "",
        "![fraction recalled](recall_capacity.png)",
        "",
        "| rule | state | " + " | ".join(f"n = {count}" for count in shown) + " | largest n with 90 % |",
        "|---|---|" + "---|" * (len(shown) + 1),
    ]
    for name, result in results.items():
        cells = []
        for count in shown:
            values = torch.tensor(result["recall"][count])
            cells.append(f"{values.mean():.2f} ± {values.std():.2f}")
        lines.append(f"| {name} | {result['state']} | {' | '.join(cells)} | {capacity(result['recall'])} |")
    lines += [
        "",
        "Delta and huber lie on one another (errors stay below the threshold 1), and so do delta and gated_delta",
        "(retention 1). Deep memories start from a random first layer and a last layer of zeros, not from a",
        "meta-learned state, and answer q + W_2 sigma(W_1 q). Explicit DGD on them erases what both layers answer.",
    ]
    return "\n".join([*lines, ""])


def draw_plot(results: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(1, len(PANELS), figsize=(13, 4.8), sharey=True, layout="constrained")
    for axis, (title, names) in zip(axes, PANELS.items()):
        for name, colour in zip(names, COLOURS):
            recall = torch.tensor([results[name]["recall"][count] for count in COUNTS])
            mean, spread = recall.mean(1), recall.std(1)
            style = {"color": colour, "linewidth": 1.8, "linestyle": "--" if name == "delta" else "-"}
            axis.plot(COUNTS, mean, marker="o", markersize=3.5, label=name, **style)
            axis.fill_between(COUNTS, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
        axis.axvline(WIDTH, color="0.6", linewidth=1, linestyle=":")
        axis.text(WIDTH * 1.04, 0.02, "n = K", color="0.4", fontsize=8)
        axis.set(xscale="log", title=title, xlabel="number of pairs n")
        axis.set_xticks([4, 8, 16, 32, 64, 128, 256], labels=["4", "8", "16", "32", "64", "128", "256"])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncol=3, frameon=False)
    axes[0].set(ylabel="fraction recalled", ylim=(0, 1.03))
    figure.suptitle(f"Recall of random pairs written once, key width K = {WIDTH}, no training", fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def saved(path: Path) -> dict[str, Any]:
    """Results of an earlier run, with the numbers of pairs as numbers again."""
    results = json.loads(path.read_text())
    for result in results.values():
        for part in ("recall", "rate"):
            result[part] = {int(count): values for count, values in result[part].items()}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only-draw", action="store_true", help="make page and picture from recall_capacity.json")
    torch.set_num_threads(1)
    record = RESULT.with_suffix(".json")
    record.parent.mkdir(parents=True, exist_ok=True)
    if parser.parse_args().only_draw:
        results = saved(record)
    else:
        results = measure_all()
        record.write_text(json.dumps(results, indent=1) + "\n")
    text = report(results)
    RESULT.with_suffix(".md").write_text(text)
    draw_plot(results, RESULT.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    main()
