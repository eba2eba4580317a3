"""How old the rows of a stream may become: for policies of Dagster, and for `status`.

A report is judged by the days that it has, not by the age of its last fetch.
"""

from datetime import timedelta
from typing import Literal

from klaviyo_assets.model.stream import Stream

Freshness = Literal["fresh", "late", "stale"]

HOURLY_FRESHNESS_WINDOWS = (timedelta(hours=3), timedelta(hours=26))
"""The ages at which a stream that is synced hourly is late, and is stale."""

DAILY_FRESHNESS_WINDOWS = (timedelta(hours=26), timedelta(hours=74))
"""The ages at which a stream that is synced daily is late, and is stale."""


def freshness_windows(stream: Stream) -> tuple[timedelta, timedelta]:
    """Return the ages at which a stream is late, and is stale, by how often it is synced."""
    return DAILY_FRESHNESS_WINDOWS if stream.is_read_by_parent else HOURLY_FRESHNESS_WINDOWS


def describe_freshness(stream: Stream, age: timedelta) -> Freshness:
    """Return what rows of an age are: `fresh`, `late` or `stale`."""
    late_after, stale_after = freshness_windows(stream)
    if age > stale_after:
        return "stale"
    return "late" if age > late_after else "fresh"
