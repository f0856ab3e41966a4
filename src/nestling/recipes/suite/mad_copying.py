"""MAD: selective copying. Sixteen tokens stand among blanks and must be repeated in order at the end.

Places are uniform among those before the copy token (in the published code nothing stands between the last token and
the copy token).

Source: MAD, arXiv 2403.17844, section 3.1 and appendix B; sizes of its baseline.
"""

from __future__ import annotations

import torch

from nestling.recipes.suite.synthetic import Batch, SyntheticTask

__all__ = ["SELECTIVE_COPYING"]

LENGTH, NUM_COPIED, NUM_TOKENS = 256, 16, 14
BLANK, COPY = NUM_TOKENS, NUM_TOKENS + 1


def _draw(batch: int, part: str, generator: torch.Generator) -> Batch:
    del part
    room = LENGTH - NUM_COPIED - 1
    wanted = torch.randint(NUM_TOKENS, (batch, NUM_COPIED), generator=generator)
    places = torch.rand(batch, room, generator=generator).argsort(1)[:, :NUM_COPIED].sort(1).values
    tokens = torch.full((batch, LENGTH), BLANK).scatter_(1, places, wanted)
    tokens[:, room] = COPY
    target = torch.zeros_like(tokens)
    target[:, -NUM_COPIED:] = wanted
    asked = torch.zeros_like(tokens, dtype=torch.bool)
    asked[:, -NUM_COPIED:] = True
    return Batch(tokens, target, asked)


SELECTIVE_COPYING = SyntheticTask(
    name="selective_copying",
    summary="16 tokens among 223 blanks, to be repeated in order",
    source="MAD, arXiv 2403.17844",
    vocab_size=NUM_TOKENS + 2,
    kind="token",
    num_answers=NUM_TOKENS,
    draw=_draw,
    chance={"place": 1 / NUM_TOKENS},
)
