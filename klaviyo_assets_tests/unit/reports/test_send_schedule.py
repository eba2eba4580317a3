"""The days on which a campaign can have been sent follow from its strategy; in doubt, many."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from klaviyo_assets.model.report import DateRange
from klaviyo_assets.reports.send_schedule import (
    CampaignSchedule,
    derive_message_days,
    derive_possible_days,
    parse_campaign_row,
)

ZONE = ZoneInfo("Europe/Copenhagen")
NOON = datetime(2026, 10, 7, 10, tzinfo=UTC)
DAY = date(2026, 10, 7)


def sent(method: str | None, at: datetime | None = NOON, **more: object) -> CampaignSchedule:
    """Return a campaign that was sent."""
    campaign = CampaignSchedule(id="c", status="Sent", send_time=at, send_method=method)
    return replace(campaign, **more)


def october(first: int, last: int) -> DateRange:
    """Return days of October 2026."""
    return DateRange(date(2026, 10, first), date(2026, 10, last))


@pytest.mark.parametrize("method", ["static", "immediate"])
def test_sent_at_noon_is_sent_on_that_day(method: str) -> None:
    """A send in one go, far from midnight, lies within one day."""
    assert derive_possible_days(sent(method), ZONE) == october(7, 7)


def test_the_day_is_the_accounts_own() -> None:
    """What counts is the account's clock, not UTC."""
    early = datetime(2026, 10, 7, 1, tzinfo=UTC)
    assert derive_possible_days(sent("static", early), ZoneInfo("America/Los_Angeles")) == october(
        6, 6
    )


def test_midnight_within_an_hour_of_utc_blurs_that_hour() -> None:
    """Reports count by the hour: where that holds a midnight, a send counts with both days."""
    at = datetime(2026, 10, 7, 13, 20, tzinfo=UTC)
    found = derive_possible_days(sent("static", at), ZoneInfo("Australia/Lord_Howe"))
    assert found == october(8, 8)
    winter = datetime(2026, 7, 7, 13, 40, tzinfo=UTC)
    found = derive_possible_days(sent("static", winter), ZoneInfo("Australia/Lord_Howe"))
    assert found == DateRange(date(2026, 7, 7), date(2026, 7, 8))


def test_some_wait_a_day_for_their_local_time() -> None:
    """Scheduled when the time had passed somewhere, it goes on there on the following day."""
    nine = datetime(2026, 10, 7, 9, tzinfo=UTC)
    local = sent("static", nine, planned_at=nine, is_local_time=True, is_next_day_if_passed=True)
    assert derive_possible_days(replace(local, scheduled_at=nine), ZONE) == october(6, 9)
    early = datetime(2026, 10, 1, tzinfo=UTC)
    assert derive_possible_days(replace(local, scheduled_at=early), ZONE) == october(6, 8)


@pytest.mark.parametrize(("minute", "is_spread"), [(59, False), (0, True)])
def test_late_in_the_evening_it_may_run_past_midnight(minute: int, is_spread: bool) -> None:  # noqa: FBT001
    """From two hours before local midnight on, a send counts as spread over both days."""
    hour = 20 if is_spread else 19
    found = derive_possible_days(
        sent("static", datetime(2026, 10, 7, hour, minute, tzinfo=UTC)), ZONE
    )
    assert found == (october(7, 8) if is_spread else october(7, 7))


def test_recipients_local_time_goes_around_the_world() -> None:
    """Nine in the morning on every recipient's clock takes 26 hours of the account's."""
    nine = datetime(2026, 10, 7, 9, tzinfo=UTC)
    found = derive_possible_days(sent("static", nine, planned_at=nine, is_local_time=True), ZONE)
    assert found == october(6, 8)


def test_smart_send_time_takes_a_day_of_every_zone() -> None:
    """Each recipient's own hour, from the first zone's midnight to a day after the last's noon."""
    found = derive_possible_days(sent("smart_send_time", planned_on=DAY), ZONE)
    assert found == october(6, 9)


@pytest.mark.parametrize(("percentage", "last"), [(50, 7), (20, 7), (10, 8), (None, 10)])
def test_throttled_takes_as_many_hours_as_it_has_parts(percentage: int | None, last: int) -> None:
    """A tenth an hour takes ten hours; an unknown part counts as days."""
    found = derive_possible_days(sent("throttled", throttle_percentage=percentage), ZONE)
    assert found == (october(7, 7) if last == 7 else october(7, last))


def test_a_test_sends_its_winner_later() -> None:
    """The send time of an A/B test's winner is unknown."""
    assert derive_possible_days(sent("ab_test_campaign"), ZONE) == october(7, 10)


@pytest.mark.parametrize("method", [None, "unsupported", "carrier_pigeon"])
def test_unknown_ways_count_as_spread(method: str | None) -> None:
    """A strategy that we do not know is looked for around the time it was due."""
    assert derive_possible_days(sent(method), ZONE) == october(6, 10)


@pytest.mark.parametrize("status", ["Sending", "Variations Sent", "Cancelled", None])
def test_what_is_not_plainly_sent_counts_as_spread(status: str | None) -> None:
    """A campaign that is under way, held up or was stopped may have days before it."""
    assert derive_possible_days(sent("static", status=status), ZONE) == october(7, 10)


@pytest.mark.parametrize("method", ["static", "throttled", "smart_send_time", "ab_test_campaign"])
def test_without_any_time_it_is_unknown(method: str) -> None:
    """A campaign without any time may have been sent on any day."""
    assert derive_possible_days(sent(method, None), ZONE) is None


def test_a_planned_time_stands_in() -> None:
    """Where Klaviyo has no send time, the strategy's counts."""
    assert derive_possible_days(sent("static", None, planned_at=NOON), ZONE) == october(7, 7)


def campaign_row(method: str, **options: object) -> dict[str, object]:
    """Return a row of campaigns since 2026-10-15, with one message of two variations."""
    definition = {"status": "sent", "send_options": {"send_strategy": method, **options}}
    message = {"id": "m", "attributes": {"definition": definition}}
    empty = dict.fromkeys(
        (
            "send_strategy_datetime",
            "send_strategy_date",
            "send_strategy_options_is_local",
            "send_strategy_options_send_past_recipients_immediately",
            "scheduled_at",
            "send_strategy_throttle_percentage",
        )
    )
    return {
        **empty,
        "id": "c",
        "status": "Sent",
        "channel": "email",
        "send_time": NOON,
        "send_strategy_method": method,
        "updated_at": datetime(2026, 10, 9, 10, tzinfo=UTC),
        "campaign_message_ids": ["m"],
        "campaign_variation_ids": ["a", "b"],
        "campaign_messages": json.dumps([message]),
    }


def test_a_message_with_a_time_of_its_own_was_sent_then() -> None:
    """A test of send times says of each variation when it went out: no day has to be searched."""
    times = {"a": "2026-10-07T10:00:00Z", "b": "2026-10-09T09:59:00+00:00", "c": None}
    campaign = parse_campaign_row(campaign_row("ab_send_time_test", send_times=times))
    assert campaign.message_ids == ("a", "b")
    assert derive_message_days(campaign, ZONE) == {"a": october(7, 7), "b": october(9, 9)}
    assert derive_possible_days(campaign, ZONE) == october(7, 9)
    unsent = replace(campaign, status="Sending")
    assert derive_message_days(unsent, ZONE) == {"a": october(7, 10), "b": october(9, 12)}


@pytest.mark.parametrize("method", ["send_time_optimization", "static"])
def test_times_of_another_strategy_name_no_day(method: str) -> None:
    """Where recipients get a message at hours of their own, its time is only the first of them."""
    row = campaign_row(method, send_times={"a": "2026-10-07T10:00:00Z"})
    assert derive_message_days(parse_campaign_row(row), ZONE) == {}


@pytest.mark.parametrize(
    ("options", "percentage"),
    [
        ({"recipient_percentage": 10, "throttle_unit": "hour"}, 10),
        ({"recipient_percentage": 1, "throttle_unit": "minute"}, 60),
        ({"recipient_percentage": 5, "throttle_unit": "minute"}, 100),
        ({}, None),
    ],
)
def test_a_throttled_message_says_how_long_it_takes(
    options: dict[str, object], percentage: int | None
) -> None:
    """The share of an hour is that of the campaign until 2026-07-15."""
    row = campaign_row("throttled", **options)
    assert parse_campaign_row(row).throttle_percentage == percentage
