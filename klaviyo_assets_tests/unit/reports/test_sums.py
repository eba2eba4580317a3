"""The sums of a report's statistics that the UI plots."""

from datetime import UTC, date, datetime

from klaviyo_assets.decode.reports import ReportRow
from klaviyo_assets.reports.bisect import TimedRow
from klaviyo_assets.reports.fetch import sum_statistics
from klaviyo_assets.streams import STREAMS

MONDAY, TUESDAY, WEDNESDAY = (date(2026, 11, day) for day in (2, 3, 4))


FLOWS = STREAMS["flow_series_reports"]


def row(**statistics: float | None) -> TimedRow:
    """Return a row with these statistics."""
    found = ReportRow(day=None, groupings={}, statistics=statistics)
    return TimedRow(found, datetime(2026, 11, 5, tzinfo=UTC))


def test_sums_are_those_of_the_rows_of_a_day() -> None:
    """A value that is missing counts as nothing, and a day without rows has no sums."""
    rows = {
        MONDAY: [row(opens=2, clicks=1), row(opens=3, clicks=None)],
        TUESDAY: [row(opens=0)],
        WEDNESDAY: [],
    }
    assert sum_statistics(FLOWS, rows) == {
        MONDAY: {"opens": 5, "clicks": 1},
        TUESDAY: {"opens": 0, "clicks": 0},
    }


def test_what_never_happened_has_no_curve() -> None:
    """A statistic that is zero on all days is left out, on one day it is a zero."""
    rows = {MONDAY: [row(opens=1, bounced=0)], TUESDAY: [row(opens=0, bounced=0)]}
    assert sum_statistics(FLOWS, rows) == {
        MONDAY: {"opens": 1},
        TUESDAY: {"opens": 0},
    }
