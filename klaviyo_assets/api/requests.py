"""Builds the requests that read: collections, details, next pages, reports, metric aggregates."""

import json
import re
from collections.abc import Collection as Several
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, parse_qsl, quote, urljoin, urlsplit

from klaviyo_assets import __version__
from klaviyo_assets.api.messages import Request
from klaviyo_assets.errors import ForeignLinkError, RepeatedPageError
from klaviyo_assets.model.column import FieldPath, JsonPath, LatestOf, column_fields
from klaviyo_assets.model.report import TOTAL_DIMENSION, DateRange, ReportEndpoint
from klaviyo_assets.model.stream import (
    TIER_S,
    AdditionalField,
    Collection,
    Cursor,
    Detail,
    RateLimitBucket,
    Slice,
    Stream,
)
from klaviyo_assets.model.window import Window

FilterValue = str | bool | int | datetime


def percent_encode(text: str) -> str:
    """Return text percent-encoded for a query or one path segment; only letters, digits, -._~ stay.

    A lone surrogate, which JSON can carry into an id, is encoded as its three bytes.
    """
    return quote(text, safe="", errors="surrogatepass")


def format_filter_time(timestamp: datetime) -> str:
    """Return `2026-01-31T00:00:00Z`, in UTC; microseconds are written only where there are some.

    Raises:
        ValueError: the timestamp has no time zone.
    """
    if timestamp.tzinfo is None:
        raise ValueError(f"{timestamp.isoformat()} has no zone; times are sent to Klaviyo in UTC")
    return timestamp.astimezone(UTC).isoformat().replace("+00:00", "Z")


def format_filter_value(value: FilterValue) -> str:
    """Return a value in the grammar of Klaviyo's filters."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case datetime():
            return format_filter_time(value)
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'


def filter_clause(operator: str, field: str, value: FilterValue) -> str:
    """Return one condition of a filter, not yet percent-encoded."""
    return f"{operator}({field},{format_filter_value(value)})"


def contains_any_clause(field: str, values: Sequence[str]) -> str:
    """Return the condition that a field is one of `values`, as filters of reports have it."""
    return f"contains-any({field},[{','.join(format_filter_value(value) for value in values)}])"


def join_clauses(*clauses: str) -> str:
    """Return the non-empty clauses joined by AND; empty without any."""
    return ",".join(each for each in clauses if each)


MEDIA_TYPE = "application/vnd.api+json"


def first_page_request(
    stream: Stream,
    slice_: Slice,
    window: Window,
    *,
    excluded_fields: frozenset[str] = frozenset(),
    fields: tuple[str, ...] | None = None,
) -> Request:
    """Return the request for the first page of a slice, records ascending by the cursor.

    `excluded_fields`: additional fields to leave out; `fields`: the only attributes to request,
    None or empty for all. For a stream without a cursor `window` is ignored: Klaviyo cannot filter.

    Raises:
        TypeError: the stream is no collection.
    """
    source = stream.source
    if not isinstance(source, Collection):
        raise TypeError(f"{stream.name} is not read page by page")
    bounds = window_clauses(stream.cursor, window) if stream.cursor else ""
    parameters = {
        "filter": join_clauses(slice_.filter, bounds),
        "sort": stream.cursor.field if stream.cursor else "",
        "page[size]": str(source.page_size) if source.page_size is not None else "",
        "include": ",".join(source.include),
        **additional_field_parameters(source.additional_fields, excluded_fields),
        f"fields[{resource_type(source.path)}]": ",".join(fields or ()),
    }
    path = slice_.path or source.path
    return Request(
        method="GET",
        target=path + build_query(parameters),
        buckets=stream.rate_limit_buckets(excluded_fields=excluded_fields),
        path=path,
    )


def record_path(template: str, record_id: str) -> str:
    """Return the path of one record: the template with the id, percent-encoded, for `{id}`.

    Raises:
        ValueError: the id is empty: the path would be that of the whole collection.
    """
    if not record_id:
        raise ValueError(f"{template}: a record without an id cannot be requested")
    # URL parsers take a segment of only dots for a folder, unless it is encoded.
    segment = percent_encode(record_id) if record_id.strip(".") else "%2E" * len(record_id)
    return template.replace("{id}", segment)


def detail_request(
    stream: Stream, record_id: str, *, excluded_fields: frozenset[str] = frozenset()
) -> Request:
    """Return the request for the detail of one parent record.

    Raises:
        TypeError: the stream is not a detail of another one.
        ValueError: the id is empty: the URL would be that of the whole collection.
    """
    source = stream.source
    if not isinstance(source, Detail):
        raise TypeError(f"{stream.name} is not read record by record")
    path = record_path(source.path, record_id)
    # The other attributes came with the parent's own pages.
    resources = [extra.resource for extra in source.additional_fields]
    paths = [path for column in stream.columns for path, _ in column_fields(column)]
    names = ",".join(".".join(path) for path in paths)
    only = {f"fields[{each}]": names for each in [*resources, source.resource] if each}
    query = build_query(
        {**additional_field_parameters(source.additional_fields, excluded_fields), **only}
    )
    return Request(
        method="GET",
        target=path + query,
        buckets=stream.rate_limit_buckets(excluded_fields=excluded_fields),
        path=path,
    )


def related_request(stream: Stream, template: str, record_id: str) -> Request:
    """Return the request for what is related to one record, at the stream's own tier.

    `template` is a path with `{id}`.

    Raises:
        TypeError: the stream makes no requests.
        ValueError: the id is empty.
    """
    if stream.tier is None:
        raise TypeError(f"{stream.name} makes no requests")
    path = record_path(template, record_id)
    buckets = (RateLimitBucket(f"GET {template}", stream.tier),)
    return Request(method="GET", target=path, buckets=buckets, path=path)


def included_resources(request: Request) -> tuple[str, ...]:
    """Return the names in a request's `include` parameter."""
    pairs = parse_qsl(request.target.partition("?")[2])
    return tuple(part for name, value in pairs if name == "include" for part in value.split(","))


def remove_includes(request: Request, refused: Several[str]) -> Request:
    """Return the request without those names in `include`; unchanged if it has none of them."""
    requested = included_resources(request)
    kept = [part for part in requested if part not in refused]
    if len(kept) == len(requested):
        return request
    path, _, query = request.target.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    parameters = {name: ",".join(kept) if name == "include" else value for name, value in pairs}
    return replace(request, target=path + build_query(parameters))


def window_clauses(cursor: Cursor, window: Window) -> str:
    r"""Return the filter clauses of a window; an open side has none.

    Where the window has no start, the cursor's `earliest` is used, if it has one.

                      start floored to 1 s        end
    ───────────────────────────┼───────────────────┼──────▶ UTC, 1 s ticks
    greater-or-equal(start) ───[═══════════════════)──────▶ where Klaviyo offers it
    greater-than(start - 1 s) ═(═══════════════════)──────▶ elsewhere; a row read twice is kept once
    """
    start, end = "", ""
    first = window.start or cursor.earliest
    if first is not None:
        floored = first.replace(microsecond=0)
        if cursor.is_inclusive:
            start = filter_clause("greater-or-equal", cursor.field, floored)
        else:
            start = filter_clause("greater-than", cursor.field, floored - timedelta(seconds=1))
    if window.end is not None:
        end = filter_clause("less-than", cursor.field, window.end)
    return join_clauses(start, end)


def additional_field_parameters(
    additional_fields: tuple[AdditionalField, ...], excluded_fields: frozenset[str]
) -> dict[str, str]:
    """Return the `additional-fields` parameters, one for each resource type."""
    wanted: dict[str, str] = {}
    for extra in additional_fields:
        if extra.name not in excluded_fields:
            name = f"additional-fields[{extra.resource}]"
            wanted[name] = ",".join(filter(None, (wanted.get(name), extra.name)))
    return wanted


def resource_type(path: str) -> str:
    """Return the JSON:API type of a collection: its path's last segment in the singular.

    This holds for every collection of revision 2026-07-15 (checked against the OpenAPI document).
    """
    plural = path.rsplit("/", maxsplit=1)[-1]
    return plural[:-3] + "y" if plural.endswith("ies") else plural.removesuffix("s")


def build_query(parameters: Mapping[str, str]) -> str:
    """Return the query with its `?`; parameters without a value are left out."""
    pairs = [
        f"{percent_encode(name)}={percent_encode(value)}"
        for name, value in parameters.items()
        if value
    ]
    return "?" + "&".join(pairs) if pairs else ""


def next_page_request(
    request: Request, link: str | None, *, base_url: str, seen_targets: set[str]
) -> Request | None:
    """Return the request for the next page, or None after the last one.

    `base_url` is the server that the link must stay on. `seen_targets` holds the targets of the
    pages read so far; that of `request` is added to it.

    Raises:
        ForeignLinkError: the link leaves the scheme, host, port or path.
        RepeatedPageError: the link leads to a target in `seen_targets`: paging runs in a circle.
    """
    seen_targets.add(request.target)
    if not link:
        return None
    there = parse_next_link(base_url + request.target, link)
    is_here = url_origin(there) == url_origin(urlsplit(base_url))
    if not is_here or there.path.rstrip("/") != request.path.rstrip("/"):
        raise foreign_link_error(request, there)
    target = f"{there.path}?{there.query}" if there.query else there.path
    if target in seen_targets:
        raise RepeatedPageError(
            f"{request.method} {request.path}: the next link leads back to a page already read "
            f"({len(seen_targets)} pages so far). Klaviyo's paging runs in a circle: run it again, "
            "and tell Klaviyo's support if it stays so."
        )
    return replace(request, target=target)


PAGE_CURSOR_PATTERN = re.compile(r"(?i)(?<=[?&])page(?:%5B|\[)cursor(?:%5D|\])=")
PAGE_SIZE_PATTERN = re.compile(r"(?i)(?<=[?&])(page(?:%5B|\[)size(?:%5D|\]))=([0-9]+)(?=&|$)")


def requested_page_size(request: Request) -> int | None:
    """Return the `page[size]` of a request; None without one: Klaviyo chooses."""
    found = PAGE_SIZE_PATTERN.search(request.target)
    return None if found is None else int(found[2])


def has_page_cursor(request: Request) -> bool:
    """Return whether a request is for a page after the first."""
    return PAGE_CURSOR_PATTERN.search(request.target) is not None


def set_page_size(request: Request, size: int) -> Request:
    """Return the request with another page size, for a first page or a next link.

    Unverified for next links: a cursor names only the last record, and the OpenAPI document lists
    both parameters side by side. If Klaviyo refuses one, it counts as a lost cursor, and the slice
    starts again.
    """
    return replace(request, target=PAGE_SIZE_PATTERN.sub(rf"\g<1>={size}", request.target, count=1))


def parse_next_link(url: str, link: str) -> SplitResult:
    """Return the parts of a link on the page at `url`; if it cannot be read, empty: foreign."""
    try:
        there = urlsplit(urljoin(url, link))
        url_origin(there)
    except ValueError:
        there = urlsplit("")
    # Control characters or blanks could end the request line and begin another one.
    return there if re.fullmatch(r"[\x21-\x7e]+", link) else urlsplit("")


DEFAULT_PORTS = {"https": 443, "http": 80}


def url_origin(url: SplitResult) -> tuple[str, str | None, str | None, int | None]:
    """Return scheme, user, host and port.

    Raises:
        ValueError: the port is not a number.
    """
    return url.scheme, url.username, url.hostname, url.port or DEFAULT_PORTS.get(url.scheme)


def foreign_link_error(request: Request, target: SplitResult) -> ForeignLinkError:
    """Return the error for a link that leaves the endpoint; it does not show the query."""
    shown = (
        f"{target.scheme}://{target.hostname}{target.path}"[:200] if target.hostname else "no URL"
    )
    return ForeignLinkError(
        f"{request.method} {request.path}: the next link leaves the endpoint ({shown!a}) and was "
        "not followed: it would carry the key along. Check KLAVIYO_BASE_URL and any proxy."
    )


def request_headers(key: str, revision: str) -> dict[str, str]:
    """Return the headers of every request.

    With the opt-out header a retired revision gets a 410. Without it Klaviyo responds with 200 in
    the shape of another revision, and a silent change is worse than a failure.
    Source: https://developers.klaviyo.com/en/docs/api_versioning_and_deprecation_policy
    """
    return {
        "Authorization": f"Klaviyo-API-Key {key}",
        "revision": revision,
        "X-Klaviyo-Revision-Fall-Forward-Opt-Out": "1",
        "Accept": MEDIA_TYPE,
        "Accept-Encoding": "gzip",
        "User-Agent": f"klaviyo-assets/{__version__}",
    }


def parse_date_header(response_headers: Mapping[str, str]) -> datetime | None:
    """Return the server's time in UTC from the `date` header; None if it cannot be read."""
    try:
        moment = parsedate_to_datetime(response_headers.get("date", ""))
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, TypeError, OverflowError):
        return None


def sparse_fieldset(stream: Stream, excluded: frozenset[str]) -> tuple[str, ...]:
    """Return the attributes to request of a collection, dotted and sorted; empty: request all.

    Those that the collection declares are always requested alone. It is also empty where any column
    is read from a relationship: Klaviyo's documentation contradicts itself on whether `fields`
    leaves relationships out, and does not list their names among the values of `fields`. And
    where an attribute would be named that a revision does not list: Klaviyo refuses such a name.
    """
    if not isinstance(stream.source, Collection):
        return ()
    if stream.source.fields:
        return stream.source.fields
    if not all(isinstance(column.source, FieldPath | LatestOf) for column in stream.columns):
        return ()
    wanted_paths = {
        path
        for each in stream.columns
        if each.name not in excluded
        for path, _ in column_fields(each)
    }
    excluded_paths = {
        path for each in stream.columns if each.name in excluded for path, _ in column_fields(each)
    } - wanted_paths
    if not excluded_paths or not wanted_paths:
        return ()
    prefixes = {_shortest_safe_prefix(path, excluded_paths) for path in wanted_paths}
    if any(
        ".".join(prefix).startswith(each)
        for prefix in prefixes
        for each in stream.unlisted_attributes
    ):
        return ()
    return tuple(sorted(map(".".join, prefixes)))


def _shortest_safe_prefix(path: JsonPath, excluded_paths: set[JsonPath]) -> JsonPath:
    """Return the shortest prefix of a path that is a prefix of none of `excluded_paths`."""
    prefixes = [path[:end] for end in range(1, len(path) + 1)]
    return next(
        (
            each
            for each in prefixes
            if not any(excluded[: len(each)] == each for excluded in excluded_paths)
        ),
        path,
    )


MAX_FILTER_IDS = 100
"""The longest list that one filter may hold."""


def report_request(
    report: ReportEndpoint,
    *,
    stream: Stream,
    metric_id: str,
    days: DateRange,
    message_ids: tuple[str, ...] = (),
) -> Request:
    """Return the request for the first page of a report over whole days, both ends inclusive.

    `metric_id` is not sent where the report takes none. `message_ids` restricts the report to those
    messages; none means all. `stream` determines the
    rate limit buckets.

                      first                       last
    ────────────────────┼──────────────────────────┼─────────▶ days of the account's zone
    timeframe ──────────[══════════════════════════]─────────▶ 00:00:00 to 23:59:59

    Raises:
        ValueError: Klaviyo would refuse it: more days or ids than allowed, or an empty id.
    """
    metric_ids = (metric_id,) if report.has_metric else ()
    check_report_request(report, days, metric_ids=metric_ids, message_ids=message_ids)
    wanted = {
        "statistics": report.statistics,
        # Without an offset: Klaviyo would ignore it and read the time in the account's zone.
        "timeframe": {"start": f"{days.first}T00:00:00", "end": f"{days.last}T23:59:59"},
        "interval": report.interval,
        "conversion_metric_id": metric_id if report.has_metric else None,
        "group_by": report.group_by or None,
        "filter": contains_any_clause(report.message_field, message_ids) if message_ids else None,
    }
    attributes = {name: value for name, value in wanted.items() if value is not None}
    body = {"data": {"type": report.type, "attributes": attributes}}
    return Request(
        method="POST",
        target=report.path,
        buckets=stream.rate_limit_buckets(),
        path=report.path,
        body=json.dumps(body).encode(),
    )


def check_report_request(
    report: ReportEndpoint,
    days: DateRange,
    *,
    metric_ids: tuple[str, ...],
    message_ids: tuple[str, ...],
) -> None:
    """Refuse a report request that Klaviyo would answer with a 400.

    Raises:
        ValueError: too many days or messages, or an empty id.
    """
    if len(days) > report.max_days:
        raise ValueError(f"{report.path}: {len(days)} days in one request of {report.max_days}")
    if len(message_ids) > MAX_FILTER_IDS:
        raise ValueError(f"{report.path}: {len(message_ids)} ids in one filter of {MAX_FILTER_IDS}")
    if not all((*metric_ids, *message_ids)):
        raise ValueError(f"{report.path}: an id is empty")


def next_report_request(
    request: Request,
    *,
    link: str | None,
    page_cursor: str | None,
    base_url: str,
    seen_targets: set[str],
) -> Request | None:
    """Return the request for the next page, with the same body, or None after the last one.

    The OpenAPI document has the query parameter `page_cursor`; recorded responses carry
    `links.next`. The link is followed where there is one. Each page counts against the rate limit
    as one request. All else is as `next_page_request` has it.
    """
    if not link and page_cursor:
        link = f"{request.path}?page_cursor={percent_encode(page_cursor)}"
    return next_page_request(request, link, base_url=base_url, seen_targets=seen_targets)


METRIC_AGGREGATES_PATH = "/api/metric-aggregates"
METRIC_AGGREGATES_TIER = TIER_S

MAX_AGGREGATE_DAYS = 365
"""The longest window of one request is a year."""


def event_count_request(metric_id: str, window: Window) -> Request:
    """Return the request for one metric's number of events on each UTC day of a window.

    The response is one row, so there is one page. `sort` is left out because Klaviyo fails with it,
    `by` because it returns an unlimited number of rows.

    Raises:
        ValueError: Klaviyo would refuse it: no id, an open side, or more than a year.
    """
    return _build_aggregate_request(
        metric_id, window, measurements=("count",), dimensions=(), timezone="UTC"
    )


OFFERED_TIMEZONES = {"Europe/Kyiv": "Europe/Kiev", "Pacific/Kanton": "Pacific/Enderbury"}
"""Zones that the endpoint refuses under their newer name, each with the older one."""


def metric_aggregate_request(
    report: ReportEndpoint, metric_id: str, window: Window, *, timezone: str, dimension: str
) -> Request:
    """Return the request for what a metric counted on each day of a window, by a dimension.

    The window begins and ends with days of `timezone`, an IANA name. `TOTAL_DIMENSION` groups by
    nothing.

    Raises:
        ValueError: Klaviyo would refuse it: no id, an open side, or more than a year.
    """
    return _build_aggregate_request(
        metric_id,
        window,
        measurements=report.statistics,
        dimensions=() if dimension == TOTAL_DIMENSION else (dimension,),
        timezone=OFFERED_TIMEZONES.get(timezone, timezone),
    )


def _build_aggregate_request(
    metric_id: str,
    window: Window,
    *,
    measurements: Sequence[str],
    dimensions: Sequence[str],
    timezone: str,
) -> Request:
    start, end = window.start, window.end
    # An hour more where the clocks are put back within the year.
    longest = MAX_AGGREGATE_DAYS + 1 / 24
    if not metric_id or start is None or end is None or not 0 < _window_days(window) <= longest:
        raise ValueError(
            f"{METRIC_AGGREGATES_PATH}: a metric and a closed window of up to {MAX_AGGREGATE_DAYS} "
            "days"
        )
    attributes = {
        "metric_id": metric_id,
        "measurements": list(measurements),
        "interval": "day",
        **({"by": list(dimensions)} if dimensions else {}),
        "filter": [
            filter_clause("greater-or-equal", "datetime", start),
            filter_clause("less-than", "datetime", end),
        ],
        "timezone": timezone,
    }
    body = {"data": {"type": "metric-aggregate", "attributes": attributes}}
    return Request(
        method="POST",
        target=METRIC_AGGREGATES_PATH,
        buckets=(RateLimitBucket(f"POST {METRIC_AGGREGATES_PATH}", METRIC_AGGREGATES_TIER),),
        path=METRIC_AGGREGATES_PATH,
        body=json.dumps(body).encode(),
    )


def next_aggregate_request(request: Request, cursor: str, *, seen_cursors: set[str]) -> Request:
    """Return the request for the next page of metric aggregates: the cursor is part of the body.

    Raises:
        RepeatedPageError: the cursor is in `seen_cursors`, to which it is added.
    """
    if cursor in seen_cursors:
        raise RepeatedPageError(
            f"POST {request.path}: the next page is one already read. Klaviyo's paging runs in a "
            "circle: run it again, and tell Klaviyo's support if it stays so."
        )
    seen_cursors.add(cursor)
    body = json.loads(request.body or b"{}")
    body["data"]["attributes"]["page_cursor"] = cursor
    return replace(request, body=json.dumps(body).encode())


def _window_days(window: Window) -> float:
    return (window.ceiling - window.floor).total_seconds() / 86_400
