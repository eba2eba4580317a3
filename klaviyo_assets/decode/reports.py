"""Parses the responses of reports and metric aggregates, and builds the report tables' rows.

The labels of a series are the account's local time with a wrong offset, `+00:00`; so the date is
taken from the text, and the offset ignored. The dates of metric aggregates are true instants: each
is the start of a day in the zone that the request names. Source: recorded responses of revision
2026-07-15, https://developers.klaviyo.com/en/reference/reporting_api_overview and
https://developers.klaviyo.com/en/docs/using-the-query-metric-aggregates-endpoint

Klaviyo groups by all groupings that are requested, including names. A message that was renamed
within the time frame may have one result for each name. They are merged: counts and values are
added up; a rate is the mean weighted by its denominator, which is exact.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, tzinfo
from urllib.parse import parse_qs, urlsplit

import msgspec
import pyarrow as pa
from msgspec import Raw

from klaviyo_assets.arrow_buffers import TIMESTAMP_UTC
from klaviyo_assets.decode.fallback import coerce_value
from klaviyo_assets.decode.jsonapi import (
    ABSENT_JSON,
    EMPTY_JSON_VALUES,
    PageLinks,
    QuarantinedRecord,
    check_response_envelope,
    encode_json_object,
    is_json_null,
    json_array_decoder,
    json_object_decoder,
    json_type,
    repair_json,
    strip_bom,
)
from klaviyo_assets.decode.schema import ARROW_TYPES, SYNCED_AT_FIELD
from klaviyo_assets.errors import BrokenBodyError, MalformedPageError, format_quantity
from klaviyo_assets.model.column import EXTRA_FIELD
from klaviyo_assets.model.report import (
    CHANNEL_GROUPING,
    TOTAL_DIMENSION,
    VARIATION_GROUPING,
    ReportEndpoint,
    ReportPartition,
    storable_text,
)
from klaviyo_assets.model.stream import Stream

MAX_QUARANTINED_RESULTS, MAX_QUARANTINED_SHARE, MIN_ALL_QUARANTINED_RESULTS = 100, 0.01, 10
"""Quarantined results that fail a response: more than both this number and share of its results, or
all of its results, if there are at least so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """The statistics of one message: for `day` of the account's zone, or the time frame (None).

    `groupings` and `statistics` have Klaviyo's names; the ids of subject and message are always
    text. `extra`: everything else in the result, as JSON text by dotted path.
    """

    day: date | None
    groupings: Mapping[str, str | None]
    statistics: Mapping[str, float | None]
    extra: Mapping[str, bytes] = field(default_factory=dict[str, bytes])


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPage:
    """One page of a report; the next one, if any, is at `next_link` or `page_cursor`.

    `days`: all days of a series, with or without rows; none if the report is no series.
    `quarantined`: results without the ids that say which message they are about.
    """

    days: tuple[date, ...]
    rows: tuple[ReportRow, ...]
    next_link: str | None
    page_cursor: str | None
    quarantined: tuple[QuarantinedRecord, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Return whether it has no day and no result: nothing happened in the time frame."""
        return not self.days and not self.rows and not self.quarantined


class _ReportAttributes(msgspec.Struct):
    results: list[dict[str, Raw]]
    date_times: list[str] | None = None


class _ReportData(msgspec.Struct):
    attributes: _ReportAttributes


class _ReportMeta(msgspec.Struct):
    page_cursor: str | None = None


class _ReportResponse(msgspec.Struct):
    data: _ReportData
    links: Raw = ABSENT_JSON
    meta: Raw = ABSENT_JSON


_report_response_decoder = msgspec.json.Decoder(_ReportResponse)

_numbers_decoder = msgspec.json.Decoder(list[float | None])


def parse_report_page(body: bytes, report: ReportEndpoint) -> ReportPage:
    """Return the rows of one page.

    All rows that Klaviyo sends are returned: a series has each message on every day, even on those
    on which all its statistics are 0 or null.

    Raises:
        BrokenBodyError: not JSON, not UTF-8, not a JSON object, or without `data` or `links.self`,
            or with `errors`; a retry may help.
        MalformedPageError: not the documented shape of this report; no row is guessed.
    """
    text, _ = repair_json(strip_bom(body, report.type))
    check_response_envelope(text, stream=report.type, is_paged=True)
    try:
        # msgspec does not check the UTF-8 of values that it only passes on.
        text.decode()
        response = _report_response_decoder.decode(text)
        found = response.data.attributes
        days = _parse_series_days(found.date_times) if report.interval else ()
        reading = _ResultReader(report, days)
        rows, put_aside = _parse_results(found.results, reading)
        links = _links_decoder.decode(response.links)
        meta = (
            _ReportMeta()
            if bytes(response.meta) in EMPTY_JSON_VALUES
            else _meta_decoder.decode(response.meta)
        )
    except msgspec.ValidationError as problem:
        # msgspec's text has the expected type and the place, and no value of the response.
        raise MalformedPageError(
            f"the response does not have the shape of a report: {problem}"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BrokenBodyError("the response is not JSON in UTF-8", stream=report.type) from None
    return ReportPage(
        days=days,
        rows=rows,
        next_link=links.next,
        page_cursor=meta.page_cursor,
        quarantined=put_aside,
    )


_links_decoder = msgspec.json.Decoder(PageLinks)
# Unverified: the OpenAPI document has the parameter `page_cursor`, but does not say where its value
# comes from; JSON:API's place for values that are no links is `meta`.
_meta_decoder = msgspec.json.Decoder(_ReportMeta)

ResultParts = tuple[dict[str, Raw], dict[str, Raw], dict[str, bytes]]
"""Groupings, statistics, and everything else in a result."""


class _BrokenResultError(ValueError):
    """A result that cannot be attributed to a message; the text is the reason. Internal."""


def _parse_results(
    results: Sequence[dict[str, Raw]], reader: "_ResultReader"
) -> tuple[tuple[ReportRow, ...], tuple[QuarantinedRecord, ...]]:
    """Return the rows of valid results, and the invalid results as received.

    Raises:
        MalformedPageError: too many or all are invalid: days would wrongly be stored as empty.
    """
    rows: list[ReportRow] = []
    put_aside: list[QuarantinedRecord] = []
    for result in results:
        try:
            rows += reader.rows(*_split_result(result))
        except _BrokenResultError as broken:
            put_aside.append(QuarantinedRecord(str(broken), msgspec.json.encode(result)))
    is_many = len(put_aside) > max(MAX_QUARANTINED_RESULTS, len(results) * MAX_QUARANTINED_SHARE)
    if is_many or (len(put_aside) == len(results) >= MIN_ALL_QUARANTINED_RESULTS):
        raise MalformedPageError(
            f"{format_quantity(len(put_aside), 'result')} of {len(results)} cannot be stored: "
            f"{put_aside[0].reason}"
        )
    return tuple(rows), tuple(put_aside)


def _split_result(result: dict[str, Raw]) -> ResultParts:
    for name in ("groupings", "statistics"):
        if name not in result or json_type(result[name]) != "object":
            raise _BrokenResultError(f"a result of the response has no {name}")
    others = {
        name: bytes(raw)
        for name, raw in result.items()
        if name not in {"groupings", "statistics"} and bytes(raw) not in EMPTY_JSON_VALUES
    }
    return (
        json_object_decoder.decode(result["groupings"]),
        json_object_decoder.decode(result["statistics"]),
        others,
    )


def _parse_series_days(labels: Sequence[str] | None) -> tuple[date, ...]:
    """Return the local days in the labels of a daily series.

    Raises:
        MalformedPageError: there are none, one is no time, or a day is there twice.
    """
    if labels is None:
        raise MalformedPageError("the series has no date_times")
    try:
        days = tuple(datetime.fromisoformat(label).date() for label in labels)
    except ValueError:
        raise MalformedPageError("a label of the series is no time") from None
    if len(set(days)) != len(days):
        raise MalformedPageError("the series has two labels of one day")
    return days


class _ResultReader:
    """Reads the results of one response into rows, given the days of its series."""

    def __init__(self, report: ReportEndpoint, days: tuple[date, ...]) -> None:
        self.report = report
        self.days = days
        self.required_groupings = [
            name for name in report.key_groupings if name not in STORED_IF_ABSENT
        ]

    def rows(
        self, groupings: dict[str, Raw], statistics: dict[str, Raw], others: dict[str, bytes]
    ) -> Iterator[ReportRow]:
        """Yield the rows of one result."""
        extra = dict(others)
        texts = {name: _parse_grouping(name, raw, extra) for name, raw in groupings.items()}
        for name in self.required_groupings:
            if not texts.get(name):
                raise _BrokenResultError(f"a result of the response has no {name}")
        if self.report.interval is None:
            numbers = {name: _parse_statistic(name, raw, extra) for name, raw in statistics.items()}
            yield ReportRow(day=None, groupings=texts, statistics=numbers, extra=extra)
            return
        odd: dict[int, dict[str, bytes]] = {}
        columns = [self.statistic_by_day(name, raw, odd) for name, raw in statistics.items()]
        for at, day in enumerate(self.days):
            by_name = {name: column[at] for name, column in zip(statistics, columns, strict=True)}
            kept = extra | odd.get(at, {})
            yield ReportRow(day=day, groupings=texts, statistics=by_name, extra=kept)

    def statistic_by_day(
        self, name: str, raw: Raw, extra_by_position: dict[int, dict[str, bytes]]
    ) -> Sequence[float | None]:
        """Return the values of one statistic, one a day.

        Values that are no numbers are put into `extra_by_position`, by the index of the day.

        Raises:
            MalformedPageError: there are more or fewer values than days.
        """
        if is_json_null(raw):
            return [None] * len(self.days)
        try:
            numbers = _numbers_decoder.decode(raw)
        except msgspec.ValidationError:
            numbers: list[float | None] = []
            for at, value in enumerate(json_array_decoder.decode(raw)):
                extra: dict[str, bytes] = {}
                numbers.append(_parse_statistic(name, value, extra))
                if extra:
                    extra_by_position.setdefault(at, {}).update(extra)
        if len(numbers) != len(self.days):
            counts = (
                f"{format_quantity(len(numbers), 'value')} for "
                f"{format_quantity(len(self.days), 'day')}"
            )
            raise MalformedPageError(
                f"the shape of the series is broken: {name[:80]!a} has {counts}"
            )
        return numbers


def _parse_grouping(name: str, raw: Raw, extra: dict[str, bytes]) -> str | None:
    value, fits = coerce_value(bytes(raw), "string")
    if not fits:
        extra[f"groupings.{name}"] = bytes(raw)
    return value if isinstance(value, str) else None


def _parse_statistic(name: str, raw: Raw, extra: dict[str, bytes]) -> float | None:
    value, fits = coerce_value(bytes(raw), "number")
    if not fits:
        extra[f"statistics.{name}"] = bytes(raw)
    return value if isinstance(value, float) else None


UNKNOWN_CHANNEL = "unknown"
"""The stored channel of a row without one."""

STORED_IF_ABSENT = {CHANNEL_GROUPING: UNKNOWN_CHANNEL, VARIATION_GROUPING: ""}
"""What is stored of groupings of the key that a row may lack: a message may have no variations."""

MessageKey = tuple[str | None, ...]
GroupingNames = tuple[tuple[str, str | None], ...]


def merge_renamed_rows(rows: Sequence[ReportRow], report: ReportEndpoint) -> Sequence[ReportRow]:
    """Return the rows of one report, each key once, with the latest name where there are several.

    A row that was received twice, because pages shifted, is returned once. Rows with the same key
    and names but different statistics are all returned: nothing says which of them is right.
    """
    by_key: dict[tuple[MessageKey, date | None], list[ReportRow]] = defaultdict(list)
    for row in rows:
        by_key[message_key(row, report), row.day].append(row)
    if len(by_key) == len(rows):
        return rows
    newest = latest_named_rows(by_key)
    return [
        row
        for (message, _), parts in by_key.items()
        for row in merge_rows_of_key(parts, newest[message], report)
    ]


def message_key(row: ReportRow, report: ReportEndpoint) -> MessageKey:
    """Return what identifies a row whatever its names, as subject, message and channel."""
    return tuple(_key_grouping(row, name) for name in report.key_groupings)


def _key_grouping(row: ReportRow, name: str) -> str | None:
    return row.groupings.get(name) or STORED_IF_ABSENT.get(name)


def grouping_names(row: ReportRow) -> GroupingNames:
    """Return all groupings of a row, sorted by name."""
    return tuple(sorted(row.groupings.items()))


def latest_named_rows(
    by_key: Mapping[tuple[MessageKey, date | None], Sequence[ReportRow]],
) -> Mapping[MessageKey, ReportRow]:
    """Return for each message the row with its latest names: that of the last day with a number.

    Of rows with the same day the one that Klaviyo sent last counts.
    """
    newest: dict[MessageKey, tuple[date, ReportRow]] = {}
    for (message, day), parts in by_key.items():
        for row in parts:
            is_blank = not any(row.statistics.values())
            at = date.min if day is None or is_blank else day
            if message not in newest or at >= newest[message][0]:
                newest[message] = (at, row)
    return {message: row for message, (_, row) in newest.items()}


def merge_rows_of_key(
    rows: Sequence[ReportRow], latest: ReportRow, report: ReportEndpoint
) -> Sequence[ReportRow]:
    """Return the merged row of a key, or all its rows if two with the same names differ."""
    by_name: dict[GroupingNames, ReportRow] = {}
    for row in rows:
        known = by_name.setdefault(grouping_names(row), row)
        if known.statistics != row.statistics:
            return rows
    found = list(by_name.values())
    statistics = {name: None for row in found for name in row.statistics}
    extra = {name: raw for row in found for name, raw in row.extra.items()}
    return [
        ReportRow(
            day=found[0].day,
            groupings=latest.groupings,
            statistics={name: merge_statistic(name, found, report) for name in statistics},
            extra=extra,
        )
    ]


def merge_statistic(name: str, rows: Sequence[ReportRow], report: ReportEndpoint) -> float | None:
    """Return the merged value of one statistic of a key's rows; None if no row has it."""
    rate = report.rates.get(name)
    whole = rate.whole if rate is not None else None
    parts = [
        (number, row.statistics.get(whole) or 0.0 if whole is not None else 1.0)
        for row in rows
        if (number := row.statistics.get(name)) is not None
    ]
    if not parts:
        return None
    weights = sum(weight for _, weight in parts)
    if not weights:
        return max(number for number, _ in parts)
    added = sum(number * weight for number, weight in parts)
    return added if whole is None else added / weights


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTableRow:
    """A row and the report partition to which it belongs, which replaces `row.day`.

    `is_final`: whether the attribution window had passed at `fetched_at` (UTC).
    """

    partition: ReportPartition
    row: ReportRow
    is_final: bool
    fetched_at: datetime


def report_schema(stream: Stream) -> pa.Schema:
    """Return the schema of a report table: the stream's columns in order, `extra`, `synced_at`."""
    fields = [pa.field(column.name, ARROW_TYPES[column.type]) for column in stream.columns]
    return pa.schema(
        [*fields, pa.field(EXTRA_FIELD, pa.string()), pa.field(SYNCED_AT_FIELD, TIMESTAMP_UTC)]
    )


def rows_to_batch(stream: Stream, rows: Iterable[ReportTableRow]) -> pa.RecordBatch:
    """Return the rows as a batch with the schema of `report_schema`, in their order, each key once.

    A row without a channel gets the channel 'unknown'. Groupings and statistics without a column
    are in `extra`. A row that was received twice, because pages shifted, is there once.

    Raises:
        MalformedPageError: two rows with the same key differ.
        TypeError: the stream is not a report.
    """
    if not isinstance(stream.source, ReportEndpoint):
        raise TypeError(f"{stream.name} is no report")
    by_key: dict[tuple[object, ...], tuple[ReportRow, dict[str, object]]] = {}
    for stored in rows:
        values = report_row_values(stored, stream.source)
        key = tuple(values[name] for name in stream.key)
        known, _ = by_key.setdefault(key, (stored.row, values))
        if (known.statistics, known.groupings) != (stored.row.statistics, stored.row.groupings):
            raise MalformedPageError(
                "the response has two rows for one message and channel that differ, and the table "
                "could keep only one of them: tell the developers of klaviyo_assets",
                stream=stream.name,
            )
    schema = report_schema(stream)
    table = [values for _, values in by_key.values()]
    arrays = [
        pa.array([values.get(name) for values in table], kind)
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def report_row_values(stored: ReportTableRow, report: ReportEndpoint) -> dict[str, object]:
    """Return a row's values by column; groupings and statistics without a column are in `extra`."""
    row = stored.row
    extra = dict(row.extra)
    for part, found, declared in (
        ("groupings", row.groupings, report.groupings),
        ("statistics", row.statistics, report.statistics),
    ):
        for name in found.keys() - declared:
            if found[name] is not None:
                extra.setdefault(f"{part}.{name}", msgspec.json.encode(found[name]))
    groupings = ((name, row.groupings.get(name)) for name in report.groupings)
    texts = {name: None if text is None else storable_text(text) for name, text in groupings}
    for name in texts.keys() & STORED_IF_ABSENT:
        texts[name] = texts[name] or STORED_IF_ABSENT[name]
    metric = stored.partition.metric_id
    return {
        **texts,
        **({report.metric_column: metric} if report.has_metric else {}),
        **{name: row.statistics.get(name) for name in report.statistics},
        "date": stored.partition.day,
        "is_final": stored.is_final,
        "fetched_at": stored.fetched_at,
        EXTRA_FIELD: encode_json_object(dict(sorted(extra.items()))).decode() if extra else None,
        SYNCED_AT_FIELD: stored.fetched_at,
    }


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
