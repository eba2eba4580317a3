"""The comparison: what is missing, what vanished, and which days that makes short."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.errors import SettingError
from klaviyo_assets.lake.read.queries import DayCount
from klaviyo_assets.model.report import ReportPartition, contiguous_ranges
from klaviyo_assets.model.window import Window
from klaviyo_assets.reconcile.counts import (
    check_request_count,
    compare_counts,
    comparison_window,
    missing_by_day,
    split_by_request_span,
    vanished_days,
)

FIRST = date(2026, 9, 1)

cells = st.builds(
    ReportPartition,
    st.sampled_from(["AAA", "BBB", "CCC"]),
    st.integers(0, 6).map(lambda number: FIRST + timedelta(days=number)),
)

Sets = dict[ReportPartition, tuple[frozenset[int], frozenset[int]]]


def stored_count(cell: ReportPartition, *, rows: int, seen: int) -> DayCount:
    """Return the count of a partition: events stored, and those that Klaviyo showed again."""
    return DayCount(value=cell.metric_id, day=cell.day, rows=rows, rows_synced_since=seen)


def ids() -> st.SearchStrategy[frozenset[int]]:
    """Return some event ids."""
    return st.frozensets(st.integers(0, 9), max_size=10)


@given(there=st.dictionaries(cells, st.tuples(ids(), ids())))
def test_after_a_day_was_read_again_both_kinds_are_exact(there: Sets) -> None:
    """After a repair of the day missing and deleted events are both exact.

    Each partition has the stored ids and Klaviyo's; a reading just before showed what both have.
    """
    stored = [
        stored_count(cell, rows=len(here), seen=len(here & klaviyo))
        for cell, (here, klaviyo) in there.items()
    ]
    counted = {cell: len(klaviyo) for cell, (_, klaviyo) in there.items()}
    found = {each.partition: each for each in compare_counts(stored, counted)}
    for cell, (here, klaviyo) in there.items():
        if here == klaviyo:
            assert cell not in found
        else:
            assert found[cell].missing == len(klaviyo - here)
            assert found[cell].vanished == len(here - klaviyo)


@given(there=st.dictionaries(cells, st.tuples(ids(), ids())))
def test_counts_alone_never_claim_more_than_they_can(there: Sets) -> None:
    """Before a repair no event is wrongly called missing or deleted, and net counts are right."""
    stored = [
        stored_count(cell, rows=len(here), seen=len(here)) for cell, (here, _) in there.items()
    ]
    counted = {cell: len(klaviyo) for cell, (_, klaviyo) in there.items()}
    for each in compare_counts(stored, counted):
        here, klaviyo = there[each.partition]
        assert each.missing <= len(klaviyo - here)
        assert each.vanished <= len(here - klaviyo)
        assert each.missing - each.vanished == len(klaviyo) - len(here)


def test_days_are_summed_over_metrics() -> None:
    """A day is short by what all metrics lack; one that only lost rows at Klaviyo is not short."""
    second = FIRST + timedelta(days=1)
    stored = [
        stored_count(ReportPartition("AAA", FIRST), rows=3, seen=3),
        stored_count(ReportPartition("BBB", second), rows=9, seen=9),
    ]
    counted = {
        ReportPartition("AAA", FIRST): 5,
        ReportPartition("BBB", FIRST): 2,
        ReportPartition("BBB", second): 8,
    }
    found = compare_counts(stored, counted)
    assert missing_by_day(found) == {FIRST: 4}
    assert vanished_days(found) == {second}


@given(st.frozensets(st.dates(FIRST, FIRST + timedelta(days=40))))
def test_stretches_hold_exactly_the_days(days: frozenset[date]) -> None:
    """Nothing else is read again, nothing is left out, and neighbours are one stretch."""
    found = contiguous_ranges(days)
    assert [day for stretch in found for day in stretch] == sorted(days)
    for before, after in pairwise(found):
        assert (after.first - before.last).days > 1


def test_the_window_ends_on_a_whole_hour_before_the_mark() -> None:
    """The window ends hours before the cursor and begins no earlier than the start date."""
    mark = datetime(2026, 9, 30, 11, 20, tzinfo=UTC)
    tolerance = timedelta(hours=6)
    assert comparison_window(mark, start=None, first_day=FIRST, tolerance=tolerance) == Window(
        datetime(2026, 9, 1, tzinfo=UTC), datetime(2026, 9, 30, 5, tzinfo=UTC)
    )
    start = datetime(2026, 9, 30, tzinfo=UTC)
    assert comparison_window(mark, start=start, first_day=FIRST, tolerance=tolerance).start == start
    later = datetime(2026, 9, 30, 8, tzinfo=UTC)
    assert comparison_window(mark, start=later, first_day=FIRST, tolerance=tolerance).is_empty


@given(st.integers(1, 4000))
def test_years_cover_the_window_once(days: int) -> None:
    """Each request is for a year at most, and together they have every day once."""
    start = datetime(2015, 1, 1, tzinfo=UTC)
    window = Window(start, start + timedelta(days=days))
    pieces = list(split_by_request_span(window))
    assert [pieces[0].start, pieces[-1].end] == [window.start, window.end]
    assert all(piece.ceiling - piece.floor <= timedelta(days=365) for piece in pieces)
    assert [each.start for each in pieces[1:]] == [each.end for each in pieces[:-1]]


def test_a_dear_comparison_is_refused_with_its_price() -> None:
    """What would take more requests than allowed is not begun; the text says how many."""
    window = Window(datetime(2020, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
    assert check_request_count(["AAA", "BBB"], window, max_requests=14) == 14
    with pytest.raises(SettingError, match="takes 14 requests, and most_requests allows 13"):
        check_request_count(["AAA", "BBB"], window, max_requests=13)
