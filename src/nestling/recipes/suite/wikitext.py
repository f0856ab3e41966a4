"""WikiText-2: perplexity of Wikipedia articles, per word and per byte, so that tokenizers do not matter.

A window of L tokens moves by the stride S; each token's loss is counted once, in the first window that has it, so that
all but the first L tokens are predicted from at least L - S tokens. The first token of the text is not predicted.
Words are what whitespace separates, bytes are of UTF-8; both of the whole text that was read.

Source: Merity et al., arXiv 1609.07843; word and byte perplexity as in lm-evaluation-harness.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from nestling.errors import DataError
from nestling.recipes.suite.data_files import find_file, read_text
from nestling.recipes.suite.reading import Reader
from nestling.recipes.suite.task import ReadingTask, Report, Settings, SuiteRow

__all__ = ["WIKITEXT", "run", "text_loss"]

NAMES = ("wikitext2/test.txt", "wikitext2/wiki.test.*", "wikitext2/valid.txt", "wikitext2/wiki.valid.*")
THOUSAND = 1000


def text_loss(reader: Reader, ids: torch.Tensor, *, window: int, stride: int) -> float:
    """Sum of the losses in nats of all tokens [T] but the first, T >= 2; see above."""
    total, counted = 0.0, 1
    start = 0
    while counted < len(ids):
        end = min(start + window + 1, len(ids))
        losses = reader.losses(ids[start:end])
        total += losses[counted - start - 1 :].sum().item()
        counted, start = end, start + stride
    return total


def find(settings: Settings) -> Path:
    """The file of articles. Raises DataError where it is missing."""
    return find_file(settings.data, NAMES, "WikiText-2")


def run(reader: Reader, settings: Settings, report: Report) -> list[SuiteRow]:
    """Word perplexity, byte perplexity, bits per byte."""
    path = find(settings)
    text = read_text(path)
    ids = torch.tensor(reader.tokens(text))
    if settings.limit is not None and len(ids) > settings.limit * THOUSAND:
        ids = ids[: settings.limit * THOUSAND]
        text = reader.tokenizer.decode(ids.tolist(), skip_special_tokens=False)
    words, size = len(text.split()), len(text.encode())
    if len(ids) < 2 or not words:
        raise DataError(f"{path}: expected a text of several words")
    window = max(settings.lengths)
    stride = settings.stride or max(1, window // 2)
    loss = text_loss(reader, ids, window=window, stride=stride)
    note = f"{path.name}, window {window}, stride {stride}"
    values = {
        "word perplexity": math.exp(min(700.0, loss / words)),
        "byte perplexity": math.exp(loss / size),
        "bits per byte": loss / size / math.log(2),
    }
    report(f"wikitext2: {values['bits per byte']:.3f} bits per byte")
    return [
        SuiteRow(task="wikitext2", metric=metric, value=value, length=window, samples=words, note=note)
        for metric, value in values.items()
    ]


WIKITEXT = ReadingTask(
    name="wikitext2",
    summary="perplexity of Wikipedia articles per word and byte",
    source="arXiv 1609.07843",
    needs="wikitext2/{test,valid}.txt",
    find=find,
    run=run,
)
