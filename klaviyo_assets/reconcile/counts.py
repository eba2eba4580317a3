"""Compares Klaviyo's counts with stored rows, and measures how late events appear.

Events are compared by metric and UTC day; Klaviyo's counts of them cost one request for each metric
and year. On a day that was read again, the stored events that Klaviyo still returned are known too
("seen"), so both differences are exact:

    stored, not seen when the day was last read again ─┐
    stored, seen ────────────────────┐                 ├─▶ vanished: Klaviyo no longer has it
    counted by Klaviyo ──────────────┼─ fewer than seen┘
                                     └─ more than seen ──▶ missing: not stored here

Members of lists and segments are compared by their number.

The lateness of an event is the time from it to the sync that first saw it. From this follows which
lookback would find it. Delays are counted by metric in steps, four for each doubling from a minute
on, so that the counts of many syncs can be added. A quantile is the end of its step, which is at
most a fifth too high. A lookback is for events before the high-water mark; those after it are as
late as the last sync is old.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from math import ceil
from typing import TypedDict, cast

import pyarrow.compute as pc

from klaviyo_assets.account.metrics import AccountMetric, read_metrics
from klaviyo_assets.api.client import KlaviyoClient
from klaviyo_assets.api.messages import Response
from klaviyo_assets.api.requests import MAX_AGGREGATE_DAYS, event_count_request
from klaviyo_assets.decode.reports import parse_event_counts
from klaviyo_assets.decode.schema import DELETED_AT_FIELD
from klaviyo_assets.errors import MissingTableError, PermanentError, SettingError, format_quantity
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.read.queries import ArrivalDelay, DayCount, DayCountQuery
from klaviyo_assets.model.report import ReportPartition
from klaviyo_assets.model.stream import PARENT_ID, Children, Detail, Stream
from klaviyo_assets.model.window import Window, cursor_from_json
from klaviyo_assets.settings import Settings

EVENTS_STREAM_NAME = "events"
EVENT_METRIC_COLUMN, EVENT_TIME_COLUMN = "metric_id", "datetime"

MAX_COMPARED_YEARS = 10
"""Klaviyo accepts events dated as early as 2000: a wrong clock must not cost a request a year."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountDifference:
    """A metric and day on which stored events and Klaviyo's count differ."""

    partition: ReportPartition
    stored: int
    counted: int
    missing: int
    vanished: int


@dataclass(slots=True)
class KlaviyoCounts:
    """Klaviyo's counts of events."""

    counts: dict[ReportPartition, int] = field(default_factory=dict[ReportPartition, int])
    refused: dict[str, str] = field(default_factory=dict[str, str])
    """Metrics that Klaviyo does not count, by id, with its error message."""
    first_responded_at: datetime | None = None
    """When the first response came, UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileRequest:
    """What to compare: the last `days` before the high-water mark; 0: everything stored.

    The newest hours, `tolerance`, are not compared: Klaviyo's counts lag. `reread_days` gives, for
    each day that was read again whole, when that reading began (UTC).
    """

    days: int
    tolerance: timedelta
    max_requests: int
    reread_days: Mapping[date, datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """The result of a comparison over a window in UTC."""

    window: Window
    metric_names: Mapping[str, str]
    differences: Sequence[CountDifference]
    stored_events: int
    counted_events: int
    events_without_metric: int
    """Stored events without a metric: no count of Klaviyo's can include them."""
    refused_metrics: Mapping[str, str]
    """Metrics that Klaviyo does not count, by id, with its error message."""
    first_responded_at: datetime | None
    """When Klaviyo's first response came, UTC."""


def reconcile_counts(
    request: ReconcileRequest,
    *,
    client: KlaviyoClient,
    lake: Lake,
    settings: Settings,
    log: Callable[[str], None],
) -> Reconciliation:
    """Compare stored events with Klaviyo's counts; `log` gets the number of requests.

    Raises:
        MissingTableError: events were never read.
        SettingError: it would cost more requests than allowed.
        KlaviyoAssetsError: Klaviyo cannot be reached, or the lake cannot be read.
    """
    window = requested_window(request, lake, settings)
    query = DayCountQuery(
        value_column=EVENT_METRIC_COLUMN,
        time_column=EVENT_TIME_COLUMN,
        window=window,
        synced_since=request.reread_days,
    )
    rows = lake.count_rows_by_day(EVENTS_STREAM_NAME, query)
    names = metrics_to_count(read_metrics(lake), rows, settings)
    requests = check_request_count(names, window, max_requests=request.max_requests)
    log(
        f"{format_quantity(requests, 'request')} for the counts of "
        f"{format_quantity(len(names), 'metric')} from "
        f"{window.floor:%Y-%m-%d} to {window.ceiling:%Y-%m-%d %H:%M} UTC"
    )
    found = fetch_klaviyo_counts(client, names, window)
    counted_metrics = names.keys() - found.refused.keys()
    stored = [row for row in rows if row.value in counted_metrics]
    counted = {key: n for key, n in found.counts.items() if key.metric_id in counted_metrics}
    return Reconciliation(
        window=window,
        metric_names=names,
        differences=compare_counts(stored, counted),
        stored_events=sum(row.rows for row in stored),
        counted_events=sum(counted.values()),
        events_without_metric=sum(row.rows for row in rows if row.value is None),
        refused_metrics=found.refused,
        first_responded_at=found.first_responded_at,
    )


def compare_counts(
    stored: Iterable[DayCount], counted: Mapping[ReportPartition, int]
) -> list[CountDifference]:
    """Return the metrics and days that differ, ordered by day, then metric.

    `rows_synced_since` of a stored count is the number of events that Klaviyo returned when the day
    was last read again; all of them where it never was. A metric and day that only one side names
    has no events on the other.
    """
    rows = {ReportPartition(str(row.value), row.day): row for row in stored}
    found: list[CountDifference] = []
    for key in sorted(rows.keys() | counted.keys(), key=lambda each: (each.day, each.metric_id)):
        row, there = rows.get(key), counted.get(key, 0)
        here, seen = (row.rows, row.rows_synced_since) if row is not None else (0, 0)
        missing, vanished = max(0, there - seen), here - seen + max(0, seen - there)
        if missing or vanished:
            found.append(
                CountDifference(
                    partition=key, stored=here, counted=there, missing=missing, vanished=vanished
                )
            )
    return found


def missing_by_day(differences: Iterable[CountDifference]) -> dict[date, int]:
    """Return how many events are missing by day, in order; only days on which some are."""
    days: dict[date, int] = {}
    for each in differences:
        if each.missing:
            days[each.partition.day] = days.get(each.partition.day, 0) + each.missing
    return dict(sorted(days.items()))


def vanished_days(differences: Iterable[CountDifference]) -> frozenset[date]:
    """Return the days on which Klaviyo no longer has some of the stored events."""
    return frozenset(each.partition.day for each in differences if each.vanished)


def requested_window(request: ReconcileRequest, lake: Lake, settings: Settings) -> Window:
    """Return the window to compare; it is empty where no event is old enough.

    Raises:
        MissingTableError: events were never read.
    """
    state = lake.read_table_state(EVENTS_STREAM_NAME)
    high_water_mark = cursor_from_json(state.state) if state is not None else None
    if high_water_mark is None:
        raise MissingTableError("no event was ever read; materialize klaviyo/events first")
    days = request.days or MAX_COMPARED_YEARS * 365
    first = high_water_mark.date() - timedelta(days=days)
    if not request.days:
        first = max(first, lake.first_stored_day(EVENTS_STREAM_NAME) or first)
    return comparison_window(
        high_water_mark, start=settings.start, first_day=first, tolerance=request.tolerance
    )


def comparison_window(
    high_water_mark: datetime, *, start: datetime | None, first_day: date, tolerance: timedelta
) -> Window:
    """Return the window that ends on a whole hour, `tolerance` or more before the high-water mark.

    `start` (UTC) is the start date of the stream; None: it has none. The newest hours are not
    compared: Klaviyo's counts lag, and what lies past the high-water mark is read again anyway.

         first_day or start      mark - tolerance     mark
    ────────────────┼───────────────────────┼──────────────┼─────▶ UTC
    compared ───────[═══════════════════════)
    """
    floor = datetime(first_day.year, first_day.month, first_day.day, tzinfo=UTC)
    end = (high_water_mark - tolerance).astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return Window(floor if start is None else max(floor, start), end)


def metrics_to_count(
    known: Sequence[AccountMetric], rows: Sequence[DayCount], settings: Settings
) -> dict[str, str]:
    """Return the metrics to count, ordered by id, each with its name; empty where it is unknown.

    They are those of KLAVIYO_EVENT_METRIC_IDS; where it names none, all metrics of the account and
    all that have stored events.
    """
    names = {metric.id: metric.name or "" for metric in known}
    wanted = settings.event_metric_ids or {*names, *(row.value for row in rows)}
    return {each: names.get(each, "") for each in sorted(filter(None, wanted))}


def split_by_request_span(window: Window) -> Iterator[Window]:
    """Yield a window with both ends as parts that one request may cover, in order."""
    start, end = window.floor, window.ceiling
    while start < end:
        following = min(end, start + timedelta(days=MAX_AGGREGATE_DAYS))
        yield Window(start, following)
        start = following


def check_request_count(metrics: Collection[str], window: Window, *, max_requests: int) -> int:
    """Return how many requests the counts cost.

    Raises:
        SettingError: more than `max_requests`.
    """
    wanted = len(metrics) * sum(1 for _ in split_by_request_span(window))
    if wanted > max_requests:
        raise SettingError(
            f"counting {format_quantity(len(metrics), 'metric')} from {window.floor:%Y-%m-%d} to "
            f"{window.ceiling:%Y-%m-%d} takes {format_quantity(wanted, 'request')}, and "
            f"most_requests allows {max_requests}. Choose fewer days, or allow more: Klaviyo "
            "allows 60 a minute",
            stream=EVENTS_STREAM_NAME,
        )
    return wanted


def fetch_klaviyo_counts(
    client: KlaviyoClient, metrics: Collection[str], window: Window
) -> KlaviyoCounts:
    """Return how many events of each metric Klaviyo counts on each UTC day of the window.

    A metric that Klaviyo refuses to count is recorded and does not stop the others.

    Raises:
        KlaviyoAssetsError: Klaviyo cannot be reached, or refuses the key or every metric.
    """
    found = KlaviyoCounts()

    def read(response: Response) -> Mapping[date, int]:
        found.first_responded_at = found.first_responded_at or response.responded_at
        return parse_event_counts(response.body)

    for metric_id in metrics:
        try:
            for part in split_by_request_span(window):
                request = event_count_request(metric_id, part)
                for day, count in client.fetch(request, read, stream=EVENTS_STREAM_NAME).items():
                    key = ReportPartition(metric_id, day)
                    found.counts[key] = found.counts.get(key, 0) + count
        except PermanentError as error:
            found.refused[metric_id] = error.message
            if len(found.refused) == len(metrics):
                raise
    return found


PROFILE_COUNT_COLUMN = "profile_count"

MAX_SIZE_DIFFERENCE_SHARE, MAX_SIZE_DIFFERENCE = 0.01, 10
"""A list that differs by more than this share and this number from Klaviyo's count is reported.

Both are read at different times, and a member who left is known only after the next full read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSize:
    """A list or segment: Klaviyo's count of its members, and our rows of those that have not left.

    Both are None where they are not stored. `is_chosen`: whether its members are to be read.
    """

    id: str
    name: str
    counted: int | None
    stored: int | None
    is_chosen: bool

    @property
    def is_different(self) -> bool:
        """Return whether the two numbers differ by more than time explains."""
        if self.counted is None or self.stored is None:
            return False
        allowed = max(MAX_SIZE_DIFFERENCE, self.counted * MAX_SIZE_DIFFERENCE_SHARE)
        return abs(self.counted - self.stored) > allowed

    def full_read_requests(self, page_size: int) -> int | None:
        """Return the requests that reading all members takes; None where no size is known."""
        members = self.counted if self.counted is not None else self.stored
        return None if members is None else max(1, ceil(members / page_size))


def find_count_stream(stream: Stream, streams: Mapping[str, Stream]) -> Stream | None:
    """Return the stream that stores how many children each parent has; None: there is none."""
    source = stream.source
    if not isinstance(source, Children):
        return None
    return next(
        (
            each
            for each in streams.values()
            if isinstance(each.source, Detail)
            and each.source.parent == source.parent
            and any(column.name == PROFILE_COUNT_COLUMN for column in each.columns)
        ),
        None,
    )


def read_group_sizes(
    stream: Stream, count_stream: Stream | None, *, lake: Lake, settings: Settings
) -> list[GroupSize]:
    """Return the stored parents that exist, the largest first; none where none was ever read.

    Raises:
        CorruptFileError, StorageError: a table cannot be read.
    """
    source = cast("Children", stream.source)
    if lake.read_table_state(source.parent) is None:
        return []
    rows = lake.read_columns(source.parent, ["id", "name", DELETED_AT_FIELD]).to_pylist()
    counted = _read_counts(count_stream, lake)
    stored = _count_stored_rows(stream, lake)
    chosen = settings.members_of
    sizes = [
        GroupSize(
            id=str(row["id"]),
            name=str(row["name"] or ""),
            counted=counted.get(str(row["id"])),
            stored=None if stored is None else stored.get(str(row["id"]), 0),
            is_chosen=not chosen or str(row["id"]) in chosen,
        )
        for row in rows
        if row[DELETED_AT_FIELD] is None
    ]
    return sorted(sizes, key=lambda each: (-(each.counted or each.stored or 0), each.id))


def _read_counts(count_stream: Stream | None, lake: Lake) -> Mapping[str, int]:
    if count_stream is None or lake.read_table_state(count_stream.name) is None:
        return {}
    rows = lake.read_columns(count_stream.name, ["id", PROFILE_COUNT_COLUMN]).to_pylist()
    counts = {str(row["id"]): row[PROFILE_COUNT_COLUMN] for row in rows}
    return {each: count for each, count in counts.items() if count is not None}


def _count_stored_rows(stream: Stream, lake: Lake) -> Mapping[str, int] | None:
    """Return our rows not marked as deleted, by parent; None where the stream was never read."""
    if lake.read_table_state(stream.name) is None:
        return None
    parent = next(each.name for each in stream.columns if each.source == PARENT_ID)
    left = stream.deletion_column.name
    rows = lake.read_columns(stream.name, [parent, left])
    here = rows[parent].filter(pc.is_null(rows[left]))
    return Counter(cast("list[str]", here.to_pylist()))


DELAY_STEPS_PER_DOUBLING = 4

LOOKBACK_COVERAGE_SHARE = 0.99
"""Share of the events before the high-water mark that the suggested lookback would have found."""

MAX_SYNC_INTERVAL = timedelta(days=2)
"""After a longer interval, the delay of new events is only the age of the last sync."""

MAX_DELAY_SECONDS = 60 * 86_400.0
"""A longer delay comes from an import, or from a start date that was moved back."""


class LatenessCounts(TypedDict):
    """The counts of one metric in one sync, as asset metadata has them.

    `seen`: events by step. `behind`: those before the high-water mark. `longest`: seconds.
    """

    seen: dict[str, int]
    behind: dict[str, int]
    longest: float


@dataclass(slots=True)
class MetricLateness:
    """One metric in many syncs, by step: all events, and those before the high-water mark."""

    seen: Counter[int] = field(default_factory=Counter[int])
    behind: Counter[int] = field(default_factory=Counter[int])
    max_delay_seconds: float = 0.0

    @property
    def event_count(self) -> int:
        """Return how many events were counted."""
        return self.seen.total()

    def quantile(self, share: float) -> timedelta:
        """Return the delay within which this share of the events was seen."""
        return delay_quantile(self.seen, share, max_delay_seconds=self.max_delay_seconds)


def count_lateness(
    measurements: Iterable[ArrivalDelay], *, should_include_new: bool
) -> dict[str, LatenessCounts]:
    """Return one sync's counts by metric; events past the high-water mark are optional."""
    found: dict[str, LatenessCounts] = {}
    for each in measurements:
        is_counted = each.is_before_high_water_mark or should_include_new
        if not each.value or not is_counted or each.max_delay_seconds > MAX_DELAY_SECONDS:
            continue
        metric = found.setdefault(each.value, LatenessCounts(seen={}, behind={}, longest=0.0))
        for kind in ("seen", "behind") if each.is_before_high_water_mark else ("seen",):
            counts = metric[kind]
            counts[f"{each.delay_step}"] = counts.get(f"{each.delay_step}", 0) + each.rows
        metric["longest"] = max(metric["longest"], each.max_delay_seconds)
    return found


def merge_lateness_counts(
    syncs: Iterable[Mapping[str, LatenessCounts]],
) -> dict[str, MetricLateness]:
    """Return the sums of many syncs by metric, ordered by id."""
    found: dict[str, MetricLateness] = {}
    for sync in syncs:
        for metric, counts in sync.items():
            merged = found.setdefault(metric, MetricLateness())
            merged.seen.update({int(step): rows for step, rows in counts["seen"].items()})
            merged.behind.update({int(step): rows for step, rows in counts["behind"].items()})
            merged.max_delay_seconds = max(merged.max_delay_seconds, counts["longest"])
    return dict(sorted(found.items()))


def delay_quantile(
    counts: Mapping[int, int], share: float, *, max_delay_seconds: float
) -> timedelta:
    """Return the end of the step within which this share of events lies; the maximum at most."""
    left = math.ceil(share * sum(counts.values()))
    for step, rows in sorted(counts.items()):
        left -= rows
        if left <= 0:
            end = 60 * 2 ** ((step + 1) / DELAY_STEPS_PER_DOUBLING)
            return timedelta(seconds=min(end, max_delay_seconds))
    return timedelta()


def suggest_lookback_days(metric_lateness: Sequence[MetricLateness]) -> int:
    """Return the lookback in whole days that would have found nearly all late events."""
    delays = [
        delay_quantile(
            each.behind, LOOKBACK_COVERAGE_SHARE, max_delay_seconds=each.max_delay_seconds
        )
        for each in metric_lateness
        if each.behind
    ]
    return math.ceil(max(delays, default=timedelta()) / timedelta(days=1))
