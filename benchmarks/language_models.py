"""Hope against other language models of equal parameters on equal tokens, byte by byte, on real texts.

    python benchmarks/language_models.py --data FOLDER --out runs/language_models      everything, resumable
    python benchmarks/language_models.py ... --only hope --seed 0                      one run of it
    python benchmarks/language_models.py ... --ablation                                what each part of Hope gives
    python benchmarks/language_models.py ... --optimizer muon:precision=parameter      with Muon; --out of its own
    python benchmarks/language_models.py ... --write docs/results                      tables and pictures so far
    python benchmarks/language_models.py ... --list                                    what is done and what is left

FOLDER holds books as LANGUAGE_title.txt, of which the English ones are read (--files says otherwise); without --data it
is $NESTLING_DATA/books, or $NESTLING_DATA itself. The last 5 % of every file are the test part, the 5 % before them the
validation part. Every model gets the same grid of learning rates, trained on a share of the budget with a seed of its
own, and takes the one that is best on the validation part; the test part is read once per finished run. A second start
goes on where the first one was stopped; several may work side by side with different --only or --seed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from language_models_page import write_pages
from nestling.errors import DataError
from nestling.recipes.files import write_atomically
from nestling.recipes.language import Recipe, StepListener, make_recipe, train
from nestling.recipes.language.evaluate import Text, evaluate_text
from nestling.recipes.language.load import load_model, quiet_transformers
from nestling.recipes.language.token_data import TokenData

SIZE, LENGTH, BATCH = "mini", 512, 4
BUDGET = 3_000_000
TUNING_SHARE = 5 / 24
TUNING_SEED = 1000
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
SEEDS = {"hope": 3, "llama": 3}
MODELS = ("hope", "hope_7_blocks", "llama", "hope_attention", "mamba2", "samba", "titans", "deltanet", "ttt")
# Models that differ from one of `nestling train` in their options; as many blocks as Mamba-2 has, as many parameters.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "hope_7_blocks": ("hope", {"num_hidden_layers": 7, "num_attention_heads": 5, "head_dim": 32}),
}

# Section 9 of the paper's ablation: everything, and one part less at a time.
_FULL: dict[str, Any] = {"momentum": True}
ABLATION: dict[str, dict[str, Any]] = {
    "everything": {"mixer_options": {"self_modifying": _FULL}},
    "no DGD": {"mixer_options": {"self_modifying": {**_FULL, "dgd": "off"}}},
    "no momentum": {"mixer_options": {"self_modifying": {}}},
    "no weight decay": {"mixer_options": {"self_modifying": {**_FULL, "weight_decay": False}}},
    "no CMS": {"mixer_options": {"self_modifying": _FULL}, "update_periods": [512]},
    "static k": {"mixer_options": {"self_modifying": {**_FULL, "adaptive": ["value", "eta", "alpha"]}}},
    "static v": {"mixer_options": {"self_modifying": {**_FULL, "adaptive": ["key", "eta", "alpha"]}}},
    "adaptive q": {
        "mixer_options": {"self_modifying": {**_FULL, "adaptive": ["key", "value", "query", "eta", "alpha"]}}
    },
}


@dataclass(frozen=True)
class Run:
    """One training to be done. variant: of the ablation, or empty."""

    model: str
    seed: int
    variant: str = ""

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.variant.replace(' ', '-') or self.model}-seed{self.seed}"

    @property
    def label(self) -> str:
        """In tables."""
        return self.variant or self.model


class Bench:
    """Runs in a folder, each once."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.out: Path = chosen.out / ("ablation" if chosen.ablation else "models")
        self.shared: Path = chosen.out / "rates"
        self.data = str(find_data(chosen.data, chosen.files))
        self.budget, self.rates, self.optimizer = chosen.budget_tokens, tuple(chosen.rates), chosen.optimizer

    def recipe(self, run: Run, *, lr: float, tokens: int) -> Recipe:
        """What decides a training."""
        model, options = SHAPES.get(run.model, (run.model, {}))
        return make_recipe(
            data=self.data,
            model=model,
            size=SIZE,
            tokens=tokens,
            lr=lr,
            length=LENGTH,
            batch_size=BATCH,
            seed=run.seed,
            optimizer=self.optimizer,
            options=ABLATION[run.variant] if run.variant else options,
            evaluate_every=0,
            evaluate_rows=128,
            save_every=100,
        )

    def rate(self, model: str) -> float:
        """The learning rate with the lowest loss on the validation part after a share of the budget."""
        if len(self.rates) == 1:
            return self.rates[0]
        found = {}
        for lr in self.rates:
            run = Run(model, TUNING_SEED)
            folder = self.shared / f"{model}-lr{lr:g}"
            result = self._done(folder, self.recipe(run, lr=lr, tokens=round(self.budget * TUNING_SHARE)), test=False)
            found[lr] = result["validation"]
        return min(found, key=lambda lr: found[lr])

    def do(self, run: Run) -> dict[str, Any]:
        """A run with its tuned rate; the variants of the ablation share the rate of the whole."""
        lr = self.rate(run.model)
        result = self._done(self.out / run.name, self.recipe(run, lr=lr, tokens=self.budget), test=True)
        return {**result, "label": run.label, "seed": run.seed}

    def result(self, run: Run) -> dict[str, Any] | None:
        """Of a finished run."""
        path = self.out / run.name / "result.json"
        return {**json.loads(path.read_text()), "label": run.label, "seed": run.seed} if path.exists() else None

    def _done(self, folder: Path, recipe: Recipe, *, test: bool) -> dict[str, Any]:
        path = folder / "result.json"
        named = {**recipe.to_json(), "data": Path(recipe.data).name}
        if path.exists():
            found = json.loads(path.read_text())
            if found["recipe"] != named:
                raise SystemExit(f"{path} was made with other settings: choose another --out, or give the same")
            return found
        print(f"{folder.name}: {recipe.steps} steps, lr {recipe.lr:g}", flush=True)
        done = train(recipe, folder / "training", resume=True, device="cpu", listener=Lines())
        log = [json.loads(line) for line in (folder / "training/log.jsonl").read_text().splitlines()]
        speeds = sorted(row["tokens_per_second"] for row in log if "tokens_per_second" in row)
        result = {
            "model": recipe.model,
            "lr": recipe.lr,
            "tokens": recipe.steps * recipe.batch_size * recipe.length,
            "parameters": done.parameters,
            "tokens_per_second": speeds[len(speeds) // 2],
            "validation": done.validation_bits,
            "recipe": named,
            "losses": _thinned([[row["tokens"], row["loss"] / math.log(2)] for row in log if "loss" in row]),
            **(read_at_lengths(folder / "training") if test else {}),
        }
        write_atomically(path, json.dumps(result, indent=1).encode())
        for part in ("checkpoints", "data") if test else ("",):  # room on the disk
            shutil.rmtree(folder / "training" / part)
        return result


class Lines(StepListener):
    """A line every minute."""

    def __init__(self) -> None:
        self.spoken = time.monotonic()

    def on_step(self, row: dict[str, Any], recipe: Recipe) -> None:
        """Say how it goes, now and then."""
        if time.monotonic() - self.spoken > 60:
            self.spoken = time.monotonic()
            bits, speed, left = row["loss"] / math.log(2), row["tokens_per_second"], row["seconds_left"] / 60
            print(
                f"  {row['step']}/{recipe.steps} {bits:.3f} bits, {speed:.0f} tokens/s, {left:.0f} min left", flush=True
            )

    def say(self, message: str) -> None:
        """A line."""
        print(f"  {message}", flush=True)


def find_data(given: str | None, files: str) -> Path:
    """The pattern of the texts."""
    named = os.environ.get("NESTLING_DATA")
    places = [Path(given)] if given else [Path(named) / "books", Path(named)] if named else []
    for place in places:
        if place.is_dir() and any(place.glob(files)):
            return place.resolve() / files
    raise DataError(f"expected a folder with {files}: give --data FOLDER, or set NESTLING_DATA to the folder over it")


def read_at_lengths(training: Path) -> dict[str, Any]:
    """Bits per byte of the test part in contexts of the training length and of four times as many."""
    data = TokenData(training / "data")
    model, _ = load_model(str(training))
    found: dict[str, Any] = {}
    ids = torch.from_numpy(data.parts["test"].astype("int64"))
    text = Text(ids=ids, bytes=(ids < 256).long())
    for times in (1, 4):
        got = evaluate_text(model, text, length=times * LENGTH, memory="frozen")
        found[f"test_{times}x"] = got.bits_per_byte
        found[f"test_{times}x_positions"] = [[each.last, each.bits_per_byte] for each in got.positions]
    return found


def runs_of(chosen: argparse.Namespace) -> Iterator[Run]:
    """In the order of what matters most."""
    if chosen.ablation:
        yield from (Run("hope", seed, variant) for seed in chosen.seed or [0] for variant in ABLATION)
        return
    for seed in chosen.seed or range(max(SEEDS.values())):
        yield from (Run(model, seed) for model in MODELS if seed < SEEDS.get(model, 1) or chosen.seed)


def _thinned(points: list[list[float]]) -> list[list[float]]:
    """Means of neighbours, about a hundred points."""
    share = max(1, len(points) // 100)
    groups = [points[begin : begin + share] for begin in range(0, len(points), share)]
    return [[sum(column) / len(group) for column in zip(*group)] for group in groups]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=None, help="folder with .txt files")
    parser.add_argument("--files", default="en_*.txt", help="pattern of their names")
    parser.add_argument("--out", type=Path, default=Path("runs/language_models"))
    parser.add_argument("--only", action="append", help="a model, or a variant of the ablation; several times")
    parser.add_argument("--seed", type=int, action="append", help="several times")
    parser.add_argument("--budget-tokens", type=int, default=BUDGET)
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="the grid, the same for all models")
    parser.add_argument("--optimizer", default="adamw", help="of all models, as `nestling train` takes it")
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="show what is done")
    parser.add_argument("--write", type=Path, default=None, metavar="FOLDER", help="write pages of what is done")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    bench = Bench(chosen)
    wanted = [run for run in runs_of(chosen) if not chosen.only or run.label in chosen.only]
    if not wanted:
        parser.error(f"--only {chosen.only}: expected names of {', '.join(ABLATION if chosen.ablation else MODELS)}")
    if chosen.list:
        for run in wanted:
            print(f"{'done' if bench.result(run) else '    '} {run.name}")
    elif chosen.write:
        results = [result for run in wanted if (result := bench.result(run))]
        write_pages(results, chosen.write, ablation=chosen.ablation)
    else:
        with quiet_transformers():
            for run in wanted:
                result = bench.do(run)
                print(
                    f"{run.name}: " + ", ".join(f"{key} {result[key]:.4f}" for key in ("test_1x", "test_4x")),
                    flush=True,
                )


if __name__ == "__main__":
    main()
