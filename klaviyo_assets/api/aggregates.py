"""Metric aggregates, as values: a POST that asks how many events of a metric there were, by day.

What belongs here: the body and its bounds. What does not: which metrics and days to ask for
(`sync/counts.py`), the answer (`tables/aggregates.py`).
Source: https://developers.klaviyo.com/en/reference/query_metric_aggregates, revision 2026-07-15.
"""

import json

from klaviyo_assets.api.exchange import Request
from klaviyo_assets.api.filters import clause
from klaviyo_assets.model.tiers import Budget, S
from klaviyo_assets.model.window import Window

PATH = "/api/metric-aggregates"
TIER = S
SCOPE = "metrics:read"

MOST_DAYS = 365
"""The longest window of one request is a year."""


def count_request(metric_id: str, window: Window, *, base_url: str) -> Request:
    """Return the request for one metric's number of events on each UTC day of a window.

    One row comes back, so there is one page. `sort` and `by` are left out: the first fails at
    Klaviyo, the second brings rows without end.

    Raises:
        ValueError: Klaviyo would refuse it: no id, an open side, or more than a year.
    """
    start, end = window.start, window.end
    if not metric_id or start is None or end is None or not 0 < _days(window) <= MOST_DAYS:
        raise ValueError(f"{PATH}: a metric and a closed window of up to {MOST_DAYS} days")
    attributes = {
        "metric_id": metric_id,
        "measurements": ["count"],
        "interval": "day",
        "filter": [
            clause("greater-or-equal", "datetime", start),
            clause("less-than", "datetime", end),
        ],
        "timezone": "UTC",
    }
    body = {"data": {"type": "metric-aggregate", "attributes": attributes}}
    return Request(
        method="POST",
        url=base_url + PATH,
        budgets=(Budget(f"POST {PATH}", TIER),),
        path=PATH,
        body=json.dumps(body).encode(),
    )


def _days(window: Window) -> float:
    return (window.ceiling - window.floor).total_seconds() / 86_400
