"""bAbI in long context: the few sentences of a story stand, in order, among the sentences of real books.

The model is shown the text and the question; its answer is the likeliest of all answers that occur in the task.
(BABILong itself counts what a model generates; a choice has a chance level that small models can be told from: what
always giving the commonest answer of the file scores.)

Source: bAbI, arXiv 1502.05698; BABILong, arXiv 2406.10149.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from nestling.errors import DataError, InputError
from nestling.recipes.suite.data_files import books, find_file, read_text
from nestling.recipes.suite.needle import largest, sentences_of
from nestling.recipes.suite.reading import Reader
from nestling.recipes.suite.task import ReadingTask, Report, Settings, SuiteRow

__all__ = ["BABI_TASKS", "Question", "make_prompt", "read_stories"]

ROOM_FOR_ANSWER = 8


class Question(NamedTuple):
    """The sentences of a story before a question (earlier questions left out), the question, the answer."""

    facts: tuple[str, ...]
    question: str
    answer: str


def read_stories(path: Path) -> list[Question]:
    """Every question of a bAbI file.

    Raises:
        DataError: a line that is not `NUMBER TEXT` or `NUMBER QUESTION<tab>ANSWER<tab>NUMBERS`, or no question.
    """
    found, facts = [], []
    for place, line in enumerate(read_text(path).splitlines(), start=1):
        number, _, rest = line.strip().partition(" ")
        if not number.isdigit() or not rest:
            raise DataError(f"{path}, line {place}: expected NUMBER and a sentence or question, got {line!r}")
        if number == "1":
            facts = []
        if "\t" not in rest:
            facts.append(rest.strip())
            continue
        question, answer, *_ = (part.strip() for part in rest.split("\t"))
        found.append(Question(tuple(facts), question, answer))
    if not found:
        raise DataError(f"{path}: expected questions (lines with tabs), got none")
    return found


def make_prompt(
    question: Question,
    *,
    length: int,
    haystack: list[str],
    num_tokens: Callable[[str], int],
    generator: random.Random,
) -> str:
    """The facts, in order, at random places of as much haystack as fits; then the question.

    Raises:
        InputError: facts and question alone are longer, or the haystack is too short.
    """
    first = generator.randrange(len(haystack))
    places = sorted(generator.random() for _ in question.facts)

    def text(count: int) -> str:
        sentences = [haystack[(first + place) % len(haystack)] for place in range(count)]
        spots = [round(place * count) for place in places]
        for spot, fact in reversed(list(zip(spots, question.facts))):
            sentences.insert(spot, fact)
        return " ".join(sentences) + f"\nQuestion: {question.question}\nAnswer:"

    room = length - ROOM_FOR_ANSWER
    count = largest(lambda count: num_tokens(text(count)) <= room, len(haystack))
    if count is None:
        raise InputError(f"length {length}: the story and the question alone are longer; choose a larger length")
    if count == len(haystack):
        raise InputError(f"length {length}: the whole haystack is shorter; give more text or choose a smaller length")
    return text(count)


def find(name: str, file: str, settings: Settings) -> tuple[list[Question], str]:
    """The questions of a task, and the books. Raises DataError where a file is missing."""
    stories = read_stories(find_file(settings.data, (f"babi_original/{file}",), f"task {name}"))
    return stories, books(settings.data)


def run(name: str, file: str, reader: Reader, settings: Settings, report: Report) -> list[SuiteRow]:
    """One row per length."""
    stories, text = find(name, file, settings)
    answers = sorted({story.answer for story in stories})
    commonest = max(Counter(story.answer for story in stories).values()) / len(stories)
    haystack = sentences_of(text)
    rows = []
    for length in settings.lengths:
        generator = random.Random(f"{settings.seed} {name} {length}")
        right = 0
        for _ in range(settings.samples):
            story = generator.choice(stories)
            prompt = make_prompt(
                story, length=length, haystack=haystack, num_tokens=reader.num_tokens, generator=generator
            )
            chosen = reader.likeliest(prompt, [f" {answer}" for answer in answers])
            right += answers[chosen] == story.answer
        value = right / settings.samples
        report(f"{name}, {length} tokens: {value:.3f}")
        rows.append(
            SuiteRow(
                task=name,
                metric="accuracy",
                value=value,
                length=length,
                samples=settings.samples,
                chance=commonest,
                note=f"likeliest of {len(answers)} answers",
            )
        )
    return rows


_FILES = {"babi_qa1": "qa1_*.txt", "babi_qa10": "qa10_*.txt"}
BABI_TASKS: tuple[ReadingTask, ...] = tuple(
    ReadingTask(
        name=name,
        summary=f"bAbI {name.removeprefix('babi_')}: a short story among the sentences of books",
        source="bAbI, arXiv 1502.05698; BABILong, arXiv 2406.10149",
        needs=f"babi_original/{file}, books (.txt)",
        find=partial(find, name, file),
        run=partial(run, name, file),
    )
    for name, file in _FILES.items()
)
