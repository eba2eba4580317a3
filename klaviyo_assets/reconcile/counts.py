"""Whether all events are there: what is stored beside what Klaviyo counts, by metric and UTC day.

Asking Klaviyo how many events there were: one request a metric and year. Putting one comparison
together: what is stored, what Klaviyo counts, and where they differ.

    stored, not shown when the day was last read again ┐
    stored, shown ───────────────────┐                 ├─▶ vanished at Klaviyo
    counted by Klaviyo ──────────────┼─ fewer than shown ┘
                                     └─ more than shown ──▶ missing here
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from klaviyo_assets.account.metrics import AccountMetric, read_metrics
from klaviyo_assets.api.client import KlaviyoClient
from klaviyo_assets.api.request_guard import Response
from klaviyo_assets.api.requests import MAX_AGGREGATE_DAYS, event_count_request
from klaviyo_assets.decode.reports import parse_event_counts
from klaviyo_assets.errors import MissingTableError, PermanentError, SettingError, format_quantity
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.read.queries import DayCount, DayCountQuery
from klaviyo_assets.model.report import ReportPartition
from klaviyo_assets.model.window import Window, cursor_from_json
from klaviyo_assets.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCount:
    """Events of one metric and day that are stored.

    `rows_synced_since` are those that Klaviyo showed when the day was last read again, all of them
    where it
    never was: the others were there before, and were not shown any more.
    """

    rows: int
    rows_synced_since: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CountDifference:
    """A metric and day on which what is stored is not what Klaviyo counts."""

    partition: ReportPartition
    stored: int
    counted: int
    missing: int
    vanished: int


NO_STORED_EVENTS = StoredCount(rows=0, rows_synced_since=0)


def compare_counts(
    stored: Mapping[ReportPartition, StoredCount], counted: Mapping[ReportPartition, int]
) -> list[CountDifference]:
    """Return the cells that differ, in the order of days, then metrics.

    A cell that Klaviyo does not mention has no events there; every cell of either side counts.
    """
    found: list[CountDifference] = []
    for partition in sorted(
        stored.keys() | counted.keys(), key=lambda each: (each.day, each.metric_id)
    ):
        here, there = stored.get(partition, NO_STORED_EVENTS), counted.get(partition, 0)
        missing = max(0, there - here.rows_synced_since)
        vanished = here.rows - here.rows_synced_since + max(0, here.rows_synced_since - there)
        if missing or vanished:
            found.append(
                CountDifference(
                    partition=partition,
                    stored=here.rows,
                    counted=there,
                    missing=missing,
                    vanished=vanished,
                )
            )
    return found


def missing_by_day(differences: Iterable[CountDifference]) -> dict[date, int]:
    """Return the days on which events are missing, with how many, in order."""
    days: dict[date, int] = {}
    for each in differences:
        if each.missing:
            days[each.partition.day] = days.get(each.partition.day, 0) + each.missing
    return dict(sorted(days.items()))


def vanished_days(differences: Iterable[CountDifference]) -> frozenset[date]:
    """Return the days on which Klaviyo no longer has what is stored."""
    return frozenset(each.partition.day for each in differences if each.vanished)


def comparison_window(
    high_water_mark: datetime, *, start: datetime | None, first_day: date, tolerance: timedelta
) -> Window:
    """Return what is compared: from a day on, and up to some time before the mark.

    `start` is where reading began, None: at the first event. The newest hours are left alone:
    Klaviyo's counts lag, and what lies past the mark is read again anyway. Empty where nothing
    is old enough.

              first, or start        mark - tolerance     mark
    ────────────────┼───────────────────────┼──────────────┼─────▶ UTC
    compared ───────[═══════════════════════)
    """
    floor = datetime(first_day.year, first_day.month, first_day.day, tzinfo=UTC)
    end = (high_water_mark - tolerance).astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return Window(floor if start is None else max(floor, start), end)


EVENTS_STREAM_NAME = "events"


@dataclass(slots=True)
class KlaviyoCounts:
    """Klaviyo's counts; `refused` are metrics that it does not count, with its words.

    `first_responded_at` is when the first answer was given, UTC.
    """

    counts: dict[ReportPartition, int] = field(default_factory=dict[ReportPartition, int])
    refused: dict[str, str] = field(default_factory=dict[str, str])
    first_responded_at: datetime | None = None


def split_by_request_span(window: Window) -> Iterator[Window]:
    """Yield a closed window cut into pieces that one request each may ask for, in order."""
    start, end = window.floor, window.ceiling
    while start < end:
        following = min(end, start + timedelta(days=MAX_AGGREGATE_DAYS))
        yield Window(start, following)
        start = following


def check_request_count(metrics: Collection[str], window: Window, *, max_requests: int) -> int:
    """Return how many requests counting costs.

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
    client: KlaviyoClient, metrics: Collection[str], window: Window, *, base_url: str
) -> KlaviyoCounts:
    """Return how many events of each metric Klaviyo counts on each UTC day of a closed window.

    A metric that it refuses is told apart, unless it refuses all of them.

    Raises:
        KlaviyoAssetsError: Klaviyo cannot be reached, or refuses the key or every metric.
    """
    counts = KlaviyoCounts()
    for metric_id in metrics:
        try:
            for request_window in split_by_request_span(window):
                _fetch_counts(client, metric_id, request_window, result=counts, base_url=base_url)
        except PermanentError as error:
            counts.refused[metric_id] = error.message
            if len(counts.refused) == len(metrics):
                raise
    return counts


def _fetch_counts(
    client: KlaviyoClient, metric_id: str, window: Window, *, result: KlaviyoCounts, base_url: str
) -> None:
    request = event_count_request(metric_id, window, base_url=base_url)

    def read(answer: Response) -> None:
        for day, number in parse_event_counts(answer.body).items():
            partition = ReportPartition(metric_id, day)
            result.counts[partition] = result.counts.get(partition, 0) + number
        result.first_responded_at = result.first_responded_at or answer.responded_at

    client.fetch(request, read, stream=EVENTS_STREAM_NAME)


EVENT_METRIC_COLUMN, EVENT_TIME_COLUMN = "metric_id", "datetime"

MAX_COMPARED_YEARS = 10
"""Klaviyo takes events dated as early as 2000: a wrong clock must not cost a request a year."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileRequest:
    """What to compare: the last `days` before the mark, 0 for all that is stored.

    `reread_days` has the days that were read again whole, and since when.
    """

    days: int
    tolerance: timedelta
    max_requests: int
    reread_days: Mapping[date, datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """The outcome, over a window in UTC.

    `refused_metrics` are metrics that Klaviyo does not count, `events_without_metric` stored events
    that no count can hold; `first_responded_at` is when Klaviyo gave its first answer.
    """

    window: Window
    metric_names: Mapping[str, str]
    differences: Sequence[CountDifference]
    stored_events: int
    counted_events: int
    events_without_metric: int
    refused_metrics: Mapping[str, str]
    first_responded_at: datetime | None


def reconcile_counts(
    request: ReconcileRequest,
    *,
    client: KlaviyoClient,
    lake: Lake,
    settings: Settings,
    log: Callable[[str], None],
) -> Reconciliation:
    """Compare; ask Klaviyo once a metric and year. `log` is told what that costs.

    Raises:
        MissingTableError: events were never read.
        SettingError: it would cost more requests than allowed.
        KlaviyoAssetsError: Klaviyo cannot be asked, or the lake cannot be read.
    """
    window = requested_window(request, lake, settings)
    rows = lake.count_rows_by_day(
        EVENTS_STREAM_NAME,
        DayCountQuery(
            value_column=EVENT_METRIC_COLUMN,
            time_column=EVENT_TIME_COLUMN,
            window=window,
            synced_since=request.reread_days,
        ),
    )
    names = metrics_to_count(read_metrics(lake), rows, settings)
    requests = check_request_count(names, window, max_requests=request.max_requests)
    log(
        f"{format_quantity(requests, 'request')} for the counts of "
        f"{format_quantity(len(names), 'metric')} from "
        f"{window.floor:%Y-%m-%d} to {window.ceiling:%Y-%m-%d %H:%M} UTC"
    )
    counts = fetch_klaviyo_counts(client, names, window, base_url=settings.base_url)
    return build_reconciliation(window, rows, counts, names)


def build_reconciliation(
    window: Window,
    rows: Sequence[DayCount],
    klaviyo_counts: KlaviyoCounts,
    metric_names: Mapping[str, str],
) -> Reconciliation:
    """Return how the rows stored differ from what was counted, of metrics that were counted."""
    requested = metric_names.keys() - klaviyo_counts.refused.keys()
    stored = {
        ReportPartition(row.value, row.day): StoredCount(
            rows=row.rows, rows_synced_since=row.rows_synced_since
        )
        for row in rows
        if row.value in requested
    }
    events = {
        partition: count
        for partition, count in klaviyo_counts.counts.items()
        if partition.metric_id in requested
    }
    return Reconciliation(
        window=window,
        metric_names=metric_names,
        differences=compare_counts(stored, events),
        stored_events=sum(each.rows for each in stored.values()),
        counted_events=sum(events.values()),
        events_without_metric=sum(row.rows for row in rows if row.value is None),
        refused_metrics=klaviyo_counts.refused,
        first_responded_at=klaviyo_counts.first_responded_at,
    )


def requested_window(request: ReconcileRequest, lake: Lake, settings: Settings) -> Window:
    """Return what is compared; empty where nothing is old enough.

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


def metrics_to_count(
    known: Sequence[AccountMetric], rows: Sequence[DayCount], settings: Settings
) -> dict[str, str]:
    """Return the metrics to ask about, with the name where it is known, in the order of ids.

    Those of the setting where it names some; else all that the account has, and all that are
    stored.
    """
    names = {metric.id: metric.name or "" for metric in known}
    wanted = settings.event_metric_ids or {*names, *(row.value for row in rows)}
    return {each: names.get(each, "") for each in sorted(filter(None, wanted))}
