"""Needle in a haystack: sentences with a key and a value stand in a long text, and the value is asked for.

    needle_single_1    a number, in noise                       S-NIAH-1
    needle_single_2    a number, in real text                   S-NIAH-2
    needle_single_3    a uuid, in real text                     S-NIAH-3
    needle_multi_key   four keys, one asked for, real text      MK-NIAH-1
    needle_multi_query four keys, all asked for                 MQ-NIAH
    needle_multi_value four values of one key, all asked for    MV-NIAH

Wording, forms and score (share of the wanted values that occur in the answer) are those of RULER. Different from it:
keys come from our own list of words, real text is the user's, from a random place, and the answer may be as long as
the wanted values and 32 tokens, in place of 128. A context has at most `length` tokens, the answer's room included.

Source: RULER, arXiv 2404.06654, section 3 and appendix B; the tasks of NL's needle table.
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from nestling.errors import InputError
from nestling.recipes.suite.data_files import books
from nestling.recipes.suite.key_words import ADJECTIVES, NOUNS
from nestling.recipes.suite.reading import Reader
from nestling.recipes.suite.task import ReadingTask, Report, Settings, SuiteRow

__all__ = ["NEEDLE_TASKS", "Needles", "found_share", "largest", "make_example", "sentences_of"]

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEEDLE = "One of the special magic {kind}s for {key} is: {value}."
ONE = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. I will quiz you about the "
    "{kind} afterwards.\n",
    "\nWhat is the special magic {kind} for {query} mentioned in the provided text? The special magic {kind} for "
    "{query} mentioned in the provided text is",
)
SEVERAL = (
    "Some special magic {kind}s are hidden within the following text. Make sure to memorize it. I will quiz you about "
    "the {kind}s afterwards.\n",
    "\nWhat are all the special magic {kind}s for {query} mentioned in the provided text? The special magic {kind}s "
    "for {query} mentioned in the provided text are",
)
EXTRA_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class Needles:
    """Which needles a task has.

    kind:   "number" (seven digits) or "uuid".
    noise:  whether the haystack is noise; otherwise it is real text.
    keys:   keys in the text.
    values: values of every key.
    asked:  keys that are asked for.
    """

    kind: str = "number"
    noise: bool = False
    keys: int = 1
    values: int = 1
    asked: int = 1


@dataclass(frozen=True)
class Example:
    """A prompt and the values that a right answer names."""

    prompt: str
    wanted: tuple[str, ...]


def make_example(
    what: Needles, *, length: int, haystack: list[str], num_tokens: Callable[[str], int], generator: random.Random
) -> Example:
    """A prompt of as much haystack as fits.

    Args:
        what: the needles.
        length: tokens of prompt and answer together, at most.
        haystack: sentences of real text; not looked at for noise.
        num_tokens: counts the tokens of a text.
        generator: all randomness.

    Raises:
        InputError: not even the question fits, or the text is shorter than the context.
    """
    names = generator.sample([f"{adjective}-{noun}" for adjective in ADJECTIVES for noun in NOUNS], what.keys)
    values = {name: [_value(what.kind, generator) for _ in range(what.values)] for name in names}
    needles = [NEEDLE.format(kind=what.kind, key=name, value=value) for name in names for value in values[name]]
    generator.shuffle(needles)
    asked = generator.sample(names, what.asked)
    query = asked[0] if len(asked) == 1 else ", ".join(asked[:-1]) + ", and " + asked[-1]
    before, after = (
        part.format(kind=what.kind, query=query) for part in (SEVERAL if what.asked * what.values > 1 else ONE)
    )
    wanted = tuple(value for name in asked for value in values[name])
    room = length - num_tokens(" " + ", ".join(wanted)) - EXTRA_TOKENS
    first = 0 if what.noise else generator.randrange(len(haystack))
    places = [generator.random() for _ in needles]

    def text(count: int) -> str:
        if what.noise:
            sentences = [NOISE] * count
        else:
            sentences = [haystack[(first + place) % len(haystack)] for place in range(count)]
        for needle, place in zip(needles, places):
            sentences.insert(round(place * len(sentences)), needle)
        return before + ("\n" if what.noise else " ").join(sentences) + after

    most = length if what.noise else len(haystack)
    count = largest(lambda count: num_tokens(text(count)) <= room, most)
    if count is None:
        raise InputError(f"length {length}: the needles and the question alone are longer; choose a larger length")
    if not what.noise and count == most:
        raise InputError(f"length {length}: the whole haystack is shorter; give more text or choose a smaller length")
    return Example(text(count), wanted)


def _value(kind: str, generator: random.Random) -> str:
    if kind == "number":
        return str(generator.randint(1_000_000, 9_999_999))
    return str(uuid.UUID(int=generator.getrandbits(128), version=4))


def largest(fits: Callable[[int], bool], most: int) -> int | None:
    """The largest count in [0, most] that fits, None when 0 does not; doubling, then halving."""
    if not fits(0):
        return None
    low, step = 0, 1
    while step <= most and fits(step):
        low, step = step, 2 * step
    high = min(step, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def sentences_of(text: str) -> list[str]:
    """A text cut behind full stops, question and exclamation marks."""
    return [sentence for sentence in re.split(r"(?<=[.!?])\s+", text) if sentence]


def found_share(answer: str, wanted: tuple[str, ...]) -> float:
    """The share of the wanted values that occur in the answer, whatever the case of letters."""
    return sum(value.lower() in answer.lower() for value in wanted) / len(wanted)


def run(name: str, what: Needles, reader: Reader, settings: Settings, report: Report) -> list[SuiteRow]:
    """One row per length."""
    haystack = [] if what.noise else sentences_of(books(settings.data))
    rows = []
    for length in settings.lengths:
        generator = random.Random(f"{settings.seed} {name} {length}")
        shares = []
        for _ in range(settings.samples):
            example = make_example(
                what, length=length, haystack=haystack, num_tokens=reader.num_tokens, generator=generator
            )
            most = reader.num_tokens(" " + ", ".join(example.wanted)) + EXTRA_TOKENS
            shares.append(found_share(reader.go_on(example.prompt, max_new_tokens=most), example.wanted))
        value = sum(shares) / len(shares)
        report(f"{name}, {length} tokens: {value:.3f}")
        rows.append(
            SuiteRow(task=name, metric="values found", value=value, length=length, samples=len(shares), chance=0.0)
        )
    return rows


_WHICH: dict[str, tuple[str, Needles]] = {
    "needle_single_1": ("a number hidden in noise", Needles(noise=True)),
    "needle_single_2": ("a number hidden in real text", Needles()),
    "needle_single_3": ("a uuid hidden in real text", Needles(kind="uuid")),
    "needle_multi_key": ("four keys in real text, one is asked for", Needles(keys=4)),
    "needle_multi_query": ("four keys in real text, all are asked for", Needles(keys=4, asked=4)),
    "needle_multi_value": ("four values of one key in real text", Needles(values=4)),
}

NEEDLE_TASKS: tuple[ReadingTask, ...] = tuple(
    ReadingTask(
        name=name,
        summary=summary,
        source="RULER, arXiv 2404.06654",
        needs="nothing" if what.noise else "books (.txt)",
        find=(lambda _: None) if what.noise else lambda settings: books(settings.data),
        run=partial(run, name, what),
    )
    for name, (summary, what) in _WHICH.items()
)
