"""Books never seen, read by a trained Hope whose levels stand still or move: bits per byte of the second half.

    python benchmarks/online_levels.py runs/lm/models/hope-seed*/training --choose A.txt B.txt --test C.txt D.txt \\
        --out runs/online --write docs/results

Every text is one context from first to last byte, in both cases: states of mixers go on. What is chosen (inner
rate and update periods) is chosen with the first training on the texts of --choose, by the second half, and used for
all. Same weights, so same parameters. Resumable: a text that was read is in OUT.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from language_models_page import notes_of
from nestling.models.hope import HopeForCausalLM, read
from nestling.recipes.files import make_folder, write_atomically
from nestling.recipes.language.evaluate import Text, evaluate_text
from nestling.recipes.language.load import find_model, quiet_transformers
from nestling.recipes.machine import describe_machine

RATES = (0.1, 0.3, 1.0, 3.0)
SHORTEST = (32, 128, 512)
TIMES = 4
LENGTH = 512
STATIC = (0, 0.0)


@dataclass(frozen=True)
class Cell:
    """One text read by one model. shortest: update period of the first level, 0: static."""

    model: str
    text: str
    tokens: int
    shortest: int
    rate: float
    first: float
    second: float
    seconds: float


class Reader:
    """Reads texts with models, each once."""

    def __init__(self, out: Path, tokens: int) -> None:
        self.out, self.tokens = out, tokens

    def read(self, model: Path, text: Path, shortest: int, rate: float) -> Cell:
        """Bits per byte of the halves of a text; from the file if it was read before."""
        name = model.parent.name
        path = self.out / f"{name}-{text.stem}-{self.tokens}-{shortest}-{rate:g}.json"
        if not path.exists():
            began = time.perf_counter()
            losses = self._losses(model, text, shortest, rate) / math.log(2)
            first, second = (half.double().mean().item() for half in losses.tensor_split(2))
            found = Cell(name, text.stem, len(losses), shortest, rate, first, second, time.perf_counter() - began)
            write_atomically(path, json.dumps(asdict(found)).encode())
            print(found, flush=True)
        return Cell(**json.loads(path.read_text()))

    def static_in_contexts(self, model: Path, text: Path) -> float:
        """Bits per byte of the second half with standing levels in fresh contexts of the length of training."""
        path = self.out / f"{model.parent.name}-{text.parent.name}-{text.stem}-{self.tokens}-contexts.json"
        if not path.exists():
            with quiet_transformers():
                loaded = AutoModelForCausalLM.from_pretrained(find_model(str(model))).eval()
            ids = torch.tensor(list(text.read_bytes()[: self.tokens + 1]))[self.tokens // 2 :]
            found = evaluate_text(loaded, Text(ids=ids, bytes=(ids < 256).long()), length=LENGTH, memory="frozen")
            write_atomically(path, json.dumps(found.bits_per_byte).encode())
        return json.loads(path.read_text())

    def _losses(self, model: Path, text: Path, shortest: int, rate: float) -> torch.Tensor:
        options: dict[str, Any] = (
            {"update_periods": [shortest * TIMES**level for level in range(4)]} if shortest else {}
        )
        if shortest:
            options |= {"continuum_mode": "online", "continuum_objective": "next_token", "continuum_inner_rate": rate}
        with quiet_transformers():
            loaded = AutoModelForCausalLM.from_pretrained(find_model(str(model)), **options).eval()
        assert isinstance(loaded, HopeForCausalLM)
        ids = torch.tensor(list(text.read_bytes()[: self.tokens + 1]))[None]
        with torch.set_grad_enabled(shortest > 0):
            return read(loaded, ids, learn=shortest > 0)[0][0]


def choose(reader: Reader, model: Path, texts: list[Path]) -> tuple[int, float]:
    """The periods and the rate with the lowest mean of the second halves."""
    found = {
        (shortest, rate): statistics.fmean(reader.read(model, text, shortest, rate).second for text in texts)
        for shortest in SHORTEST
        for rate in RATES
    }
    return min(found, key=lambda how: found[how])


def rows_of(reader: Reader, models: list[Path], texts: list[Path], how: tuple[int, float]) -> list[dict[str, Any]]:
    """Per text: static and moving levels, mean and standard deviation over trainings, and what the moves save."""
    rows = []
    for text in texts:
        pairs = [(reader.read(model, text, *STATIC), reader.read(model, text, *how)) for model in models]
        short = [reader.static_in_contexts(model, text) for model in models]
        gains = [1 - moving.second / still.second for still, moving in pairs]
        rows.append(
            {
                "text": f"{text.parent.name}/{text.stem}",
                "static": [still.second for still, _ in pairs],
                "static_first": [still.first for still, _ in pairs],
                "online": [moving.second for _, moving in pairs],
                "online_first": [moving.first for _, moving in pairs],
                "gain": gains,
                "static_in_contexts": short,
                "gain_in_contexts": [1 - moving.second / bits for (_, moving), bits in zip(pairs, short)],
            }
        )
    return rows


def page(reader: Reader, chosen: argparse.Namespace, how: tuple[int, float], rows: list[dict[str, Any]]) -> str:
    """The tables as Markdown."""
    names = ", ".join(text.stem for text in chosen.choose)
    lines = [
        "# Levels that learn while they read",
        "",
        f"Bits per byte of the second half of the first {chosen.tokens:,} bytes of texts that no model was trained on,",
        "each read as one context by the trained Hope models of [language_models.md](language_models.md): the same",
        f"weights with levels that stand still, and with levels that move by next-token loss. {len(chosen.models)}",
        f"trainings; inner rate and update periods were chosen with the first one on {names}. Made by",
        "[online_levels.py](../../benchmarks/online_levels.py).",
        "",
        f"Chosen: first level every {how[0]} bytes, each further one {TIMES} times as long, inner rate {how[1]:g}.",
        "",
        f"| text | static | moving | saved | static, contexts of {LENGTH} | saved | first half: static, moving |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['text']} | {_spread(row['static'])} | {_spread(row['online'])} | "
        f"{_spread([100 * gain for gain in row['gain']], 1)} % | {_spread(row['static_in_contexts'])} | "
        f"{_spread([100 * gain for gain in row['gain_in_contexts']], 1)} % | "
        f"{_spread(row['static_first'])}, {_spread(row['online_first'])} |"
        for row in rows
    ]
    lines += ["", f"The choice, with the first training, mean over {names}, second half:", ""]
    lines += [
        "| first period | " + " | ".join(f"rate {rate:g}" for rate in RATES) + " |",
        "|---|" + "---|" * len(RATES),
    ]
    model = chosen.models[0]
    for shortest in SHORTEST:
        found = [
            statistics.fmean(reader.read(model, text, shortest, rate).second for text in chosen.choose)
            for rate in RATES
        ]
        lines.append(f"| {shortest} | " + " | ".join(f"{value:.4f}" for value in found) + " |")
    still = statistics.fmean(reader.read(model, text, *STATIC).second for text in chosen.choose)
    return "\n".join([*lines, "", f"Static: {still:.4f}.", ""])


def _spread(values: list[float], digits: int = 4) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", help="folders of trainings")
    parser.add_argument("--choose", type=Path, nargs="+", required=True)
    parser.add_argument("--test", type=Path, nargs="+", required=True)
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--out", type=Path, default=Path("runs/online"))
    parser.add_argument("--write", type=Path, default=None, help="folder for the page")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    make_folder(chosen.out)
    reader = Reader(chosen.out, chosen.tokens)
    how = choose(reader, chosen.models[0], chosen.choose)
    rows = rows_of(reader, chosen.models, chosen.test, how)
    text = page(reader, chosen, how, rows)
    print(text)
    if chosen.write is not None:
        path = chosen.write / "online_levels.md"
        write_atomically(path, (text + notes_of(path)).encode())
        content = {"machine": describe_machine(), "chosen": how, "rows": rows}
        write_atomically(chosen.write / "online_levels.json", json.dumps(content, indent=1).encode())


if __name__ == "__main__":
    main()
