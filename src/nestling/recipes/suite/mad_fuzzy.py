"""MAD: recall where keys and values are words of one to three tokens.

Words are drawn without a token twice in them. Sequences begin with padding where words did not fill them. The value of
every key that was shown before is asked for, token by token. In the test all keys have three tokens.

Source: MAD, arXiv 2403.17844, section 3.1 and appendix B; sizes of its baseline, multi-query form.
"""

from __future__ import annotations

import torch

from nestling.recipes.suite.synthetic import Batch, SyntheticTask

__all__ = ["FUZZY_RECALL"]

LENGTH, NUM_KEYS, NUM_VALUES, LONGEST = 128, 7, 8, 3
PAD = NUM_KEYS + NUM_VALUES
PARTS = ("keys of 1 to 3", "keys of 3")
Word = tuple[int, ...]


def _draw(batch: int, part: str, generator: torch.Generator) -> Batch:
    tokens = torch.full((batch, LENGTH + 1), PAD)
    asked = torch.zeros(batch, LENGTH + 1, dtype=torch.bool)
    for row in range(batch):
        shown, known = _sequence(LONGEST if part == PARTS[1] else 1, generator)
        tokens[row, LENGTH + 1 - len(shown) :] = torch.tensor(shown)
        asked[row, LENGTH + 1 - len(shown) :] = torch.tensor(known)
    return Batch(tokens[:, :-1], tokens[:, 1:], asked[:, 1:])


def _sequence(shortest: int, generator: torch.Generator) -> tuple[list[int], list[bool]]:
    """Tokens, and which of them are values of a key that was shown before; the last key always was."""
    room = LENGTH + 1 - 2 * LONGEST
    sizes = torch.randint(LONGEST, (2, LENGTH), generator=generator)
    orders = torch.rand(2, LENGTH, PAD, generator=generator)
    key_orders = orders[0, :, :NUM_KEYS].argsort(1).tolist()
    value_orders = orders[1, :, :NUM_VALUES].argsort(1).tolist()
    key_sizes, value_sizes = (shortest + sizes[0] % (LONGEST + 1 - shortest)).tolist(), (1 + sizes[1]).tolist()
    values: dict[Word, Word] = {}
    tokens: list[int] = []
    known: list[bool] = []
    for place in range(LENGTH):
        key = tuple(key_orders[place][: key_sizes[place]])
        if len(tokens) + 2 * LONGEST > room:
            key = _of(values, generator)
        is_known = key in values
        new = tuple(NUM_KEYS + number for number in value_orders[place][: value_sizes[place]])
        value = values.setdefault(key, new)
        tokens += [*key, *value]
        known += [False] * len(key) + [is_known] * len(value)
        if len(tokens) > room - 2 * LONGEST and is_known:
            break
    return tokens, known


def _of(values: dict[Word, Word], generator: torch.Generator) -> Word:
    return list(values)[int(torch.randint(len(values), (1,), generator=generator))]


FUZZY_RECALL = SyntheticTask(
    name="fuzzy_recall",
    summary="key-value pairs where keys and values are words of 1 to 3 tokens; tested on keys of 3",
    source="MAD, arXiv 2403.17844",
    vocab_size=PAD + 1,
    kind="token",
    num_answers=PAD + 1,
    draw=_draw,
    parts=PARTS,
    chance={"place": 1 / NUM_VALUES},
)
