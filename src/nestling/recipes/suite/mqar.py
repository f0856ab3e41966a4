"""Multi-query associative recall: pairs are shown, then keys are asked for.

Source: Arora et al., arXiv 2312.04927, section 3; sequences end with the keys, in random order, without filler.
Training mixes numbers of pairs: with 12 in every sequence small models stay for thousands of steps where they name any
of the values that were shown.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nestling.recipes.suite.synthetic import Batch, SyntheticTask

__all__ = ["MQAR", "pairs_and_queries"]

NUM_KEYS = NUM_VALUES = 32
MOST_TRAINED = 12
MIXED = f"1 to {MOST_TRAINED} pairs"
NUM_PAIRS = {"12 pairs": 12, "6 pairs": 6, "24 pairs": 24}


def pairs_and_queries(
    num_pairs: int, batch: int, generator: torch.Generator, *, num_keys: int = NUM_KEYS, num_values: int = NUM_VALUES
) -> tuple[Tensor, Tensor]:
    """Tokens [B, 3 N] (pairs, then queries) and the right values of the queries [B, N].

    Keys are the tokens 0 to num_keys - 1, all different in a row; value v is the token num_keys + v.

    Args:
        num_pairs: N <= num_keys.
        batch: B.
        generator: all randomness.
        num_keys, num_values: sizes of the two vocabularies.
    """
    keys = torch.rand(batch, num_keys, generator=generator).argsort(1)[:, :num_pairs]
    values = torch.randint(num_values, (batch, num_pairs), generator=generator)
    order = torch.rand(batch, num_pairs, generator=generator).argsort(1)
    shown = torch.stack([keys, num_keys + values], dim=2).flatten(1)
    return torch.cat([shown, keys.gather(1, order)], dim=1), values.gather(1, order)


def _draw(batch: int, part: str, generator: torch.Generator) -> Batch:
    if part == MIXED:
        return _draw_mixed(batch, generator)
    tokens, values = pairs_and_queries(NUM_PAIRS[part], batch, generator)
    target = torch.zeros_like(tokens)
    target[:, -values.shape[1] :] = NUM_KEYS + values
    asked = torch.zeros_like(tokens, dtype=torch.bool)
    asked[:, -values.shape[1] :] = True
    return Batch(tokens, target, asked)


def _draw_mixed(batch: int, generator: torch.Generator) -> Batch:
    """Rows of 1 to 12 pairs, all 36 tokens long; behind the pairs keys are asked for, each any number of times."""
    length = 3 * MOST_TRAINED
    shown, _ = pairs_and_queries(MOST_TRAINED, batch, generator)
    num_pairs = torch.randint(1, MOST_TRAINED + 1, (batch, 1), generator=generator)
    asked = torch.arange(length) >= 2 * num_pairs
    pair = (torch.rand(batch, length, generator=generator) * num_pairs).long()
    tokens = torch.where(asked, shown.gather(1, 2 * pair), shown)
    return Batch(tokens, shown.gather(1, 2 * pair + 1).where(asked, 0), asked)


MQAR = SyntheticTask(
    name="mqar",
    summary="1 to 12 key-value pairs, then every key is asked for; tested with 12, 6 and 24 pairs",
    source="arXiv 2312.04927",
    vocab_size=NUM_KEYS + NUM_VALUES,
    kind="token",
    num_answers=NUM_KEYS + NUM_VALUES,
    draw=_draw,
    parts=(MIXED, *NUM_PAIRS),
    chance={"place": 1 / NUM_VALUES},
)
