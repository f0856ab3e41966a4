"""Multi-query associative recall: N pairs are shown, then every key is asked for once.

Source: Arora et al., arXiv 2312.04927, section 3; sequences end with the keys, in random order, without filler.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nestling.recipes.suite.synthetic import Batch, SyntheticTask

__all__ = ["MQAR", "pairs_and_queries"]

NUM_KEYS = NUM_VALUES = 32
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
    tokens, values = pairs_and_queries(NUM_PAIRS[part], batch, generator)
    target = torch.zeros_like(tokens)
    target[:, -values.shape[1] :] = NUM_KEYS + values
    asked = torch.zeros_like(tokens, dtype=torch.bool)
    asked[:, -values.shape[1] :] = True
    return Batch(tokens, target, asked)


MQAR = SyntheticTask(
    name="mqar",
    summary="12 key-value pairs, then every key is asked for; tested with 6 and 24 pairs too",
    source="arXiv 2312.04927",
    vocab_size=NUM_KEYS + NUM_VALUES,
    kind="token",
    num_answers=NUM_KEYS + NUM_VALUES,
    draw=_draw,
    parts=tuple(NUM_PAIRS),
    chance={"place": 1 / NUM_VALUES},
)
