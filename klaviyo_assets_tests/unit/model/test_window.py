"""Windows are half open, and the ranges read of a slice have neither hole nor overlap.

The oracle is a set of instants, one a second, a few beyond the windows on either side.
"""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.model.window import (
    Coverage,
    Window,
    coverage_from_json,
    coverage_to_json,
    parse_instant,
)

START = datetime(2026, 1, 31, tzinfo=UTC)

CLOCK = {second: START + timedelta(seconds=second) for second in range(-2, 15)}

sides = st.none() | st.integers(0, 12).map(lambda second: CLOCK[second])
windows = st.builds(Window, sides, sides)


def covered_seconds(*parts: Window) -> set[int]:
    """Return the seconds that lie in any of the windows."""
    return {
        second
        for second, time in CLOCK.items()
        for part in parts
        if (part.start is None or part.start <= time) and (part.end is None or time < part.end)
    }


def coverage_of(parts: list[Window]) -> Coverage:
    """Return the coverage that adding the windows one after the other gives."""
    coverage = Coverage()
    for part in parts:
        coverage = coverage.add(part)
    return coverage


coverages = st.lists(windows, max_size=5).map(coverage_of)


def test_a_window_has_its_start_and_not_its_end() -> None:
    """Neighbouring windows share no instant and leave none out."""
    assert Window(CLOCK[3], CLOCK[3]).is_empty
    assert Window(CLOCK[4], CLOCK[3]).is_empty
    assert not Window(CLOCK[3], CLOCK[4]).is_empty
    assert not Window().is_empty
    assert not Window(CLOCK[3]).is_empty


@given(st.lists(windows, max_size=6))
def test_what_is_added_is_covered(parts: list[Window]) -> None:
    """A coverage holds the instants of the windows added, whatever their order, and no others."""
    assert covered_seconds(*coverage_of(parts).windows) == covered_seconds(*parts)
    assert coverage_of(parts) == coverage_of(parts[::-1])


@given(st.lists(windows, max_size=6))
def test_windows_never_touch(parts: list[Window]) -> None:
    """The windows of a coverage ascend and have something unread between any two."""
    for earlier, later in pairwise(coverage_of(parts).windows):
        assert earlier.end is not None
        assert later.start is not None
        assert earlier.end < later.start


@given(coverages, coverages)
def test_a_union_is_what_either_covers(one: Coverage, other: Coverage) -> None:
    """What two have read is read."""
    assert covered_seconds(*one.union(other).windows) == covered_seconds(
        *one.windows
    ) | covered_seconds(*other.windows)


@given(coverages, windows)
def test_what_is_taken_out_is_not_covered(coverage: Coverage, window: Window) -> None:
    """Forgetting a window forgets its instants and no others."""
    rest = coverage.subtract(window)
    assert covered_seconds(*rest.windows) == covered_seconds(*coverage.windows) - covered_seconds(
        window
    )


@given(coverages, windows)
def test_gaps_are_what_is_left_to_read(coverage: Coverage, wanted: Window) -> None:
    """What is wanted is covered or in a gap, never both; the gaps ascend."""
    gaps = coverage.gaps(wanted)
    assert covered_seconds(*gaps) == covered_seconds(wanted) - covered_seconds(*coverage.windows)
    assert all(one.ceiling < other.floor for one, other in pairwise(gaps))


@given(coverages, st.none() | st.integers(0, 12))
def test_the_reach_is_the_end_of_the_first_stretch(coverage: Coverage, start: int | None) -> None:
    """From a start that is covered, everything is read up to the reach, which is not."""
    reach = coverage.contiguous_end(None if start is None else CLOCK[start])
    inside = covered_seconds(*coverage.windows)
    first = min(CLOCK) if start is None else start
    if first not in inside:
        assert reach is None
        return
    missing = [second for second in CLOCK if second >= first and second not in inside]
    assert reach == (CLOCK[missing[0]] if missing else None)


@given(coverages)
def test_json_gives_back_the_coverage(coverage: Coverage) -> None:
    """What a commit carries is what the next sync starts from."""
    assert coverage_from_json(coverage_to_json(coverage)) == coverage


def test_json_is_plain_text_in_utc() -> None:
    """The state can be read by a person: two ISO 8601 texts a window, null for an open side."""
    coverage = Coverage((Window(None, CLOCK[0]), Window(CLOCK[5])))
    assert coverage_to_json(coverage) == [
        [None, "2026-01-31T00:00:00+00:00"],
        ["2026-01-31T00:00:05+00:00", None],
    ]


def test_an_instant_is_in_utc() -> None:
    """Any offset is understood, and the instant stays the same."""
    east = timezone(timedelta(hours=2))
    found = parse_instant(datetime(2026, 1, 31, 2, tzinfo=east).isoformat())
    assert found == START
    assert found is not None
    assert found.tzinfo is UTC
    assert parse_instant("2026-01-31T00:00:00Z") == START
    assert parse_instant(None) is None


@pytest.mark.parametrize("text", ["2026-01-31T00:00:00", "2026-01-31", "soon", ""])
def test_an_instant_without_an_offset_is_refused(text: str) -> None:
    """A time that could be anywhere's is no mark."""
    with pytest.raises(ValueError, match=r"offset|Invalid isoformat"):
        parse_instant(text)


def test_half_a_window_is_refused() -> None:
    """A state that lost a part of itself is not read as if it were whole."""
    with pytest.raises(ValueError, match="not enough values"):
        coverage_from_json([["2026-01-31T00:00:00Z"]])
