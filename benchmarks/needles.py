"""Trained language models taught to look for needles, and tested at and beyond the length of their lessons.

    python benchmarks/needles.py runs/lm/models/hope-seed*/training runs/lm/models/llama-seed0/training \\
        --books BOOKS --write docs/results

A model of `language_models.py` knows English letters, not what a question is. So each one is taught on examples of the
six needle tasks of the suite, in contexts of 1,024 tokens, with the loss of the answer alone, and is then asked for
needles that are new in texts that are new. The first 90 percent of every book are for the lessons (the models were
trained on them), the rest for the questions. Resumable: a model that was tested is in OUT.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from language_models_page import notes_of
from nestling.errors import DataError
from nestling.recipes.files import make_folder, write_atomically
from nestling.recipes.language.load import load_model, quiet_transformers
from nestling.recipes.machine import describe_machine
from nestling.recipes.suite.needle import EXTRA_TOKENS, NEEDLES, Example, found_share, make_example, sentences_of
from nestling.recipes.suite.reading import Reader

LENGTHS = (1024, 2048, 4096)
IGNORED = -100


@dataclass(frozen=True)
class Lessons:
    """How every model is taught.

    length: tokens of a context, at most.
    steps, batch, lr: of AdamW, with a tenth of the steps for warm-up and a cosine.
    """

    length: int = 1024
    steps: int = 400
    batch: int = 4
    lr: float = 1e-3


class Text:
    """Sentences of books, of the part for lessons and of the part for questions."""

    def __init__(self, folder: Path) -> None:
        files = sorted(folder.glob("en_*.txt"))
        if not files:
            raise DataError(f"{folder}: expected books named en_*.txt")
        books = [" ".join(path.read_text().split()) for path in files]
        self.lessons = [line for book in books for line in sentences_of(book[: len(book) * 9 // 10])]
        self.questions = [line for book in books for line in sentences_of(book[len(book) * 9 // 10 :])]


def example(task: str, length: int, haystack: list[str], reader: Reader, generator: random.Random) -> Example:
    return make_example(
        NEEDLES[task][1], length=length, haystack=haystack, num_tokens=reader.num_tokens, generator=generator
    )


def answer_of(found: Example) -> str:
    return " " + ", ".join(found.wanted) + "."


def batch_of(examples: Sequence[Example], reader: Reader) -> tuple[torch.Tensor, torch.Tensor]:
    """Token numbers, padded behind, and what is to be said next, with IGNORED everywhere but in the answers."""
    rows = [(reader.tokens(one.prompt), reader.tokens(answer_of(one))) for one in examples]
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    wanted = torch.full((len(rows), width), IGNORED)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        wanted[row, len(prompt) - 1 : end - 1] = torch.tensor(answer)
    return ids, wanted


def teach(reader: Reader, text: Text, how: Lessons, seed: int) -> list[float]:
    """Train the model in place; the loss of every step, nats per answer token."""
    model, generator, losses = reader.model, random.Random(seed), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=how.lr, weight_decay=0.01)
    warm = max(1, how.steps // 10)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warm, total_iters=warm),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, how.steps - warm),
        ],
        [warm],
    )
    model.train()
    for step in range(how.steps):
        names = [generator.choice(list(NEEDLES)) for _ in range(how.batch)]
        ids, wanted = batch_of([example(name, how.length, text.lessons, reader, generator) for name in names], reader)
        logits = model(input_ids=ids).logits
        loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            print(f"  {step + 1}/{how.steps} loss {statistics.mean(losses[-50:]):.3f}", flush=True)
    model.eval()
    return losses


def ask(reader: Reader, text: Text, lengths: Sequence[int], samples: int) -> dict[str, dict[str, float]]:
    """Share of the wanted values that are found, by task and length."""
    found: dict[str, dict[str, float]] = {}
    for task in NEEDLES:
        found[task] = {}
        for length in lengths:
            generator, shares = random.Random(f"{task} {length}"), []
            for _ in range(samples):
                one = example(task, length, text.questions, reader, generator)
                room = reader.num_tokens(" " + ", ".join(one.wanted)) + EXTRA_TOKENS
                shares.append(found_share(reader.go_on(one.prompt, max_new_tokens=room), one.wanted))
            found[task][str(length)] = statistics.mean(shares)
        print(f"  {task}: {found[task]}", flush=True)
    return found


def measure(folder: Path, text: Text, how: Lessons, samples: int) -> dict[str, Any]:
    """Teach and test one model."""
    name = (folder.parent if folder.name == "training" else folder).name
    seed = int(name.rpartition("seed")[2] or 0) if "seed" in name else 0
    torch.manual_seed(seed)
    with quiet_transformers():
        reader = Reader(*load_model(str(folder)))
    print(name, flush=True)
    began = time.process_time()
    losses = teach(reader, text, how, seed)
    return {
        "name": name,
        "model": name.rpartition("-seed")[0] or name,
        "loss": statistics.mean(losses[-50:]),
        "seconds": round(time.process_time() - began),
        "found": ask(reader, text, LENGTHS, samples),
        "samples": samples,
        "lessons": asdict(how),
    }


def page(results: Sequence[dict[str, Any]], target: Path) -> str:
    """The table for people."""
    models = list(dict.fromkeys(result["model"] for result in results))
    how, samples = results[0]["lessons"], results[0]["samples"]
    lines = [
        "# Needles: taught to look for them",
        "",
        f"Trained models of [language_models.md](language_models.md), each taught for {how['steps']} steps of "
        f"{how['batch']} examples in contexts of {how['length']} bytes (AdamW, rate {how['lr']:g}, loss of the answer "
        f"alone), then asked {samples} questions a task and length. Percent of the wanted values that were found: mean "
        "over the trained seeds, then the seeds. Made by [needles.py](../../benchmarks/needles.py).",
        "",
        "| task | length | " + " | ".join(models) + " |",
        "|---|---|" + "---|" * len(models),
    ]
    for task in NEEDLES:
        for length in map(str, LENGTHS):
            cells = [shown([run["found"][task][length] for run in results if run["model"] == one]) for one in models]
            lines.append(f"| {task} | {length} | " + " | ".join(cells) + " |")
    losses = [shown([run["loss"] for run in results if run["model"] == one], 1, 3) for one in models]
    lines.append("| loss at the end, nats per byte of answer | | " + " | ".join(losses) + " |")
    return "\n".join(lines) + "\n\n" + notes_of(target)


def shown(values: Sequence[float], times: float = 100, digits: int = 0) -> str:
    """The mean, and every seed where there are several."""
    each = ", ".join(f"{times * value:.{digits}f}" for value in values)
    return f"{times * statistics.mean(values):.{digits}f}" + (f" ({each})" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="trainings of language_models.py")
    parser.add_argument("--books", type=Path, required=True, help="folder with en_*.txt")
    parser.add_argument("--steps", type=int, default=Lessons.steps)
    parser.add_argument("--lr", type=float, default=Lessons.lr)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/needles"))
    parser.add_argument("--write", type=Path, help="folder for needles.md and needles.json")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    make_folder(chosen.out)
    text, how, results = Text(chosen.books), Lessons(steps=chosen.steps, lr=chosen.lr), []
    for folder in chosen.models:
        name = (folder.parent if folder.name == "training" else folder).name
        path = chosen.out / f"{name}-{how.steps}-{how.lr:g}.json"
        if not path.exists():
            write_atomically(path, json.dumps(measure(folder, text, how, chosen.samples)).encode())
        results.append(json.loads(path.read_text()))
    if chosen.write:
        content = {"machine": describe_machine(), "runs": results}
        write_atomically(chosen.write / "needles.json", (json.dumps(content, indent=1) + "\n").encode())
        target = chosen.write / "needles.md"
        write_atomically(target, page(results, target).encode())


if __name__ == "__main__":
    main()
