"""Parses the responses of metric aggregates: counts of events by day, and by a dimension of theirs.

The dates are true instants, unlike the labels of a series report: each is the start of a day in the
zone that the request names. Source: recorded responses of revision 2026-07-15, and
https://developers.klaviyo.com/en/docs/using-the-query-metric-aggregates-endpoint
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, tzinfo
from urllib.parse import parse_qs, urlsplit

import msgspec
from msgspec import Raw

from klaviyo_assets.decode.jsonapi import (
    ABSENT_JSON,
    EMPTY_JSON_VALUES,
    PageLinks,
    check_response_envelope,
    strip_bom,
)
from klaviyo_assets.decode.reports import ReportPage, ReportRow
from klaviyo_assets.errors import BrokenBodyError, MalformedPageError, format_quantity
from klaviyo_assets.model.report import TOTAL_DIMENSION, ReportEndpoint

MAX_PAGE_GROUPS = 500
"""Groups in one response, by Klaviyo's default. Whether it takes more is not documented."""


class _AggregateRow(msgspec.Struct):
    measurements: dict[str, list[float | None]]
    dimensions: list[str | int | float | bool | None] = []


class _AggregateAttributes(msgspec.Struct):
    dates: list[datetime]
    data: list[_AggregateRow]


class _AggregateResource(msgspec.Struct):
    attributes: _AggregateAttributes


class _AggregateResponse(msgspec.Struct):
    data: _AggregateResource
    links: Raw = ABSENT_JSON


_aggregate_response_decoder = msgspec.json.Decoder(_AggregateResponse)
_links_decoder = msgspec.json.Decoder(PageLinks)


def _decode_aggregates(body: bytes, stream: str) -> tuple[_AggregateAttributes, str | None]:
    """Return the counts, of which each has a value for each date, and the link to the next page.

    Raises:
        BrokenBodyError: not JSON, without `data` or with `errors`; a retry may help.
        MalformedPageError: not the documented shape.
    """
    text = strip_bom(body, stream)
    check_response_envelope(text, stream=stream, is_paged=False)
    try:
        response = _aggregate_response_decoder.decode(text)
        has_links = bytes(response.links) not in EMPTY_JSON_VALUES
        link = _links_decoder.decode(response.links).next if has_links else None
    except msgspec.ValidationError as problem:
        raise MalformedPageError(f"the counts have not the documented shape: {problem}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BrokenBodyError("the response is not JSON in UTF-8", stream=stream) from None
    found = response.data.attributes
    dates = len(found.dates)
    for row in found.data:
        for numbers in row.measurements.values():
            if len(numbers) != dates:
                reason = f"{len(numbers)} counts for {dates} dates"
                raise MalformedPageError(f"the shape of the counts is broken: {reason}")
    return found, link


def parse_event_counts(body: bytes) -> Mapping[date, int]:
    """Return the number of events on each UTC day of the response, including days without any.

    Raises:
        BrokenBodyError, MalformedPageError: as `_decode_aggregates` says; or there are no counts.
    """
    found, _ = _decode_aggregates(body, "events")
    days = _local_days(found.dates, UTC)
    counts = dict.fromkeys(days, 0)
    for row in found.data:
        if "count" not in row.measurements:
            raise MalformedPageError("the counts have not the documented shape: no count")
        for day, number in zip(days, row.measurements["count"], strict=True):
            counts[day] += int(number or 0)
    return counts


def parse_aggregate_page(
    body: bytes, report: ReportEndpoint, *, dimension: str, zone: tzinfo
) -> ReportPage:
    """Return the rows of one page of metric aggregates, grouped by a dimension or by none.

    A value of the dimension has a row for each day on which something was counted; the total has
    one for each day. Events without the dimension are those with an empty value.

    Raises:
        BrokenBodyError: a retry may help.
        MalformedPageError: not the documented shape, or more groups than a page holds and no way
            to the rest; no row is guessed.
    """
    found, link = _decode_aggregates(body, report.type)
    cursor = _page_cursor(link) if link else None
    if (link and cursor is None) or (link is None and len(found.data) >= MAX_PAGE_GROUPS):
        raise MalformedPageError(
            f"{format_quantity(len(found.data), 'group')} of {dimension}, and no way to the rest"
        )
    days = _local_days(found.dates, zone)
    if len(set(days)) != len(days):
        raise MalformedPageError("the counts have two dates of one day")
    rows = [each for row in found.data for each in _read_rows(row, days, dimension, report)]
    return ReportPage(days=days, rows=tuple(rows), next_link=None, page_cursor=cursor)


def _local_days(moments: Sequence[datetime], zone: tzinfo) -> tuple[date, ...]:
    return tuple(moment.astimezone(zone).date() for moment in moments)


def _page_cursor(link: str) -> str | None:
    """Return the cursor in the link to the next page: a request takes it in its body."""
    parameters = parse_qs(urlsplit(link).query)
    return next((parameters[name][0] for name in PAGE_CURSOR_NAMES if name in parameters), None)


# Unverified: the reference says where a cursor is sent, and not where it is returned.
PAGE_CURSOR_NAMES = ("page_cursor", "page[cursor]")


def _read_rows(
    row: _AggregateRow, days: Sequence[date], dimension: str, report: ReportEndpoint
) -> Iterator[ReportRow]:
    is_total = dimension == TOTAL_DIMENSION
    if len(row.dimensions) != (0 if is_total else 1):
        raise MalformedPageError(f"a group has {len(row.dimensions)} values of {dimension}")
    value = "" if is_total or row.dimensions[0] is None else str(row.dimensions[0])
    groupings = dict(zip(report.groupings, (dimension, value), strict=True))
    for position, day in enumerate(days):
        statistics = {name: numbers[position] for name, numbers in row.measurements.items()}
        if is_total or any(statistics.values()):
            yield ReportRow(day=day, groupings=groupings, statistics=statistics)
