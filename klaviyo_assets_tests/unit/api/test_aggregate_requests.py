"""Counting requests: what they say, and what is never sent."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from klaviyo_assets.api.messages import READ_ONLY_POST_PATHS
from klaviyo_assets.api.requests import event_count_request
from klaviyo_assets.model.stream import TIER_S, RateLimitBucket
from klaviyo_assets.model.window import Window

START = datetime(2026, 9, 1, tzinfo=UTC)


def test_a_count_is_requested_by_utc_day() -> None:
    """The body requests one number a UTC day, without parameters that break Klaviyo."""
    request = event_count_request("AbC123", Window(START, START + timedelta(days=30)))
    assert (request.method, request.path) == ("POST", "/api/metric-aggregates")
    assert request.path in READ_ONLY_POST_PATHS
    assert request.buckets == (RateLimitBucket("POST /api/metric-aggregates", TIER_S),)
    assert json.loads(request.body or b"") == {
        "data": {
            "type": "metric-aggregate",
            "attributes": {
                "metric_id": "AbC123",
                "measurements": ["count"],
                "interval": "day",
                "filter": [
                    "greater-or-equal(datetime,2026-09-01T00:00:00Z)",
                    "less-than(datetime,2026-10-01T00:00:00Z)",
                ],
                "timezone": "UTC",
            },
        }
    }


@pytest.mark.parametrize(
    ("metric", "window"),
    [
        ("", Window(START, START + timedelta(days=1))),
        ("AbC123", Window(None, START)),
        ("AbC123", Window(START, None)),
        ("AbC123", Window(START, START)),
        ("AbC123", Window(START, START + timedelta(days=366))),
    ],
)
def test_what_klaviyo_would_refuse_is_not_sent(metric: str, window: Window) -> None:
    """No metric, an open or empty window, or more than a year cost no request."""
    with pytest.raises(ValueError, match="metric-aggregates"):
        event_count_request(metric, window)
