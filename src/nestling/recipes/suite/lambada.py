"""LAMBADA: the last word of a passage, which needs the whole passage.

accuracy: the share of passages where greedy decoding gives exactly the last word's tokens.
perplexity: exp of the mean negative log-likelihood of the last word, a word being all of its tokens.

Source: Paperno et al., arXiv 1606.06031; passages as processed by OpenAI, scored as in lm-evaluation-harness.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from nestling.errors import DataError
from nestling.recipes.suite.data_files import find_file, read_text
from nestling.recipes.suite.reading import Reader
from nestling.recipes.suite.task import ReadingTask, Report, Settings, SuiteRow

__all__ = ["LAMBADA", "read_passages", "run"]

NAMES = ("lambada/lambada_test.jsonl", "lambada/lambada_dev.jsonl", "lambada/*.jsonl")


def read_passages(path: Path) -> list[tuple[str, str]]:
    """(passage without its last word, " last word") of every line of a file of {"text": ...}.

    Raises:
        DataError: a line that is not such an object, or a passage of one word.
    """
    found = []
    for place, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            text = json.loads(line)["text"].strip()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f'{path}, line {place}: expected {{"text": "..."}}, got {line[:80]!r}') from error
        context, space, word = text.rpartition(" ")
        if not space or not context:
            raise DataError(f"{path}, line {place}: expected several words, got {text!r}")
        found.append((context, space + word))
    if not found:
        raise DataError(f"{path}: expected passages, got an empty file")
    return found


def find(settings: Settings) -> Path:
    """The file of passages. Raises DataError where it is missing."""
    return find_file(settings.data, NAMES, "LAMBADA")


def run(reader: Reader, settings: Settings, report: Report) -> list[SuiteRow]:
    """Accuracy and perplexity."""
    path = find(settings)
    passages = read_passages(path)[: settings.limit]
    scored = [reader.log_likelihood(context, word) for context, word in passages]
    accuracy = sum(greedy for _, greedy in scored) / len(scored)
    perplexity = math.exp(min(700.0, -sum(found for found, _ in scored) / len(scored)))
    report(f"lambada: accuracy {accuracy:.3f}, perplexity {perplexity:.2f}")
    common = {"task": "lambada", "samples": len(scored), "note": path.name}
    return [
        SuiteRow(metric="accuracy", value=accuracy, **common),
        SuiteRow(metric="perplexity", value=perplexity, **common),
    ]


LAMBADA = ReadingTask(
    name="lambada",
    summary="the last word of passages of novels",
    source="arXiv 1606.06031",
    needs="lambada/*.jsonl",
    find=find,
    run=run,
)
