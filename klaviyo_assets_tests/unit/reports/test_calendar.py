"""Days are those of the account's zone, over both changes of its clocks."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.reports.calendar import (
    ReportCalendar,
    day_end,
    last_complete_day,
    local_date,
)

ZONES = ["America/Los_Angeles", "Europe/Copenhagen", "Australia/Lord_Howe", "America/Sao_Paulo"]


def build_calendar(zone: ZoneInfo) -> ReportCalendar:
    """Return a calendar with an attribution window of thirty days."""
    now = datetime(2026, 11, 10, tzinfo=UTC)
    return ReportCalendar(
        zone=zone, now=now, first_day=date(2017, 1, 1), attribution_window_days=30
    )


@given(st.sampled_from(ZONES), st.dates(date(2017, 1, 1), date(2030, 1, 1)))
def test_the_first_instant_after_a_day_is_of_the_next(zone_name: str, when: date) -> None:
    """A microsecond before its end a day has not ended, and at its end the next has begun."""
    zone = ZoneInfo(zone_name)
    calendar = build_calendar(zone)
    end = day_end(when, zone)
    assert local_date(end, zone) == when + timedelta(days=1)
    assert local_date(end - timedelta(microseconds=1), zone) == when
    assert not calendar.is_over(when, end - timedelta(microseconds=1))
    assert calendar.is_over(when, end)
    assert last_complete_day(end, zone) == when


@pytest.mark.parametrize(
    ("zone", "short", "long", "hours"),
    [
        ("America/Los_Angeles", date(2026, 3, 8), date(2026, 11, 1), 1.0),
        ("Europe/Copenhagen", date(2026, 3, 29), date(2026, 10, 25), 1.0),
        ("Australia/Lord_Howe", date(2026, 10, 4), date(2026, 4, 5), 0.5),
    ],
)
def test_days_of_clock_changes_have_their_length(
    zone: str, short: date, long: date, hours: float
) -> None:
    """A day on which clocks change is shorter or longer by what they change."""
    for when, expected in ((short, 24 - hours), (long, 24 + hours)):
        length = day_end(when, ZoneInfo(zone)) - day_end(when - timedelta(days=1), ZoneInfo(zone))
        assert length == timedelta(hours=expected)


def test_west_of_utc_the_day_goes_on_after_midnight_utc() -> None:
    """At 02:00 UTC the day before is not over in Los Angeles."""
    now = datetime(2026, 11, 10, 2, tzinfo=UTC)
    assert last_complete_day(now, ZoneInfo("America/Los_Angeles")) == date(2026, 11, 8)
    assert last_complete_day(now, ZoneInfo("Europe/Copenhagen")) == date(2026, 11, 9)


def test_a_day_is_final_after_its_window() -> None:
    """What was sent late on a day has thirty more days, to the end of the thirtieth."""
    zone = ZoneInfo("Europe/Copenhagen")
    when = date(2026, 10, 1)
    end = day_end(date(2026, 10, 31), zone)
    calendar = build_calendar(zone)
    assert calendar.is_final(when, end)
    assert not calendar.is_final(when, end - timedelta(seconds=1))
