"""Small models trained from nothing on synthetic tasks: the six formal languages, MAD, or MQAR.

    python benchmarks/synthetic.py formal_languages      # resumable: finished cells are read from docs/results
    python benchmarks/synthetic.py mad
    python benchmarks/synthetic.py multi_query_recall

A cell is one task, one model, one seed. All models have the parameters of Hope within 5 percent, see the same number of
sequences and are trained the same way; the learning rate is chosen per task and model by validation loss after a
shorter training with four seeds of its own, from the same grid: the smallest rate that is as good as the best. Cells
whose settings differ from those below are done anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch

from nestling.recipes.files import write_atomically
from nestling.recipes.suite import GROUPS, SYNTHETIC_TASKS, Training
from nestling.recipes.suite.small_models import SMALL_MODELS, Sizes
from nestling.recipes.suite.train_synthetic import choose_rate, run_cell

mpl.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path(__file__).parents[1] / "docs" / "results"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Study:
    """A set of tasks with its training, the score that its page shows, and its words."""

    tasks: tuple[str, ...]
    how: Training
    metric: str
    title: str
    words: tuple[str, ...]


FORMAL_WORDS = (
    "After every prefix of a word the model says, for every symbol and for the end of the word, whether it may come",
    "next (Bhattamishra et al. 2020); for parity this contains whether the prefix has an even number of ones. A word",
    "counts when all its prefixes are right. Words of 1 to 40 symbols are trained on; 1x: fresh words of these lengths",
    "(languages with one word per length: the same words), 2x: 41 to 80 symbols, 4x: 81 to 160.",
)
MAD_WORDS = (
    "The six tasks of MAD (arXiv 2403.17844) with the sizes of its baselines. Share of asked tokens that are right.",
    "Fuzzy recall is trained on keys of 1 to 3 tokens and tested on keys of 3 too. The decoder of compression comes on",
    "top of a model's parameters. Models and trainings are far smaller than those of MAD.",
)
RECALL_WORDS = (
    "MQAR (arXiv 2312.04927): pairs of a key and a value, 32 of each there are, then keys, whose values must be named.",
    "Trained on 1 to 12 pairs, tested on fresh sequences of these, and of 12, 6 and 24 pairs. Share of asked values",
    "that are right; one of the values that were shown is named by chance in 8 percent with 12 pairs.",
)
SMALL = Sizes(width=64, heads=2, span=64, chunk_size=32)
STUDIES = {
    "formal_languages": Study(
        GROUPS["formal_languages"],
        Training(
            steps=1000, trial_steps=300, batch=16, num_test=256, rates=(1e-3, 3e-3, 1e-2), sizes=Sizes(conv_width=1)
        ),
        "sequence",
        "Formal languages",
        FORMAL_WORDS,
    ),
    "mad": Study(
        GROUPS["mad"],
        Training(steps=1000, trial_steps=200, batch=16, num_test=128, sizes=SMALL),
        "place",
        "MAD",
        MAD_WORDS,
    ),
    "multi_query_recall": Study(
        ("mqar",),
        Training(
            steps=3000,
            trial_steps=1000,
            batch=32,
            num_test=128,
            optimizer="muon:precision=parameter",
            rates=(2e-3, 4e-3, 8e-3),
            sizes=SMALL,
        ),
        "place",
        "Multi-query recall of whole models",
        RECALL_WORDS,
    ),
}


def plain(settings: Training) -> dict[str, Any]:
    """As it comes back from JSON."""
    return json.loads(json.dumps(asdict(settings)))


def load(name: str) -> dict[str, Any]:
    """Finished cells and rates of the same settings."""
    path = FOLDER / f"{name}.json"
    saved = json.loads(path.read_text()) if path.exists() else {"cells": {}, "rates": {}}
    wanted = plain(STUDIES[name].how)
    return {
        kind: {key: value for key, value in saved[kind].items() if value["training"] == wanted}
        for kind in ("cells", "rates")
    }


def run(name: str, tasks: Sequence[str], models: Sequence[str], seeds: Sequence[int]) -> None:
    study, record = STUDIES[name], load(name)
    for task in tasks:
        for model in models:
            missing = [seed for seed in seeds if f"{task}.{model}.{seed}" not in record["cells"]]
            if not missing:
                continue
            key = f"{task}.{model}"
            print(key, flush=True)
            if key not in record["rates"]:
                rate, losses = choose_rate(SYNTHETIC_TASKS[task], model, study.how, say)
                record["rates"][key] = {"rate": rate, "losses": losses, "training": plain(study.how)}
                save(name, record)
            for seed in missing:
                cell = run_cell(
                    SYNTHETIC_TASKS[task], model, study.how, rate=record["rates"][key]["rate"], seed=seed, report=say
                )
                record["cells"][f"{key}.{seed}"] = {**cell, "training": plain(study.how)}
                save(name, record)
                say(f"  seed {seed}: {cell['scores']} {cell['seconds']} s")


def say(line: str) -> None:
    print(line, flush=True)


def save(name: str, record: dict[str, Any]) -> None:
    """Numbers, and, once there is a finished cell, page and picture."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_atomically(FOLDER / f"{name}.json", (json.dumps(record, indent=1) + "\n").encode())
    if record["cells"]:
        write_atomically(FOLDER / f"{name}.md", page(name, record).encode())
        draw(name, record, FOLDER / f"{name}.png")


def values(record: dict[str, Any], task: str, model: str, part: str, metric: str) -> list[float]:
    cells = (record["cells"].get(f"{task}.{model}.{seed}") for seed in SEEDS)
    return [cell["scores"][part][metric] for cell in cells if cell]


def parts_of(study: Study) -> list[tuple[str, str]]:
    return [(task, part) for task in study.tasks for part in SYNTHETIC_TASKS[task].parts]


def models_in(record: dict[str, Any]) -> list[str]:
    found = {cell["model"] for cell in record["cells"].values()}
    return [model for model in SMALL_MODELS if model in found]


def page(name: str, record: dict[str, Any]) -> str:
    study, models = STUDIES[name], models_in(record)
    how, sizes = study.how, study.how.sizes
    done, all_cells = len(record["cells"]), len(study.tasks) * len(SMALL_MODELS) * len(SEEDS)
    lines = [
        f"# {study.title}",
        "",
        f"Command: `python benchmarks/synthetic.py {name}` (CPU, one core, resumable).",
        *(
            [f"{done} of {all_cells} cells (task, model, seed) are done; the same command goes on."]
            * (done < all_cells)
        ),
        "",
        *study.words,
        "",
        f"{sizes.layers} layers of width {sizes.width}, {sizes.heads} heads; the same number of parameters within 5 %,",
        f"{how.steps} steps of {how.batch} sequences, {how.optimizer},",
        f"rates {', '.join(map(str, how.rates))} tried for",
        f"{how.trial_steps} steps with four further seeds. {how.num_test} test sequences per seed. Hope's memories may",
        "have negative eigenvalues, decay to their start and learn their rates faster (`negative_eigenvalues=True,",
        f"decay_to='initial', rate_gain={sizes.rate_gain:g}`), in",
        f"chunks of {sizes.chunk_size} tokens; short convolutions of our memories see {sizes.conv_width or 4} tokens.",
        "In percent: mean over the seeds, then the worst seed where they differ.",
        "",
        f"![{study.title}]({name}.png)",
        "",
        "| task | part | " + " | ".join(models) + " |",
        "|---|---|" + "---|" * len(models),
    ]
    for task, part in parts_of(study):
        row = [shown(values(record, task, model, part, study.metric)) for model in models]
        lines.append(f"| {task} | {part} | " + " | ".join(row) + " |")
    lines += ["", *costs(record, models), ""]
    return "\n".join(lines) + notes(FOLDER / f"{name}.md")


def notes(path: Path) -> str:
    """What a person has written at the end of the page, from "## Notes" on; it stays."""
    old = path.read_text() if path.exists() else ""
    return old[old.index("\n## Notes") :] if "\n## Notes" in old else ""


def shown(found: list[float]) -> str:
    if not found:
        return ""
    mean, worst = 100 * statistics.mean(found), 100 * min(found)
    seeds = "" if len(found) == len(SEEDS) else f" ({len(found)} seeds)"
    return f"{mean:.1f}" + (f" (worst {worst:.1f})" if mean - worst > 0.05 else "") + seeds


def costs(record: dict[str, Any], models: Sequence[str]) -> list[str]:
    lines = ["| model | parameters | processor seconds per cell, median (most) | rates chosen |", "|---|---|---|---|"]
    for model in models:
        cells = [cell for cell in record["cells"].values() if cell["model"] == model]
        sizes = sorted({cell["parameters"] for cell in cells})
        seconds = [cell["cpu_seconds"] for cell in cells]
        rates = sorted({cell["rate"] for cell in cells})
        span = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        times = f"{statistics.median(seconds):.0f} ({max(seconds):.0f})"
        lines.append(f"| {model} | {span} | {times} | {', '.join(map(str, rates))} |")
    return lines


def draw(name: str, record: dict[str, Any], path: Path) -> None:
    study, models = STUDIES[name], models_in(record)
    places = [
        (task, part)
        for task, part in parts_of(study)
        if any(values(record, task, model, part, study.metric) for model in models)
    ]
    figure, axis = plt.subplots(figsize=(8, 0.3 * len(places) + 1.6), layout="constrained")
    for number, model in enumerate(models):
        shift = (number - (len(models) - 1) / 2) * 0.7 / len(models)
        points = [
            (100 * value, row + shift)
            for row, (task, part) in enumerate(places)
            for value in values(record, task, model, part, study.metric)
        ]
        axis.plot(*zip(*points), "o", markersize=4, alpha=0.8, label=model)
    axis.set_yticks(range(len(places)), labels=[f"{task}, {part}" for task, part in places], fontsize=8)
    axis.set_ylim(-0.6, len(places) - 0.4)
    axis.set(xlim=(-3, 103), xlabel="right, percent (one point a seed)", title=study.title)
    axis.invert_yaxis()
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--tasks", nargs="+", help="names of tasks; all unless given")
    parser.add_argument("--models", nargs="+", default=list(SMALL_MODELS), choices=list(SMALL_MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), choices=SEEDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    study = STUDIES[arguments.study]
    tasks = arguments.tasks or study.tasks
    unknown = [task for task in tasks if task not in study.tasks]
    if unknown:
        parser.error(f"no such task: {', '.join(unknown)}; there are {', '.join(study.tasks)}")
    run(arguments.study, tasks, arguments.models, arguments.seeds)
    save(arguments.study, load(arguments.study))


if __name__ == "__main__":
    main()
