"""Days are those of the account's zone, over both changes of its clocks."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.sync.reports.zone import day_of, end_of, is_final, is_over, last_over

ZONES = ["America/Los_Angeles", "Europe/Copenhagen", "Australia/Lord_Howe", "America/Sao_Paulo"]


@given(st.sampled_from(ZONES), st.dates(date(2017, 1, 1), date(2030, 1, 1)))
def test_the_first_instant_after_a_day_is_of_the_next(zone_name: str, when: date) -> None:
    """A microsecond before its end a day has not ended, and at its end the next has begun."""
    zone = ZoneInfo(zone_name)
    end = end_of(when, zone)
    assert day_of(end, zone) == when + timedelta(days=1)
    assert day_of(end - timedelta(microseconds=1), zone) == when
    assert not is_over(when, end - timedelta(microseconds=1), zone)
    assert is_over(when, end, zone)
    assert last_over(end, zone) == when


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
        length = end_of(when, ZoneInfo(zone)) - end_of(when - timedelta(days=1), ZoneInfo(zone))
        assert length == timedelta(hours=expected)


def test_west_of_utc_the_day_goes_on_after_midnight_utc() -> None:
    """At 02:00 UTC the day before is not over in Los Angeles."""
    now = datetime(2026, 11, 10, 2, tzinfo=UTC)
    assert last_over(now, ZoneInfo("America/Los_Angeles")) == date(2026, 11, 8)
    assert last_over(now, ZoneInfo("Europe/Copenhagen")) == date(2026, 11, 9)


def test_a_day_is_final_after_its_window() -> None:
    """What was sent late on a day has thirty more days, to the end of the thirtieth."""
    zone = ZoneInfo("Europe/Copenhagen")
    when = date(2026, 10, 1)
    end = end_of(date(2026, 10, 31), zone)
    assert is_final(when, end, zone=zone, window_days=30)
    assert not is_final(when, end - timedelta(seconds=1), zone=zone, window_days=30)
