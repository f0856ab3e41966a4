"""MAD: memorisation. Keys have values that are the same in every sequence and are never shown, only trained on.

Source: MAD, arXiv 2403.17844, section 3.1 and appendix B; sizes of its baseline.
"""

from __future__ import annotations

import torch

from nestling.recipes.suite.synthetic import Batch, SyntheticTask

__all__ = ["MEMORIZATION", "fixed_values"]

LENGTH, NUM_KEYS, NUM_VALUES, SEED = 32, 127, 128, 12345
ASK = NUM_KEYS + NUM_VALUES


def fixed_values() -> torch.Tensor:
    """The value tokens of the keys 0 to NUM_KEYS - 1, all different; always the same."""
    order = torch.randperm(NUM_VALUES, generator=torch.Generator().manual_seed(SEED))
    return NUM_KEYS + order[:NUM_KEYS]


def _draw(batch: int, part: str, generator: torch.Generator) -> Batch:
    del part
    keys = torch.randint(NUM_KEYS, (batch, LENGTH // 2), generator=generator)
    tokens = torch.stack([keys, torch.full_like(keys, ASK)], dim=2).flatten(1)
    target = fixed_values()[keys].repeat_interleave(2, dim=1)
    asked = torch.zeros_like(tokens, dtype=torch.bool)
    asked[:, 1::2] = True
    return Batch(tokens, target, asked)


MEMORIZATION = SyntheticTask(
    name="memorization",
    summary="127 keys whose values are fixed for good and never shown",
    source="MAD, arXiv 2403.17844",
    vocab_size=ASK + 1,
    kind="token",
    num_answers=ASK,
    draw=_draw,
    chance={"place": 1 / NUM_VALUES},
)
