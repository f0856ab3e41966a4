"""Calls cut at the borders of chunks, and whole chunks joined again."""

import pytest

from nestling.layers.self_modifying_pieces import joined, pieces


def at(*places: int) -> list[list[int]]:
    return [[place, place] for place in places]


@pytest.mark.parametrize(
    ("length", "start", "cut", "together"),
    [
        (11, at(0), [4, 4, 3], [8, 3]),
        (8, at(0), [4, 4], [8]),
        (3, at(0), [3], [3]),
        (11, at(3), [1, 4, 4, 2], [1, 8, 2]),
        (6, at(0, 2), [2, 2, 2], [2, 2, 2]),
        (5, at(2, 2), [2, 3], [2, 3]),
        (0, at(0), [], []),
    ],
)
def test_whole_chunks_of_all_rows_are_joined(
    length: int, start: list[list[int]], cut: list[int], together: list[int]
) -> None:
    steps = pieces(length, start, (4, 4))
    assert [step for step, _ in steps] == cut
    aligned = not any(map(any, start))
    found = joined(steps, aligned)
    assert [step for step, _ in found] == together
    assert not steps or found[-1][1] == steps[-1][1] == [[(place + length) % 4] * 2 for place, _ in start]


def test_two_chunk_sizes_cut_at_both() -> None:
    assert [step for step, _ in pieces(12, at(0), (4, 3))] == [3, 1, 2, 2, 1, 3]
