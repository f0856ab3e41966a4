"""The test part of the comparison of language models, read by trained Hopes whose levels stand still or move.

    python benchmarks/moving_levels.py runs/lm/models/hope-seed*/training --out runs/moving --write docs/results

The same weights and the same contexts as in `language_models.py`; every context begins with the trained weights, and a
byte is predicted before anything is learned from it. Update period and inner rate are chosen with the first training,
by a piece of the validation part, for each length of the contexts. Resumable: what was read is in OUT.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from language_models_page import notes_of
from nestling.recipes.files import make_folder, write_atomically
from nestling.recipes.language.corpus import find_corpus, split_corpus
from nestling.recipes.language.evaluate import Text, evaluate_text
from nestling.recipes.language.load import find_model, quiet_transformers
from nestling.recipes.language.recipe import RECIPE, read_recipe
from nestling.recipes.language.token_data import encode
from nestling.recipes.language.tokenizer import load_tokenizer
from nestling.recipes.machine import describe_machine

LENGTHS = (512, 2048)
# Update period of the first level, how many times as long each further one is, inner rate.
Moves = tuple[int, int, float]
CHOICES: tuple[Moves, ...] = tuple(
    (period, times, rate) for period, times in ((16, 2), (32, 1), (32, 2), (64, 1)) for rate in (0.5, 1.0, 1.5)
)
STILL: Moves = (0, 1, 0.0)
CHOICE_TOKENS = 40_960


class Reader:
    """Reads parts of the data of a training, each once."""

    def __init__(self, out: Path) -> None:
        self.out = out
        make_folder(out)

    def read(self, training: Path, part: str, length: int, moves: Moves, most: int | None = None) -> dict[str, Any]:
        """Bits per byte, and by place in the context; from the file if it was read before."""
        period, times, rate = moves
        path = self.out / f"{training.parent.name}-{part}-{length}-{most or 'all'}-{period}-{times}-{rate:g}.json"
        if not path.exists():
            text = text_of(training, part)
            memory = "learning" if period else "frozen"
            found = evaluate_text(_model(training, moves), text, length=length, memory=memory, most_tokens=most)
            places = [(place.last, place.bits_per_byte) for place in found.positions]
            content = {"training": training.parent.name, "part": part, "length": length, "moves": moves}
            content |= {"bits": found.bits_per_byte, "places": places}
            write_atomically(path, json.dumps(content).encode())
            print(path.stem, f"{found.bits_per_byte:.4f}", flush=True)
        return json.loads(path.read_text())


def text_of(training: Path, part: str) -> Text:
    """A part of the texts of a training, cut as the training cut them."""
    recipe = read_recipe(training / RECIPE)
    shares = {"validation": recipe.validation_share, "test": recipe.test_share}
    corpus = split_corpus(find_corpus(recipe.data, column=recipe.column), **shares, seed=recipe.seed)
    tokens = encode(corpus[part], load_tokenizer(recipe.tokenizer), recipe.tokenizer)
    ids = torch.from_numpy(tokens.astype("int64"))
    return Text(ids=ids, bytes=(ids < 256).long())


def _model(training: Path, moves: Moves) -> Any:
    period, times, rate = moves
    options: dict[str, Any] = {}
    if period:
        options = {
            "update_periods": [period * times**level for level in range(4)],
            "continuum_mode": "online",
            "continuum_objective": "next_token",
            "continuum_inner_rate": rate,
        }
    with quiet_transformers():
        return AutoModelForCausalLM.from_pretrained(find_model(str(training)), **options).eval()


def shown(values: Sequence[float], digits: int = 4) -> str:
    """Mean and standard deviation."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def page(reader: Reader, trainings: list[Path], best: dict[int, Moves], target: Path) -> str:
    """The tables as Markdown."""
    lines = [
        "# Levels that move within the contexts of the comparison",
        "",
        "Bits per byte of the test part of [language_models.md](language_models.md), read by its trained Hope models",
        "with levels that stand still, and with levels that move by next-token loss; every context begins with the",
        f"trained weights. {len(trainings)} trainings. Periods and rate were chosen with the first one by",
        f"{CHOICE_TOKENS:,} bytes of the validation part. Made by "
        "[moving_levels.py](../../benchmarks/moving_levels.py).",
        "",
        "| context | periods | inner rate | standing | moving | less, seed by seed |",
        "|---|---|---|---|---|---|",
    ]
    for length, moves in best.items():
        period, times, rate = moves
        still, moving = (
            [reader.read(training, "test", length, how)["bits"] for training in trainings] for how in (STILL, moves)
        )
        less = shown([before - after for before, after in zip(still, moving)])
        periods = ", ".join(str(period * times**level) for level in range(4))
        lines.append(f"| {length} | {periods} | {rate:g} | {shown(still)} | {shown(moving)} | {less} |")
    lines += ["", "The choice (validation, first training):", ""]
    lines += ["| first period, times | " + " | ".join(f"{length}, rate {rate:g}" for length in LENGTHS
              for rate in dict.fromkeys(choice[2] for choice in CHOICES)) + " |"]  # fmt: skip
    lines += ["|---|" + "---|" * (len(LENGTHS) * len({choice[2] for choice in CHOICES}))]
    for begin in dict.fromkeys(choice[:2] for choice in CHOICES):
        cells = [
            f"{reader.read(trainings[0], 'validation', length, choice, CHOICE_TOKENS)['bits']:.4f}"
            for length in LENGTHS
            for choice in CHOICES
            if choice[:2] == begin
        ]
        lines.append(f"| {begin[0]}, {begin[1]} | " + " | ".join(cells) + " |")
    standing = (
        f"{length}: {reader.read(trainings[0], 'validation', length, STILL, CHOICE_TOKENS)['bits']:.4f}"
        for length in LENGTHS
    )
    lines += ["", f"Standing: {'; '.join(standing)}.", ""]
    return "\n".join(lines) + notes_of(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainings", nargs="+", type=Path, help="folders of `nestling train`")
    parser.add_argument("--out", type=Path, default=Path("runs/moving"))
    parser.add_argument("--write", type=Path, help="folder for moving_levels.md and .json")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    reader, first = Reader(chosen.out), chosen.trainings[0]
    best: dict[int, Moves] = {}
    for length in LENGTHS:
        reader.read(first, "validation", length, STILL, CHOICE_TOKENS)
        scores = {how: reader.read(first, "validation", length, how, CHOICE_TOKENS)["bits"] for how in CHOICES}
        best[length] = min(scores, key=lambda how: scores[how])
    results = [
        reader.read(training, "test", length, how)
        for training in chosen.trainings
        for length, moves in best.items()
        for how in (STILL, moves)
    ]
    if chosen.write:
        target = chosen.write / "moving_levels.md"
        write_atomically(target, page(reader, chosen.trainings, best, target).encode())
        content = {"machine": describe_machine(), "runs": results}
        write_atomically(chosen.write / "moving_levels.json", (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
