"""The benchmark: intents arrive a group at a time; strategies on a model's states, and examples in its prompt."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nestling.errors import DataError, InputError, UnknownNameError
from nestling.files import make_folder, write_atomically
from nestling.models.nested_lm.measured import model_hash
from nestling.models.pretrained import load_language_model
from nestling.recipes.intents.encoder import EchoEncoder
from nestling.recipes.intents.in_context import InContext
from nestling.recipes.intents.parts import DATA, Parts, parts, stream_of, texts_of
from nestling.recipes.learn import learn
from nestling.streams.intents import Encoder

__all__ = ["IN_CONTEXT", "IntentsPlan", "IntentsResult", "run_intents"]

IN_CONTEXT = ("in_context", "in_context_nearest")
NEAREST = 20

Report = Callable[[str], None]


@dataclass(frozen=True)
class IntentsPlan:
    """What is run.

    Args: model: name or folder.   data: names in `DATA`.   arms: of `IN_CONTEXT`, or strategies with their options.
        seeds: >= 1, each another order of the classes (Banking77: and another test fold).   queries: sentences asked of
        the in-context arms.   folder: of the data, NESTLING_DATA when None.   validate: ask for CLINC150's validation
        part.
    """

    model: str
    data: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: int = 1
    queries: int = 200
    folder: Path | None = None
    validate: bool = False

    def __post_init__(self) -> None:
        for name in self.data:
            if name not in DATA:
                raise UnknownNameError("data set", name, DATA)
        if min(self.seeds, self.queries) < 1 or not self.arms or not self.data:
            raise InputError("expected at least one data set, arm, seed and query")

    @property
    def strategies(self) -> tuple[str, ...]:
        """Arms that learn."""
        return tuple(arm for arm in self.arms if arm not in IN_CONTEXT)


@dataclass(frozen=True)
class IntentsResult:
    """One arm and seed on one data set.

    Args: accuracy: of all classes in the end, 0 to 1.   forgetting: mean loss of the earlier groups since each was
        learned; None for arms that learn nothing.   queries: test sentences asked.   stored: bytes of text kept.
        state: bytes of what is kept beside the model.   prompt_tokens: before the question.
    """

    data: str
    arm: str
    seed: int
    accuracy: float
    forgetting: float | None
    queries: int
    stored: int
    state: int
    prompt_tokens: int
    seconds: float


def run_intents(plan: IntentsPlan, out: Path, report: Report) -> list[IntentsResult]:
    """Run every arm and seed that has no result in `out` yet; return all, data set by data set.

    Raises: what `load_language_model`, the readers of the data and `nestling.learn` raise.
    """
    make_folder(out)
    model, tokenizer = load_language_model(plan.model)
    encoder = EchoEncoder(model, tokenizer, plan.model, report)
    results: list[IntentsResult] = []
    for name in plan.data:
        identity = _identity(plan, name, model)
        if set(plan.arms) != {IN_CONTEXT[0]}:  # needs no features
            for texts in texts_of(name, plan.folder, validate=plan.validate):
                encoder.prepare(texts)
        for arm in plan.strategies:
            results += _learned(plan, name, arm, encoder.for_streams(identity), out)
        for arm in (each for each in plan.arms if each in IN_CONTEXT):
            for seed in range(plan.seeds):
                path = out / f"{name}-{arm}-{plan.queries}-seed{seed}.json"
                if not path.exists():
                    found = _asked(plan, name, arm, seed, (model, tokenizer), encoder, report)
                    content = {"identity": identity, "result": asdict(found)}
                    write_atomically(path, json.dumps(content, indent=1).encode())
                results.append(_load(path, identity))
    return results


def _identity(plan: IntentsPlan, name: str, model: Any) -> dict[str, str]:
    """What a result is of, beside what its file is called: results of something else are not taken for it."""
    digest = hashlib.sha256(json.dumps(texts_of(name, plan.folder, validate=plan.validate)).encode())
    part = "validation" if plan.validate else "test"
    return {"model": model_hash(model), "sentences": digest.hexdigest(), "part": part}


def _learned(plan: IntentsPlan, name: str, arm: str, encoder: Encoder, out: Path) -> list[IntentsResult]:
    stream = stream_of(name, plan.folder, encoder, validate=plan.validate)
    learned = learn(
        stream=stream,
        strategies=[arm],
        seeds=plan.seeds,
        order="shuffled",
        out=out / f"{name}-{arm.replace(':', '-')}",  # by itself, so that arms can be left out of a later call
        resume=True,
        threads=torch.get_num_threads(),
    )
    return [
        IntentsResult(
            data=name,
            arm=run.strategy,
            seed=run.seed,
            accuracy=run.average_accuracy,
            forgetting=run.forgetting,
            queries=sum(len(each.test) for each in stream.experiences),
            stored=run.stored_bytes,
            state=run.state_bytes,
            prompt_tokens=0,
            seconds=run.seconds,
        )
        for run in learned.runs
    ]


def _asked(
    plan: IntentsPlan, name: str, arm: str, seed: int, pretrained: tuple[Any, Any], encoder: EchoEncoder, report: Report
) -> IntentsResult:
    """Accuracy of a reader of examples on a sample of the test part."""
    data = parts(name, seed, plan.folder, validate=plan.validate)
    drawn = random.Random(seed)
    places = drawn.sample(range(len(data.test.texts)), min(plan.queries, len(data.test.texts)))
    reader = InContext(*pretrained, data.train.classes)
    nearest = _nearest(data, places, encoder) if arm == "in_context_nearest" else None
    began, right, kept = time.perf_counter(), 0, data.train.texts
    if nearest is None:
        examples = _one_each(data, drawn)
        shown = reader.show(examples)
        kept = [text for text, _ in examples[:shown]]
        if shown < len(examples):
            report(f"{name}, seed {seed}: the prompt has room for {shown} of {len(examples)} examples")
    for number, place in enumerate(places):
        if nearest is not None:
            reader.show([(data.train.texts[n], data.train.labels[n]) for n in nearest[number]])
        right += reader.choose(data.test.texts[place]) == data.test.labels[place]
        if (number + 1) % 50 == 0:
            report(f"{name}, {arm}, seed {seed}: {number + 1} of {len(places)} asked, {right / (number + 1):.2f} right")
    return IntentsResult(
        data=name,
        arm=arm,
        seed=seed,
        accuracy=right / len(places),
        forgetting=None,
        queries=len(places),
        stored=sum(len(text.encode()) for text in kept),
        state=0,
        prompt_tokens=reader.prompt_tokens,
        seconds=time.perf_counter() - began,
    )


def _one_each(data: Parts, drawn: random.Random) -> list[tuple[str, int]]:
    """One sentence of every class, in random order."""
    of_class: dict[int, list[str]] = {}
    for text, label in zip(data.train.texts, data.train.labels, strict=True):
        of_class.setdefault(label, []).append(text)
    examples = [(drawn.choice(texts), label) for label, texts in sorted(of_class.items())]
    drawn.shuffle(examples)
    return examples


def _nearest(data: Parts, places: Sequence[int], encoder: EchoEncoder) -> list[list[int]]:
    """For each asked sentence the nearest training sentences, the nearest last."""
    known = encoder.read(data.train.texts)
    asked = encoder.read([data.test.texts[place] for place in places])
    return (asked @ known.T).topk(min(NEAREST, len(known)), dim=1).indices.flip(1).tolist()


def _load(path: Path, identity: Mapping[str, str]) -> IntentsResult:
    try:
        saved = json.loads(path.read_text())
        result, was = IntentsResult(**saved["result"]), saved["identity"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: not a result of this benchmark ({error}); remove it to run it again") from error
    if was != identity:
        differ = ", ".join(key for key in identity if was.get(key) != identity[key])
        raise InputError(f"{path} was made with something else ({differ}): choose another --out")
    return result
