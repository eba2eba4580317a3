"""What a reader should know of a stream before using it, in words made from its declaration.

The same words stand in Dagster's UI and in `docs/streams/<stream>.md`. All texts are Markdown.
"""

from collections.abc import Iterator, Mapping

from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.selection import upstream_streams
from klaviyo_assets.model.stream import (
    Children,
    Collection,
    Detail,
    Join,
    Stream,
    Unnest,
    ViewSource,
)

REFERENCE_URL = "https://developers.klaviyo.com/en/reference"

OPERATIONS: Mapping[str, str] = {
    "/api/billing-usage": "list_billing_usage",
    "/api/coupons/{id}/coupon-codes": "get_coupon_codes_for_coupon",
    "/api/flow-actions/{id}/flow-messages": "get_flow_action_messages",
    "/api/flows/{id}/flow-actions": "get_actions_for_flow",
    "/api/forms/{id}/form-versions": "get_versions_for_form",
    "/api/lists/{id}/profiles": "get_profiles_for_list",
    "/api/metrics/{id}/metric-properties": "get_properties_for_metric",
    "/api/object-types/{id}/object-records": "get_records_for_object_type",
    "/api/profile-bulk-import-jobs": "get_bulk_import_profiles_jobs",
    "/api/profile-suppression-bulk-create-jobs": "get_bulk_suppress_profiles_jobs",
    "/api/profile-suppression-bulk-delete-jobs": "get_bulk_unsuppress_profiles_jobs",
    "/api/segments/{id}/profiles": "get_profiles_for_segment",
    "/api/template-universal-content": "get_all_universal_content",
}
"""The operations whose names in Klaviyo's reference do not follow from their paths.

Source: `operationId` in https://github.com/klaviyo/openapi.
"""


HEADLINE_STATISTICS = ("recipients", "conversion_value")
"""What is asked first of a report that has it."""


def stream_facts(stream: Stream, streams: Mapping[str, Stream]) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each fact; `streams` must contain those it is made from."""
    yield "key", ", ".join(f"`{name}`" for name in stream.key)
    yield "cursor", f"`{stream.cursor.column}`" if stream.cursor else "none"
    if stream.has_shapes:
        yield "revisions", f"all; records have another shape since {stream.shape}"
    if stream.since is not None or stream.until is not None:
        yield "revisions", f"{stream.since or 'oldest'} to {stream.until or 'newest'}"
    if stream.history_columns:
        columns = ", ".join(f"`{name}`" for name in stream.history_columns)
        yield "history", f"`KLAVIYO_HISTORY` keeps a version of a row when it changed in {columns}"
    yield "scopes", ", ".join(f"`{scope}`" for scope in stream.scopes)
    for bucket in stream.rate_limit_buckets():
        tier = bucket.tier
        daily = f", {tier.daily} a day" if tier.daily else ""
        yield (
            "rate limit",
            f"`{bucket.name}`: {tier.name}, {tier.burst} a second, {tier.steady:,} a minute{daily}",
        )
    yield "requests of a second sync", second_sync(stream)
    pages = reference_pages(stream, streams)
    yield "Klaviyo's page", ", ".join(f"[{name}]({url})" for name, url in pages.items())


def reference_pages(stream: Stream, streams: Mapping[str, Stream]) -> dict[str, str]:
    """Return the pages of Klaviyo's reference that a stream is read by: operation and address."""
    if isinstance(stream.source, ViewSource):
        return {
            name: url
            for parent in upstream_streams(stream)
            for name, url in reference_pages(streams[parent], streams).items()
        }
    operation = _operation(stream.source)
    return {operation: f"{REFERENCE_URL}/{operation}"}


def _operation(source: Collection | Detail | Children | ReportEndpoint) -> str:
    """Return the name of the operation that reads a stream, as Klaviyo's reference has it."""
    path = source.path
    if path in OPERATIONS:
        return OPERATIONS[path]
    resource = path.removeprefix("/api/").removesuffix("/{id}").replace("-", "_")
    if isinstance(source, ReportEndpoint):
        return f"query_{resource.removesuffix('_reports')}"
    return f"get_{resource.removesuffix('s')}" if path.endswith("}") else f"get_{resource}"


def second_sync(stream: Stream) -> str:
    """Return in words how many requests a sync makes that finds nothing or little new."""
    if stream.read_first:
        first = " and ".join(f"`{name}`" for name in stream.read_first)
        return f"those of {first}, unless the same run made them; {_own_requests(stream)}"
    return _own_requests(stream)


def _own_requests(stream: Stream) -> str:
    upstream = " and ".join(f"`{name}`" for name in upstream_streams(stream))
    which = f"records since the cursor `{stream.cursor.column}`" if stream.cursor else "all records"
    match stream.source:
        case Detail(version_column=None):
            return f"one for each row of {upstream}"
        case Detail(version_column=version):
            return f"one for each row of {upstream} whose `{version}` is another than before"
        case Children(parent_condition=condition):
            path, start = (
                (f"{condition[0]}.{condition[1]}", condition[2]) if condition else ("", "")
            )
            parents = f"{upstream} whose `{path}` begins with `{start}`" if path else upstream
            return f"for each row of {parents}, one for each page of {which}, at least one"
        case Collection(slices=slices, page_size=size):
            parts = f"{len(slices)}, as Klaviyo sends it in {len(slices)} parts"
            page = f"page of {size:,}" if size else "page"
            return f"{parts if slices[1:] else 'one'}; one more for each further {page}, of {which}"
        case ReportEndpoint() as report:
            return second_fetch(report)
        case _:
            return f"none: it is a view of {upstream}"


def second_fetch(report: ReportEndpoint) -> str:
    """Return in words how many requests a report makes for what is missing or still moves."""
    metrics = {"conversion": "each conversion metric and ", "event": "each metric and "}
    of = metrics.get(report.metric or "", "each ")
    if report.period == "month":
        return f"one for {of}month that is missing or still moves"
    count = "one" if len(report.parts) == 1 else f"{len(report.parts)}"
    return f"{count} for {of}{report.max_days} days in which a day is asked for"


def sample_query(stream: Stream) -> str:
    """Return a query that somebody could begin with."""
    table = f"FROM klaviyo.{stream.name}"
    gone = stream.deletion_column.name
    alive = f" WHERE {gone} IS NULL" if stream.has_soft_deletes else ""
    match stream.source:
        case ReportEndpoint(statistics=names, rates=rates):
            additive = [name for name in names if name not in rates]
            told = [name for name in HEADLINE_STATISTICS if name in names] or additive[:1]
            sums = ", ".join(f"sum({name})" for name in told)
            return f"SELECT date, {sums} {table} GROUP BY date ORDER BY date DESC;"
        case Children():
            parent = stream.columns[0].name
            return f"SELECT {parent}, count(*) {table}{alive} GROUP BY {parent} ORDER BY 2 DESC;"
        case _ if stream.cursor:
            return f"{table}{alive} ORDER BY {stream.cursor.column} DESC LIMIT 10;"
        case _:
            return f"{table}{alive} LIMIT 10;"


def caveats(stream: Stream) -> Iterator[str]:
    """Yield what may surprise a reader of the rows, one sentence each."""
    match stream.source:
        case ReportEndpoint() as report:
            yield from _report_caveats(stream, report)
        case Join() | Unnest():
            yield "It stores nothing of its own: its rows are as new as those of its tables."
        case Detail():
            yield "What it adds is as of the time when it was read."
        case _:
            yield from _row_caveats(stream)
    names = [f"`{each.name}`" for each in stream.columns if each.is_free_form]
    if names:
        yield f"What is in {' and '.join(names)} differs by account: any data may be in it."


def _row_caveats(stream: Stream) -> Iterator[str]:
    """Yield which rows of a table may be missing, and which may have lived too long."""
    cursor, gone = stream.cursor, stream.deletion_column.name
    if stream.has_soft_deletes:
        yield f"Rows of records that are gone stay, with the time in `{gone}`; NULL: still there."
    if cursor is None:
        return
    if cursor.has_lookback:
        yield (
            "A record that Klaviyo receives after its time has passed is read by the schedule "
            "`klaviyo_late_events`, or with `KLAVIYO_LOOKBACK_DAYS`."
        )
    elif not cursor.is_version:
        yield "Only a full read finds what has left; a weekly schedule makes one."
    elif not stream.has_soft_deletes:
        yield "The row of a record that Klaviyo deletes stays until a full refresh."


def _report_caveats(stream: Stream, report: ReportEndpoint) -> Iterator[str]:
    period = report.period
    yield (
        f"Numbers of a {period} move until `is_final`; until then the sensor "
        "`klaviyo_reports_drain` fetches it again."
    )
    if any(each.is_additive is False for each in stream.columns):
        yield (
            f"Rates, and counts of people, do not add up over {period}s: such columns have the tag "
            "`klaviyo/is_additive: false`."
        )
    if report.metric == "conversion":
        yield f"What people did after a message counts on the {period} when it was sent."
