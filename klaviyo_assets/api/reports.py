"""Report requests, as values: a POST whose body asks for statistics over days of the account.

What belongs here: the body, and the request for the next page. What does not: which days to ask
for (`sync/reports`), what the answer holds (`tables/reports.py`), the daily quota (`ledger.py`).
Source: https://developers.klaviyo.com/en/reference/reporting_api_overview, revision 2026-07-15.
"""

import json

from klaviyo_assets.api.exchange import Request
from klaviyo_assets.api.filters import any_of, encoded
from klaviyo_assets.api.protocol import next_request
from klaviyo_assets.model.report import Days, Report
from klaviyo_assets.model.stream import Stream

MOST_IDS = 100
"""The longest list that one filter may hold."""


def report_request(  # noqa: PLR0913 - the pieces of one request, each with a name
    report: Report,
    *,
    stream: Stream,
    metric_id: str,
    days: Days,
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
    refuse_unaskable(report, days, (metric_id, *message_ids))
    wanted = {
        "statistics": report.statistics,
        # Without an offset: Klaviyo ignores it, and takes the time in the account's zone.
        "timeframe": {"start": f"{days.first}T00:00:00", "end": f"{days.last}T23:59:59"},
        "interval": report.interval,
        "conversion_metric_id": metric_id,
        "group_by": report.group_by,
        "filter": any_of(report.message_field, message_ids) if message_ids else None,
    }
    attributes = {name: value for name, value in wanted.items() if value is not None}
    body = {"data": {"type": report.type, "attributes": attributes}}
    return Request(
        method="POST",
        url=base_url + report.path,
        budgets=stream.budgets(),
        path=report.path,
        body=json.dumps(body).encode(),
    )


def refuse_unaskable(report: Report, days: Days, ids: tuple[str, ...]) -> None:
    """Refuse what would cost a request and bring a 400; `ids` are the metric's and the messages'.

    Raises:
        ValueError: too many days or messages, or an empty id.
    """
    if len(days) > report.most_days:
        raise ValueError(f"{report.path}: {len(days)} days in one request of {report.most_days}")
    if len(ids) - 1 > MOST_IDS:
        raise ValueError(f"{report.path}: {len(ids) - 1} ids in one filter of {MOST_IDS}")
    if not all(ids):
        raise ValueError(f"{report.path}: an id is empty")


def following_report_request(
    request: Request, *, link: str | None, page_cursor: str | None, seen: set[str]
) -> Request | None:
    """Return the request for the next page, with the same body, or None after the last one.

    The document offers the query parameter `page_cursor`, recorded answers carry `links.next`: the
    link is followed where there is one. Each page is booked like a request of its own. `seen` holds
    the URLs of this report's pages; that of `request` is added.

    Raises:
        ForeignLinkError: the link leaves the scheme, host, port or path.
        RepeatedPageError: it leads to a page of `seen`.
    """
    if not link and page_cursor:
        link = f"{request.path}?page_cursor={encoded(page_cursor)}"
    return next_request(request, link, seen=seen)
