"""What Dagster's UI says of an asset: keys, tags, descriptions, and the metadata of each sync.

The next sync reads the cursor and the lake from that metadata. The descriptions are made from a
stream's declaration; the same words stand in `docs/streams/<stream>.md`, as Markdown.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import dagster as dg

from klaviyo_assets.errors import ConfigError, OtherLakeError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import LakeLocation, parse_location
from klaviyo_assets.model.column import Column
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.selection import upstream_streams
from klaviyo_assets.model.stream import (
    KEY_COLUMN,
    Children,
    Collection,
    Detail,
    Join,
    Stream,
    Unnest,
    ViewSource,
    column_origins,
    relation_columns,
)
from klaviyo_assets.model.window import parse_instant
from klaviyo_assets.streams import STREAMS

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
    if stream.history_columns:
        columns = ", ".join(f"`{name}`" for name in stream.history_columns)
        yield "history", f"`KLAVIYO_HISTORY` keeps a version of a row when it changed in {columns}"


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
    """Return in words how many requests a report makes for what is missing or not final."""
    metrics = {"conversion": "each conversion metric and ", "event": "each metric and "}
    of = metrics.get(report.metric or "", "each ")
    if report.period == "month":
        return f"one for {of}month that is missing or not final"
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


LAKE_METADATA_KEY = "klaviyo/lake"
"""Metadata of materializations and cursor observations: which lake they wrote, and where it lay."""


def check_same_lake(
    key: dg.AssetKey, stream: Stream, *, last_lake: str | None, lake: Lake
) -> LakeLocation:
    """Return where the lake is, after checking that the asset's history is of this lake.

    `last_lake` is the lake in the asset's last metadata; None if there is none.

    Raises:
        OtherLakeError: the history is of another lake in another place. No request was sent and
            nothing was written; the text names both ways out.
        StorageError: the lake's folder cannot be written.
    """
    now = lake.read_location()
    last = parse_location(last_lake) if last_lake is not None else None
    if last is None or not now.is_other_lake(last):
        return now
    name = key.to_user_string()
    wipe = f"wipe its history (`dagster asset wipe {name}`, or in the UI)"
    start_anew = (
        f"{wipe} and launch its partitions again"
        if isinstance(stream.source, ReportEndpoint)
        else f"materialize it once with sync_mode full_refresh_overwrite, or {wipe}"
    )
    raise OtherLakeError(
        f"Dagster's history of {name} was written for the lake in {last.place}, and this run has "
        f"another one in {now.place}: was a disk not mounted, or KLAVIYO_DATA_DIR changed? Nothing "
        "was read. To continue with the former lake, mount it there or set KLAVIYO_DATA_DIR to "
        f"where it lies; to start from nothing in this one, {start_anew}",
        stream=stream.name,
    )


CURSOR_METADATA_KEY = "klaviyo/cursor"
ROW_COUNT_METADATA_KEY = "dagster/row_count"
FIRST_SEEN_METADATA_KEY = "klaviyo/first_seen"
"""How late the events arrived that a sync stored first; the completeness check sums them up."""

PREVIEW_METADATA_KEY = "klaviyo/preview"
"""A few rows without personal data: those first read by the last sync that read any."""

MAX_CELL_CHARACTERS = 60

_RECENT_OBSERVATIONS = 20
"""How many observations are searched for a cursor. Observations of others (a freshness check, a
script) carry none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastMetadata:
    """What Dagster knows of an asset before a sync.

    `preview` is that of the last materialization; None if it has none.

    `cursor` (UTC) is the one in the last materialization or observation, whichever is newer. It is
    None if there is neither, if they were wiped, or if the stream has no cursor. `row_count` is
    that of the last materialization. `lake` is the lake that the newest event names, as text.
    """

    cursor: datetime | None = None
    row_count: int | None = None
    lake: str | None = None
    preview: dg.TableMetadataValue | None = None


def read_last_metadata(instance: dg.DagsterInstance, key: dg.AssetKey) -> LastMetadata:
    """Return what the asset's last events say.

    Raises:
        ConfigError: the text of the cursor is not an instant.
    """
    materialized = instance.fetch_materializations(key, limit=1).records
    observed = instance.fetch_observations(key, limit=_RECENT_OBSERVATIONS).records
    events = [*materialized, *observed]
    lake = next(iter(_metadata_texts_newest_first(events, LAKE_METADATA_KEY)), None)
    return LastMetadata(
        cursor=_last_cursor(events, key),
        row_count=_materialized_row_count(materialized),
        lake=lake,
        preview=_materialized_preview(materialized),
    )


def _materialized_row_count(records: Sequence[dg.EventLogRecord]) -> int | None:
    event = records[0].asset_materialization if records else None
    count = event.metadata.get(ROW_COUNT_METADATA_KEY) if event is not None else None
    return count.value if isinstance(count, dg.IntMetadataValue) else None


def _materialized_preview(records: Sequence[dg.EventLogRecord]) -> dg.TableMetadataValue | None:
    event = records[0].asset_materialization if records else None
    preview = event.metadata.get(PREVIEW_METADATA_KEY) if event is not None else None
    return preview if isinstance(preview, dg.TableMetadataValue) else None


def build_preview(rows: Sequence[Mapping[str, object]]) -> dg.TableMetadataValue | None:
    """Return rows as a table for the UI, long texts cut; None if there are no rows.

    A column that is empty in all of them is left out.
    """
    names = [
        name for name in (rows[0] if rows else ()) if any(row[name] is not None for row in rows)
    ]
    if not names:
        return None
    schema = dg.TableSchema([dg.TableColumn(name, "string") for name in names])
    records = [dg.TableRecord({name: _format_cell(row[name]) for name in names}) for row in rows]
    return dg.MetadataValue.table(records, schema=schema)


def _format_cell(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    text = "" if value is None else str(value)
    return text if len(text) <= MAX_CELL_CHARACTERS else f"{text[:MAX_CELL_CHARACTERS]}..."


def _last_cursor(events: Iterable[dg.EventLogRecord], key: dg.AssetKey) -> datetime | None:
    for text in _metadata_texts_newest_first(events, CURSOR_METADATA_KEY):
        try:
            return parse_instant(text)
        except ValueError as error:
            raise ConfigError(
                f"{CURSOR_METADATA_KEY} of {key.to_user_string()} in asset metadata is {text!r}, "
                "not an ISO 8601 instant; wipe the asset's materializations to continue from the "
                "lake's cursor"
            ) from error
    return None


def _metadata_texts_newest_first(events: Iterable[dg.EventLogRecord], name: str) -> Iterable[str]:
    for record in sorted(events, key=lambda each: each.storage_id, reverse=True):
        event = record.asset_materialization or record.event_log_entry.asset_observation
        value = event.metadata.get(name) if event is not None else None
        if value is not None and isinstance(value.value, str):
            yield value.value


ADDITIVE_TAG = "klaviyo/is_additive"

_COLUMN_TYPES = {
    "ids": "list<string>",
    "timestamp": "timestamp with time zone",
    "json": "json text",
}


AssetMetadata = dict[str, str | int | float | bool | dg.TableSchema | dg.JsonMetadataValue]
"""Metadata of an asset event by name, in types that Dagster accepts."""


STREAM_TAG = "klaviyo/stream"
"""The tag that names an asset's stream, whatever key a user gives the asset."""


def asset_key(name: str) -> dg.AssetKey:
    """Return the asset key that `build_defs` gives a stream; users may give another one."""
    return dg.AssetKey(["klaviyo", name])


def asset_description(stream: Stream) -> str:
    """Return what an asset's page says first, as Markdown; its first line is the grain."""
    facts = [f"| {name} | {value} |" for name, value in stream_facts(stream, STREAMS)]
    # Lists of assets show the first words as plain text, so no markup comes early. The UI folds all
    # but the first 250 pixels: what one does with the table comes before its facts.
    told = " ".join(caveats(stream))
    lines = [
        stream.description,
        "",
        *([told, ""] if told else []),
        *("A query to begin with:", "", "```sql", sample_query(stream), "```", ""),
        *("| | |", "|---|---|", *facts),
    ]
    return "\n".join(lines)


def asset_tags(stream: Stream) -> dict[str, str]:
    """Return the tags of a stream's asset."""
    tier = {"klaviyo/tier": stream.tier.name} if stream.tier is not None else {}
    return {STREAM_TAG: stream.name, **tier}


def stream_name_of_asset(key: dg.AssetKey, metadata: Mapping[str, object]) -> str:
    """Return the stream of an asset by its definition's metadata: a user may rename its key."""
    return str(metadata.get("dagster/table_name") or key.path[-1]).removeprefix("klaviyo.")


def definition_metadata(stream: Stream) -> AssetMetadata:
    """Return the metadata that an asset has before any sync: its table's name and columns."""
    return {
        "dagster/table_name": f"klaviyo.{stream.name}",
        "dagster/column_schema": table_column_schema(stream),
    }


def table_column_schema(stream: Stream) -> dg.TableSchema:
    """Return the relation's columns in their order, each with its description.

    A statistic has the tag `klaviyo/is_additive`: `true` where days may be added up, else `false`.
    """
    key_constraints = dg.TableColumnConstraints(nullable=False, unique=True)
    origins = column_origins(stream, STREAMS)
    return dg.TableSchema(
        [
            dg.TableColumn(
                each.name,
                _COLUMN_TYPES.get(each.type, each.type),
                _describe_column(each, origins.get(each.name, "")),
                key_constraints if each is KEY_COLUMN else None,
                None if each.is_additive is None else {ADDITIVE_TAG: str(each.is_additive).lower()},
            )
            for each in relation_columns(stream, STREAMS)
        ]
    )


MAX_ORIGIN_CHARACTERS = 30
"""The longest path that the UI shows beside a column's description."""


def _describe_column(column: Column, origin: str) -> str:
    """Return a column's description, with its place in Klaviyo's answer where the name is another.

    The UI breaks no path: at 1,400 pixels a longer one made the table wider than the page, which
    cut every description off. docs/streams and the comments in klaviyo.duckdb have all paths.
    """
    is_news = origin.replace(".", "_") != column.name and len(origin) <= MAX_ORIGIN_CHARACTERS
    return f"{column.description} `{origin}`" if origin and is_news else column.description


def waiting_numbers(throttled_seconds: float) -> dict[str, float]:
    """Return the minutes for which a run waited for rate limits; nothing if it did not."""
    minutes = round(throttled_seconds / 60, 2)
    return {"minutes_waited": minutes} if minutes else {}


def sync_metadata(
    stream: Stream,
    *,
    mode: str,
    cursor: datetime | None,
    numbers: Mapping[str, int | float],
    row_count: int,
) -> AssetMetadata:
    """Return the metadata that the contract promises of every materialization.

    In the order in which the UI shows it: what there is now, what was read, then how.
    """
    metadata: AssetMetadata = {
        ROW_COUNT_METADATA_KEY: row_count,
        **{f"klaviyo/{name}": number for name, number in numbers.items()},
    }
    if stream.cursor is not None:
        if cursor is not None:
            metadata[CURSOR_METADATA_KEY] = cursor.isoformat()
        metadata["klaviyo/cursor_field"] = stream.cursor.column
    return {**metadata, "klaviyo/sync_mode": mode, **definition_metadata(stream)}
