"""How often a report may fail within a day, whatever the clocks say."""

from datetime import UTC, datetime, timedelta

import pytest

from klaviyo_assets.errors import (
    BrokenBodyError,
    ConnectionLostError,
    IneligibleMetricError,
    KlaviyoAssetsError,
    MalformedPageError,
    QuotaError,
    RateLimitError,
    RequestError,
    ServerError,
    SettingError,
)
from klaviyo_assets.lake.response_cache import ReportFailure
from klaviyo_assets.reports.failed_requests import is_wasted_request, recent_failures

AT = datetime(2026, 11, 10, 12, tzinfo=UTC)


def failures(*minutes: float) -> list[ReportFailure]:
    """Return failures so many minutes after noon."""
    return [
        ReportFailure(failed_at=AT + timedelta(minutes=each), request="q", reason=f"reason {each}")
        for each in minutes
    ]


def test_three_failures_are_enough_until_the_first_is_a_day_old() -> None:
    """Then one more may fail: at no time are there more than three within a day."""
    known = recent_failures(failures(0, 1, 90), AT + timedelta(hours=2))
    assert known is not None
    assert known.tries_left == 0
    assert known.retry_at == AT + timedelta(hours=23, minutes=50)
    assert "not requested again before 2026-11-11 11:50 UTC" in known.describe()
    later = recent_failures(failures(0, 1, 90), known.retry_at)
    assert later is not None
    assert (later.failure_count, later.tries_left) == (2, 1)
    assert recent_failures(failures(0, 1, 90), AT + timedelta(days=2)) is None


def test_what_may_still_fail_is_left_alone_for_an_hour() -> None:
    """By those who launch runs themselves."""
    known = recent_failures(failures(0, 5), AT + timedelta(minutes=6))
    assert known is not None
    assert known.retry_at == AT + timedelta(minutes=65)
    assert known.reason == "reason 5"


def test_a_failure_of_the_future_does_not_count() -> None:
    """It was noted by a clock that was wrong, and would else count for years."""
    assert recent_failures(failures(60 * 24 * 365), AT) is None
    assert recent_failures(failures(5), AT) is not None


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (ServerError("x"), True),
        (BrokenBodyError("x"), True),
        (ConnectionLostError("x"), True),
        (ConnectionLostError("x", was_sent=False), False),
        (RequestError("x", status=400), True),
        (MalformedPageError("x"), True),
        (IneligibleMetricError("x", status=400), False),
        (RateLimitError("x"), False),
        (QuotaError("x"), False),
        (SettingError("x"), False),
    ],
)
def test_what_was_paid_in_vain(error: KlaviyoAssetsError, *, counts: bool) -> None:
    """A request that was sent and failed counts; a 429 does not use the day's quota."""
    assert is_wasted_request(error) is counts
