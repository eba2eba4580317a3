"""The POST requests that only read: reports and metric aggregates."""

import json

from klaviyo_assets.api.messages import Request
from klaviyo_assets.api.requests import (
    contains_any_clause,
    filter_clause,
    next_page_request,
    percent_encode,
)
from klaviyo_assets.model.report import DateRange, ReportEndpoint
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.model.window import Window
from klaviyo_assets.rate_tiers import TIER_S, RateLimitBucket

MAX_FILTER_IDS = 100
"""The longest list that one filter may hold."""


def report_request(  # noqa: PLR0913 - the pieces of one request, each with a name
    report: ReportEndpoint,
    *,
    stream: Stream,
    metric_id: str,
    days: DateRange,
    message_ids: tuple[str, ...] = (),
    base_url: str,
) -> Request:
    """Return the request for the first page of a report over whole days, both ends inclusive.

    `message_ids` restricts the answer to those messages; none means all. The stream tells what the
    request spends.

                      first                       last
    ────────────────────┼──────────────────────────┼─────────▶ days of the account's zone
    timeframe ──────────[══════════════════════════]─────────▶ 00:00:00 to 23:59:59

    Raises:
        ValueError: Klaviyo would refuse it: more days or ids than it takes, or an empty id.
    """
    check_report_request(report, days, (metric_id, *message_ids))
    wanted = {
        "statistics": report.statistics,
        # Without an offset: Klaviyo ignores it, and takes the time in the account's zone.
        "timeframe": {"start": f"{days.first}T00:00:00", "end": f"{days.last}T23:59:59"},
        "interval": report.interval,
        "conversion_metric_id": metric_id,
        "group_by": report.group_by,
        "filter": contains_any_clause(report.message_field, message_ids) if message_ids else None,
    }
    attributes = {name: value for name, value in wanted.items() if value is not None}
    body = {"data": {"type": report.type, "attributes": attributes}}
    return Request(
        method="POST",
        url=base_url + report.path,
        buckets=stream.rate_limit_buckets(),
        path=report.path,
        body=json.dumps(body).encode(),
    )


def check_report_request(report: ReportEndpoint, days: DateRange, ids: tuple[str, ...]) -> None:
    """Refuse what would cost a request and bring a 400; `ids` are the metric's and the messages'.

    Raises:
        ValueError: too many days or messages, or an empty id.
    """
    if len(days) > report.max_days:
        raise ValueError(f"{report.path}: {len(days)} days in one request of {report.max_days}")
    if len(ids) - 1 > MAX_FILTER_IDS:
        raise ValueError(f"{report.path}: {len(ids) - 1} ids in one filter of {MAX_FILTER_IDS}")
    if not all(ids):
        raise ValueError(f"{report.path}: an id is empty")


def next_report_request(
    request: Request, *, link: str | None, page_cursor: str | None, seen_urls: set[str]
) -> Request | None:
    """Return the request for the next page, with the same body, or None after the last one.

    The document offers the query parameter `page_cursor`, recorded answers carry `links.next`: the
    link is followed where there is one. Each page is booked like a request of its own. `seen_urls`
    holds the URLs of this report's pages; that of `request` is added.

    Raises:
        ForeignLinkError: the link leaves the scheme, host, port or path.
        RepeatedPageError: it leads to a page of `seen_urls`.
    """
    if not link and page_cursor:
        link = f"{request.path}?page_cursor={percent_encode(page_cursor)}"
    return next_page_request(request, link, seen_urls=seen_urls)


METRIC_AGGREGATES_PATH = "/api/metric-aggregates"
METRIC_AGGREGATES_TIER = TIER_S
METRIC_AGGREGATES_SCOPE = "metrics:read"

MAX_AGGREGATE_DAYS = 365
"""The longest window of one request is a year."""


def event_count_request(metric_id: str, window: Window, *, base_url: str) -> Request:
    """Return the request for one metric's number of events on each UTC day of a window.

    One row comes back, so there is one page. `sort` and `by` are left out: the first fails at
    Klaviyo, the second brings rows without end.

    Raises:
        ValueError: Klaviyo would refuse it: no id, an open side, or more than a year.
    """
    start, end = window.start, window.end
    if (
        not metric_id
        or start is None
        or end is None
        or not 0 < _window_days(window) <= MAX_AGGREGATE_DAYS
    ):
        raise ValueError(
            f"{METRIC_AGGREGATES_PATH}: a metric and a closed window of up to {MAX_AGGREGATE_DAYS} "
            "days"
        )
    attributes = {
        "metric_id": metric_id,
        "measurements": ["count"],
        "interval": "day",
        "filter": [
            filter_clause("greater-or-equal", "datetime", start),
            filter_clause("less-than", "datetime", end),
        ],
        "timezone": "UTC",
    }
    body = {"data": {"type": "metric-aggregate", "attributes": attributes}}
    return Request(
        method="POST",
        url=base_url + METRIC_AGGREGATES_PATH,
        buckets=(RateLimitBucket(f"POST {METRIC_AGGREGATES_PATH}", METRIC_AGGREGATES_TIER),),
        path=METRIC_AGGREGATES_PATH,
        body=json.dumps(body).encode(),
    )


def _window_days(window: Window) -> float:
    return (window.ceiling - window.floor).total_seconds() / 86_400
