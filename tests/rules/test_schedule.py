"""Who updates when: worked by hand, and laws for all periods and all ways to cut time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestling.errors import InputError
from nestling.schedule import Level, Schedule, Span, chunk_borders, is_update, num_updates

CONTINUUM = Schedule(tuple(Level(name=f"every {period}", update_period=period) for period in (1, 4, 6)))


def test_updates_by_hand() -> None:
    assert [time for time in range(13) if is_update(time, 4)] == [4, 8, 12]
    assert [num_updates(time, 4) for time in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 2]
    assert list(chunk_borders(3, 12, 4)) == [4, 8, 12]
    assert list(chunk_borders(4, 7, 4)) == []
    assert [level.name for level in CONTINUUM.due(12)] == ["every 1", "every 4", "every 6"]
    assert [level.name for level in CONTINUUM.due(8)] == ["every 1", "every 4"]
    assert CONTINUUM.due(0) == ()


def test_spans_by_hand() -> None:
    slow = Schedule((Level(name="a", update_period=4), Level(name="b", update_period=6)), unit="tokens")
    assert slow.spans(1, 9) == (Span(1, 4, ("a",)), Span(4, 6, ("b",)), Span(6, 8, ("a",)), Span(8, 9, ()))
    assert slow.spans(4, 4) == ()
    assert slow.spans(11, 12) == (Span(11, 12, ("a", "b")),)


def test_levels_of_one_period_share_a_number() -> None:
    periods = {"x": 16, "y": 1, "z": 16, "w": 4}
    schedule = Schedule(tuple(Level(name=name, update_period=period) for name, period in periods.items()))
    assert schedule.ranks() == {"x": 2, "y": 0, "z": 2, "w": 1}
    assert [level.frequency for level in schedule.levels] == [1 / 16, 1, 1 / 16, 0.25]


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(0, 30),
    st.integers(0, 30),
    st.integers(0, 30),
)
def test_pieces_of_time_have_the_changes_of_the_whole(periods: list[int], first: int, middle: int, last: int) -> None:
    first, middle, last = sorted((first, middle, last))
    schedule = Schedule(tuple(Level(name=str(i), update_period=period) for i, period in enumerate(periods)))

    def changes(*cuts: int) -> list[tuple[int, str]]:
        spans = [span for start, end in pairwise(cuts) for span in schedule.spans(start, end)]
        assert sum(span.last - span.first for span in spans) == last - first
        return [(span.last, name) for span in spans for name in span.due]

    whole = changes(first, last)
    assert whole == changes(first, middle, last)
    for i, period in enumerate(periods):
        mine = [time for time, name in whole if name == str(i)]
        assert mine == list(chunk_borders(first, last, period))
        assert mine == [time for time in range(first + 1, last + 1) if is_update(time, period)]
        assert len(mine) == num_updates(last, period) - num_updates(first, period)


@pytest.mark.parametrize(
    ("given_values", "message"),
    [
        ({"update_period": 0}, "update_period to be a whole number >= 1, got 0"),
        ({"update_period": 2.0}, "got 2.0"),
        ({"update_period": True}, "got True"),
        ({"accumulation": "total"}, "'sum' or 'mean', got 'total'"),
        ({"retention": 1.1}, r"in \[0, 1\].* got 1.1"),
        ({"retention": float("nan")}, "got nan"),
        ({"anchor": "first"}, "'zero' or 'start', got 'first'"),
    ],
)
def test_a_level_says_what_is_wrong(given_values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"level 'slow': expected .*{message}"):
        Level(name="slow", **given_values)


def test_a_schedule_says_what_is_wrong() -> None:
    twins = (Level(name="slow"), Level(name="slow", update_period=2))
    with pytest.raises(InputError, match="different names, got slow more than once"):
        Schedule(twins)
    with pytest.raises(InputError, match="at least one level"):
        Schedule(())
    with pytest.raises(InputError, match="got 'epochs'"):
        Schedule(twins[:1], unit="epochs")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="0 <= first <= last, got 4 and 3"):
        CONTINUUM.spans(4, 3)
    with pytest.raises(InputError, match="expected a name"):
        Level(name="")
