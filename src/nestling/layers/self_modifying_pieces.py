"""How a call of self-modifying Titans is cut at the borders of its chunks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["Piece", "joined", "pieces", "split_tokens"]

# Tokens, and the positions of every row in its two chunks after them.
Piece = tuple[int, list[list[int]]]


def split_tokens(tokens: Tensor | None, lengths: list[int]) -> Sequence[Tensor | None]:
    """[R, T, ...] in pieces; one split, for slices would each make a gradient of all T tokens."""
    return [None] * len(lengths) if tokens is None else tokens.split(lengths, dim=1)


def pieces(length: int, position: list[list[int]], sizes: tuple[int, int]) -> list[Piece]:
    """Pieces of a call that no chunk border of any row cuts: tokens, and every row's positions after them."""
    steps, done = [], 0
    while done < length:
        step = min(length - done, *(size - place for row in position for place, size in zip(row, sizes)))
        position = [[(place + step) % size for place, size in zip(row, sizes)] for row in position]
        steps.append((step, position))
        done += step
    return steps


def joined(steps: list[Piece], aligned: bool) -> list[Piece]:
    """Pieces of `pieces`, those that are whole chunks of all rows one after another made one."""
    found, whole = [], False
    for step, position in steps:
        begins, aligned = aligned, not any(map(any, position))
        if whole and aligned:
            found[-1] = (found[-1][0] + step, position)
        else:
            found.append((step, position))
        whole = begins and aligned
    return found
