"""What each level of the language continuum contributes on the text stream, in bits per byte.

    python benchmarks/text_forgetting.py --seeds 3 --out text_forgetting.json

Per seed the module is trained twice through the stream: naively, and with dreams (the strategy). From the same two
runs come the controls: counts alone, counts beside the naive module (no dreams), beside a module frozen after the first
experience, and the purely neural alternative (a copy of the naive module kept after every experience, gated by the
evidence of the window).
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from nestling.learners.base import Strategy
from nestling.learners.continuum_language import LanguageContinuum
from nestling.learners.joint import Joint
from nestling.learners.naive import Naive
from nestling.memory.evidence_gate import evidence_gate
from nestling.streams.base import Experience, Stream
from nestling.streams.byte_model import ByteModel
from nestling.streams.text import bits_per_byte, text_stream

Answer = Callable[[Tensor], Tensor]
Scores = dict[str, list[float]]


def module_answer(module: nn.Module) -> Answer:
    @torch.no_grad()
    def answer(inputs: Tensor) -> Tensor:
        return module(inputs).log_softmax(-1)

    return answer


def remembered(answer: Answer) -> Answer:
    """The same answers, computed once for the same inputs."""
    known: dict[bytes, Tensor] = {}

    def again(inputs: Tensor) -> Tensor:
        key = inputs.numpy().tobytes()
        if key not in known:
            known[key] = answer(inputs)
        return known[key]

    return again


def gated(*answers: Answer) -> Answer:
    def answer(inputs: Tensor) -> Tensor:
        return evidence_gate([one(inputs) for one in answers], inputs)[0]

    return answer


def learn(strategy: Strategy, experience: Experience) -> None:
    for _ in strategy.learn(experience.train):
        pass


def fresh(stream: Stream, seed: int, hidden: int = 256) -> nn.Module:
    torch.manual_seed(seed)
    return stream.make_model() if hidden == 256 else ByteModel(hidden=hidden)


class Table:
    """Scores right after learning (diagonal) and after everything (last), by variant."""

    def __init__(self, stream: Stream, seed: int) -> None:
        self.stream, self.seed = stream, seed
        self.learned: Scores = {}
        self.last: Scores = {}

    def score(self, variants: dict[str, Answer], index: int) -> None:
        """Score the experience just learned, and all of them after the last."""
        experiences = self.stream.experiences
        for name, answer in variants.items():
            self.learned.setdefault(name, []).append(bits_per_byte(answer, experiences[index]))
            if index == len(experiences) - 1:
                self.last[name] = [bits_per_byte(answer, experience) for experience in experiences]

    def rows(self) -> list[dict[str, object]]:
        """Print and return a row per variant; `lost` is the mean rise in bits per byte since each was learned."""
        rows: list[dict[str, object]] = []
        for name, last in self.last.items():
            learned = self.learned.get(name, [])
            lost = [b - a for a, b in zip(learned, last)][:-1]
            row = {
                "variant": name,
                "seed": self.seed,
                "learned": learned,
                "last": last,
                "final_average": sum(last) / len(last),
                "lost": sum(lost) / len(lost) if lost else None,
            }
            rows.append(row)
            shown = " ".join(f"{value:.3f}" for value in last)
            lost_text = "-" if row["lost"] is None else f"{row['lost']:+.3f}"
            newest = f"{learned[-1]:.3f}" if learned else "-"
            print(
                f"{self.seed} {name:24} lost {lost_text} average {row['final_average']:.3f} newest {newest} | {shown}"
            )
        return rows


def run_seed(stream: Stream, seed: int, *, joint: bool, wide: int) -> list[dict[str, object]]:
    table = Table(stream, seed)
    options = {"training": stream.training, "seed": seed}
    naive = Naive(fresh(stream, seed), stream.problem, **options)
    ours = LanguageContinuum(fresh(stream, seed), stream.problem, **options)
    big = Naive(fresh(stream, seed, wide), stream.problem, **options) if wide else None
    copies: list[Answer] = []
    for index, experience in enumerate(stream.experiences):
        began = time.perf_counter()
        learn(naive, experience)
        middle = time.perf_counter()
        learn(ours, experience)
        copies.append(module_answer(copy.deepcopy(naive.module)))
        counts = remembered(lambda inputs: ours.memory.log_probs(inputs, window_weight=ours.window_weight))
        variants = {
            "naive": copies[-1],
            "continuum": ours.predict,
            "its module alone": module_answer(ours.module),
            "its counts alone": counts,
            "counts without window": ours.memory.log_probs,
            "no dreams": gated(copies[-1], counts),
            "module frozen after 1": gated(copies[0], counts),
            f"gated copies ({len(stream.experiences)})": gated(*copies),
        }
        if big is not None:
            learn(big, experience)
            variants[f"naive, hidden {wide}"] = module_answer(big.module)
        table.score(variants, index)
        spent = f"naive {middle - began:.0f} s, continuum {time.perf_counter() - middle:.0f} s with the scores"
        size = f"{ours.memory.num_entries()} counts, {ours.state_bytes() / 1e6:.1f} MB"
        print(f"{seed} {experience.name}: {spent}; {size}", flush=True)
    if joint:
        table.last["joint"] = joint_scores(stream, seed)
    return table.rows()


def joint_scores(stream: Stream, seed: int) -> list[float]:
    strategy = Joint(fresh(stream, seed), stream.problem, training=stream.training, seed=seed)
    strategy.seen = [experience.train for experience in stream.experiences[:-1]]
    learn(strategy, stream.experiences[-1])
    return [bits_per_byte(strategy.predict, experience) for experience in stream.experiences]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--train-bytes", type=int, default=200_000)
    parser.add_argument("--test-bytes", type=int, default=40_000)
    parser.add_argument("--books", default=None)
    parser.add_argument("--joint", action="store_true")
    parser.add_argument("--wide", type=int, default=0, help="also a naive module with so many hidden units")
    parser.add_argument("--out", type=Path, default=None)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    stream = text_stream(books=chosen.books, train_bytes=chosen.train_bytes, test_bytes=chosen.test_bytes)
    if chosen.epochs is not None:
        stream = replace(stream, training=replace(stream.training, epochs=chosen.epochs))
    rows = []
    for seed in range(chosen.first_seed, chosen.first_seed + chosen.seeds):
        rows += run_seed(stream, seed, joint=chosen.joint, wide=chosen.wide)
        if chosen.out is not None:
            chosen.out.write_text(json.dumps({"source_hash": stream.source_hash, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
