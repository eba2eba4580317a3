"""Time frames are taken in the company's zone, with its days of 23 and 25 hours."""

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from klaviyo_assets_tests.sandbox.conftest import NOON, StartSandbox
from klaviyo_assets_tests.sandbox.report_requests import (
    DAY,
    SERIES_REPORT,
    VALUES_REPORT,
    day_timeframe,
    post_report,
    report_rows,
    trailing_timeframe,
    true_rows,
)
from klaviyo_assets_tests.sandbox.sandbox_client import SandboxClient


def test_the_end_is_rounded_to_its_hour_and_offsets_are_ignored(client: SandboxClient) -> None:
    """An end at 23:00 means 23:59:59, and a given offset changes nothing."""
    wanted = report_rows(client, SERIES_REPORT, timeframe=day_timeframe(date(2026, 10, 5)))
    for start, end in (
        ("2026-10-05T00:00:00", "2026-10-05T23:00:00"),
        ("2026-10-05T00:00:00+09:00", "2026-10-05T23:00:01-05:00"),
        ("2026-10-05T00:30:00Z", "2026-10-05T23:59:59Z"),
    ):
        assert report_rows(client, SERIES_REPORT, timeframe={"start": start, "end": end}) == wanted
    shorter = {"start": "2026-10-05T00:00:00", "end": "2026-10-05T22:59:59"}
    assert report_rows(client, SERIES_REPORT, timeframe=shorter) != wanted


@pytest.mark.parametrize(
    ("day", "hours", "odd"),
    [(date(2026, 3, 8), 23, None), (date(2026, 11, 1), 25, "2026-11-01T01:00:00+00:00")],
)
def test_days_of_clock_changes_have_23_and_25_hours(
    start_sandbox: StartSandbox, day: date, hours: int, odd: str | None
) -> None:
    """In hourly series one label is missing or comes twice, and the day is the sum of its hours."""
    client = start_sandbox(timezone="America/New_York")
    hourly = post_report(
        client, SERIES_REPORT, timeframe=day_timeframe(day), interval="hourly"
    ).json["data"]["attributes"]
    labels = hourly["date_times"]
    assert len(labels) == hours
    assert labels[0] == f"{day}T00:00:00+00:00"
    repeated = {label for label in labels if labels.count(label) > 1}
    assert repeated == ({odd} if odd else set())
    assert odd or f"{day}T02:00:00+00:00" not in labels
    daily = report_rows(client, SERIES_REPORT, timeframe=day_timeframe(day))
    for row in daily:
        same = [each for each in hourly["results"] if each["groupings"] == row["groupings"]]
        assert sum(same[0]["statistics"]["recipients"]) == row["statistics"]["recipients"][0]


def test_days_are_the_companys(start_sandbox: StartSandbox) -> None:
    """In another zone the same hours fall into other days."""
    east, west = (
        start_sandbox(timezone="Asia/Tokyo", spread_share=0),
        start_sandbox(timezone="UTC", spread_share=0),
    )
    zone = ZoneInfo("Asia/Tokyo")
    shown = 0
    for message in east.sandbox.service.report_endpoints.sends.campaign_messages:
        for hour, _ in message.hourly_sends:
            there = datetime.fromtimestamp(hour, zone).date()
            here = datetime.fromtimestamp(hour, UTC).date()
            if there == here or hour > NOON.timestamp() - 3 * DAY:
                continue
            key = message.groupings["campaign_message_id"]
            rows = true_rows(east, "campaign_values", date=there)
            assert key in {row["campaign_message_id"] for row in rows}
            assert key not in {
                row["campaign_message_id"] for row in true_rows(west, "campaign_values", date=there)
            }
            shown += 1
    assert shown > 2


@pytest.mark.parametrize(
    ("key", "first", "count"),
    [
        ("last_7_days", "2026-11-13", 8),
        ("last_30_days", "2026-10-21", 31),
        ("today", "2026-11-20", 1),
        ("yesterday", "2026-11-19", 1),
        ("last_week", "2026-11-09", 7),
        ("this_week", "2026-11-16", 5),
        ("last_month", "2026-10-01", 31),
        ("this_month", "2026-11-01", 20),
    ],
)
def test_named_frames_hold_the_recorded_days(
    client: SandboxClient, key: str, first: str, count: int
) -> None:
    """Rolling frames have today in them, so that a week has eight days."""
    answered = post_report(client, SERIES_REPORT, timeframe={"key": key})
    labels = answered.json["data"]["attributes"]["date_times"]
    assert labels[0] == f"{first}T00:00:00+00:00"
    assert len(labels) == count


def test_weeks_begin_on_monday_and_months_on_the_first(client: SandboxClient) -> None:
    """Weekly and monthly series are sums of their days."""
    frame = {"start": "2026-09-01T00:00:00", "end": "2026-10-30T23:59:59"}
    days = {
        row["groupings"]["flow_message_id"]: row
        for row in report_rows(client, SERIES_REPORT, timeframe=frame)
    }
    for interval, label in (("weekly", "2026-08-31"), ("monthly", "2026-09-01")):
        answered = post_report(client, SERIES_REPORT, timeframe=frame, interval=interval).json[
            "data"
        ]["attributes"]
        assert answered["date_times"][0].startswith(label)
        for row in answered["results"]:
            same = days[row["groupings"]["flow_message_id"]]["statistics"]
            assert sum(row["statistics"]["conversions"]) == sum(same["conversions"])


@pytest.mark.parametrize("count", [1, 60])
def test_the_longest_allowed_series_is_allowed(client: SandboxClient, count: int) -> None:
    """Sixty days by day, seven by hour and 52 weeks by week are not too long."""
    assert post_report(client, SERIES_REPORT, timeframe=trailing_timeframe(count)).status == 200
    assert (
        post_report(
            client, SERIES_REPORT, timeframe=trailing_timeframe(7), interval="hourly"
        ).status
        == 200
    )
    assert post_report(client, VALUES_REPORT, timeframe=trailing_timeframe(365)).status == 200
