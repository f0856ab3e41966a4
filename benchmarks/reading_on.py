"""The books of the training read on: what is gained by learning while reading, and is it the levels that gain it?

    python benchmarks/reading_on.py --data BOOKS hope=runs/muon/models/hope-seed0/training \\
        hope=runs/muon/models/hope-seed1/training mamba2=runs/muon/models/mamba2-seed0/training --write docs/results

MODEL=FOLDER names trainings of `language_models.py`. The test part of the same books is read in five ways:

    short    contexts of 512 bytes, the length of the training, nothing moves
    long     contexts of 16,384 bytes, nothing moves
    levels   the same, the levels of Hope move by next-token loss; what was learned is gone at the end of a context
    stream   the same in one context from the first byte to the last; what was learned may fade (retention at a move)
    weights  dynamic evaluation (Krause et al., arXiv 1709.07432), for any model: contexts of 512 in order, after each
             one step of plain gradient descent on its loss by all weights, which stay moved until the end of the part

What `levels`, `stream` and `weights` need (periods, rates, retention) is chosen per model with its first training on
the beginning of the validation part. Every byte is predicted before anything is learned from it. Resumable: what was
read is in --out.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from language_models import find_data
from language_models_page import notes_of
from nestling.models.hope import read
from nestling.recipes.files import make_folder, write_atomically
from nestling.recipes.language.corpus import find_corpus, split_corpus
from nestling.recipes.language.load import load_model
from nestling.recipes.machine import describe_machine

SHORT, LONG = 512, 16_384
CHOICE = 3 * LONG
PERIODS, TIMES, LEVELS = (32, 128), 4, 4
RATES = (0.1, 0.3, 1.0, 3.0)
RETENTION = 0.999
WEIGHT_RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
CLIP = 1.0
NAME = "reading_on"
WAYS = ("short", "long", "levels", "stream", "weights")


def bits(losses: Tensor) -> float:
    """Bits per byte of losses in nats."""
    return losses.double().mean().item() / math.log(2)


def contexts(ids: Tensor, length: int) -> Tensor:
    """[N, length + 1], each beginning with the last byte of the one before."""
    count = (len(ids) - 1) // length
    return ids[: count * length + 1].unfold(0, length + 1, length)


@torch.no_grad()
def read_still(folder: Path, ids: Tensor, length: int) -> float:
    """Nothing moves."""
    model, _ = load_model(str(folder))
    rows = contexts(ids, length).split(max(1, 2 * LONG // length))
    return bits(torch.cat([_losses(model, part) for part in rows]))


def _losses(model: Any, rows: Tensor) -> Tensor:
    logits = model(rows[:, :-1], use_cache=False).logits.float()
    return F.cross_entropy(logits.mT, rows[:, 1:], reduction="none")


def read_levels(folder: Path, ids: Tensor, length: int, period: int, rate: float, retention: float = 1.0) -> float:
    """The levels of Hope move; contexts side by side."""
    periods = [period * TIMES**level for level in range(LEVELS)]
    model, _ = load_model(str(folder), learning=True, inner_rate=rate, periods=periods, retention=retention)
    return bits(read(model, contexts(ids, length))[0])


def read_weights(folder: Path, ids: Tensor, rate: float) -> float:
    """All weights move."""
    model, _ = load_model(str(folder))
    weights = list(model.parameters())
    for weight in weights:
        weight.requires_grad_()
    optimizer = torch.optim.SGD(weights, lr=rate)
    found = []
    for row in contexts(ids, SHORT).split(1):
        losses = _losses(model, row)
        found.append(losses.detach())
        optimizer.zero_grad()
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, CLIP)
        optimizer.step()
    return bits(torch.cat(found))


class Reader:
    """Reads parts of the books, each once per training and way."""

    def __init__(self, out: Path, parts: dict[str, Tensor]) -> None:
        self.out, self.parts = out, parts

    def read(self, folder: Path, part: str, way: str, *how: float) -> float:
        """Bits per byte; from the file if it was read before."""
        name = "-".join([folder.parent.name, part, way, *map(str, how)])
        path = self.out / f"{name}.json"
        if not path.exists():
            ids = self.parts[part]
            ways: dict[str, Callable[[], float]] = {
                "short": lambda: read_still(folder, ids, SHORT),
                "long": lambda: read_still(folder, ids, LONG),
                "levels": lambda: read_levels(folder, ids, LONG, int(how[0]), how[1]),
                "stream": lambda: read_levels(folder, ids, len(ids) - 1, int(how[0]), *how[1:]),
                "weights": lambda: read_weights(folder, ids, how[0]),
            }
            write_atomically(path, json.dumps(ways[way]()).encode())
            print(f"{name}: {path.read_text()}", flush=True)
        return json.loads(path.read_text())

    def choice(self, folder: Path, way: str) -> dict[tuple[float, ...], float]:
        """Bits of the validation part for everything that may be chosen."""
        levels = [(period, rate) for period in PERIODS for rate in RATES]
        fading = [(*how, RETENTION) for how in levels] if way == "stream" else []
        grid = [(rate,) for rate in WEIGHT_RATES] if way == "weights" else levels + fading
        return {how: self.read(folder, "validation", way, *how) for how in grid}


def row_of(reader: Reader, model: str, folders: list[Path]) -> dict[str, Any]:
    """Of all trainings of a model."""
    row: dict[str, Any] = {"model": model}
    for way in ("short", "long"):
        row[way] = [reader.read(folder, "test", way) for folder in folders]
    for way in ("levels", "stream", "weights") if model.startswith("hope") else ("weights",):
        choice = reader.choice(folders[0], way)
        chosen = min(choice, key=lambda how: choice[how])
        row[way] = [reader.read(folder, "test", way, *chosen) for folder in folders]
        row[f"{way}_choice"] = [[*how, value] for how, value in choice.items()]
        row[f"{way}_chosen"] = chosen
    return row


def page(rows: list[dict[str, Any]], sizes: dict[str, int]) -> str:
    """The tables as Markdown."""
    lines = [
        "# Reading on",
        "",
        f"Bits per byte of the test part ({sizes['test']:,} bytes) of the books that the models were trained on,",
        f"mean and standard deviation over trainings. short: contexts of {SHORT}, nothing moves; long: contexts of",
        f"{LONG:,}, nothing moves; levels: the same, the levels of Hope move; stream: so in one context from the",
        f"first byte to the last; weights: contexts of {SHORT} in order, one step of gradient descent by all weights",
        "after each (dynamic evaluation). Rates and periods are chosen on the first",
        f"{sizes['validation']:,} bytes of the validation part. Made by",
        "[reading_on.py](../../benchmarks/reading_on.py), trainings by",
        "[language_models.py](../../benchmarks/language_models.py).",
        "",
        "| | short | long | levels | stream | weights | trainings |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [spread(row[way]) if way in row else "" for way in WAYS]
        lines.append(f"| {row['model']} | " + " | ".join(cells) + f" | {len(row['short'])} |")
    lines += ["", "What was chosen, by the validation part with the first training:", ""]
    for row in rows:
        for way in ("levels", "stream", "weights"):
            if way in row:
                names = ("rate",) if way == "weights" else ("first period", "rate", "retention")
                tried = [
                    ", ".join(f"{name} {value:g}" for name, value in zip(names, found[:-1])) + f": {found[-1]:.4f}"
                    for found in row[f"{way}_choice"]
                ]
                lines.append(f"- {row['model']}, {way}: " + "; ".join(tried))
    return "\n".join([*lines, ""])


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    mean = f"{statistics.fmean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL=FOLDER", help="folders of trainings")
    parser.add_argument("--data", default=None, help="folder with .txt files")
    parser.add_argument("--files", default="en_*.txt", help="pattern of their names")
    parser.add_argument("--out", type=Path, default=Path("runs/reading_on"))
    parser.add_argument("--write", type=Path, default=None, help="folder for the page")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    make_folder(chosen.out)
    folders: dict[str, list[Path]] = {}
    for given in chosen.models:
        model, _, folder = given.partition("=")
        folders.setdefault(model, []).append(Path(folder))
    corpus = split_corpus(find_corpus(str(find_data(chosen.data, chosen.files))), validation=0.05, test=0.05, seed=0)
    parts = {part: torch.tensor(list(b"".join(corpus[part]))) for part in ("validation", "test")}
    parts["validation"] = parts["validation"][: CHOICE + 1]
    reader = Reader(chosen.out, parts)
    rows = [row_of(reader, model, group) for model, group in folders.items()]
    text = page(rows, {part: len(ids) for part, ids in parts.items()})
    print(text)
    if chosen.write is not None:
        path = chosen.write / f"{NAME}.md"
        write_atomically(path, (text + notes_of(path)).encode())
        content = {"machine": describe_machine(), "rows": rows}
        write_atomically(path.with_suffix(".json"), (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
