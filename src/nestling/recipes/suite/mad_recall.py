"""MAD: recall of key-value pairs in context, without and with noise between them.

A sequence is a run of pairs; a key keeps its value throughout. At every key that was shown before, the next token, its
value, is asked for. With noise, a fifth of the pairs are two random tokens of a vocabulary of their own; one pair at
least is none. The last key was always shown before. In training too only asked places count (the published code trains
on all next tokens, of which the others are random).

Source: MAD, arXiv 2403.17844, section 3.1 and appendix B; sizes of its baselines, multi-query form.
"""

from __future__ import annotations

from functools import partial

import torch

from nestling.recipes.suite.synthetic import Batch, SyntheticTask

__all__ = ["IN_CONTEXT_RECALL", "NOISY_RECALL"]

LENGTH, NUM_KEYS, NUM_VALUES, NUM_NOISE, NOISE = 128, 8, 8, 16, 0.2


def _draw(batch: int, part: str, generator: torch.Generator, *, noise: float) -> Batch:
    del part
    pairs = LENGTH // 2
    keys = torch.randint(NUM_KEYS, (batch, pairs), generator=generator)
    values = torch.randint(NUM_VALUES, (batch, NUM_KEYS), generator=generator)
    is_noise = torch.rand(batch, pairs, generator=generator) < noise
    sure = torch.randint(pairs - 1, (batch, 1), generator=generator)
    is_noise.scatter_(1, sure, False)
    is_noise[:, -1] = False
    keys[:, -1:] = keys.gather(1, _one_of(~is_noise[:, :-1], generator))

    shown = torch.stack([keys, NUM_KEYS + values.gather(1, keys)], dim=2)
    random = NUM_KEYS + NUM_VALUES + torch.randint(NUM_NOISE, shown.shape, generator=generator)
    tokens = torch.where(is_noise.unsqueeze(-1), random, shown).flatten(1)

    seen = torch.nn.functional.one_hot(keys, NUM_KEYS) * ~is_noise.unsqueeze(-1)
    before = seen.cumsum(1) - seen
    known = before.gather(2, keys.unsqueeze(-1)).squeeze(-1) > 0
    asked = torch.zeros_like(tokens, dtype=torch.bool)
    asked[:, ::2] = known & ~is_noise
    return Batch(tokens[:, :-1], tokens[:, 1:], asked[:, :-1])


def _one_of(mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The place of one True of every row, drawn uniformly, [B, 1]."""
    return torch.where(mask, torch.rand(mask.shape, generator=generator), -1.0).argmax(1, keepdim=True)


IN_CONTEXT_RECALL = SyntheticTask(
    name="in_context_recall",
    summary="64 key-value pairs in a row; the value of every key that was shown before",
    source="MAD, arXiv 2403.17844",
    vocab_size=NUM_KEYS + NUM_VALUES,
    kind="token",
    num_answers=NUM_KEYS + NUM_VALUES,
    draw=partial(_draw, noise=0.0),
    chance={"place": 1 / NUM_VALUES},
)
NOISY_RECALL = SyntheticTask(
    name="noisy_recall",
    summary="the same, a fifth of the pairs replaced by noise",
    source="MAD, arXiv 2403.17844",
    vocab_size=NUM_KEYS + NUM_VALUES + NUM_NOISE,
    kind="token",
    num_answers=NUM_KEYS + NUM_VALUES,
    draw=partial(_draw, noise=NOISE),
    chance={"place": 1 / NUM_VALUES},
)
