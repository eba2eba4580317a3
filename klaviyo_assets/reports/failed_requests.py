"""Remembers which metrics not to request again: refused ones for good, failing ones for a day.

    failed     1   2             3                            1 again
    ───────────x───x─────────────x────────────────────────────x────▶
               └10 s┘            └── not requested ───────────┘
               └── FAILURE_LIFETIME ──────────────────────────┘

A report request counts against the daily quota of 225 whether its response can be used or not. Most
failures pass within seconds, so a run tries twice; some pass within an hour, so the third try is
left to another run. A query that succeeds later removes its failures.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from klaviyo_assets.account.metrics import fetch_custom_metrics, read_metrics
from klaviyo_assets.api.client import KlaviyoClient
from klaviyo_assets.api.retry import RetryPolicy
from klaviyo_assets.errors import (
    AccessDeniedError,
    ConnectionLostError,
    ContractError,
    IneligibleMetricError,
    KlaviyoAssetsError,
    PermanentError,
    QuotaError,
    RateLimitError,
    ReportFailedError,
    TransientError,
    format_quantity,
)
from klaviyo_assets.lake.delta.state import MetricRefusal
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import LakeTable
from klaviyo_assets.lake.response_cache import ReportFailure
from klaviyo_assets.model.report import ReportEndpoint, ReportPartition
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.reports.bisect import ReportQuery
from klaviyo_assets.reports.calendar import ReportCalendar, local_date

MAX_FAILURES_PER_DAY = 3
"""Requests of one metric that may fail within a day, over all runs and processes."""

MAX_TRIES_PER_RUN = 2
"""Requests that a run spends on a query that fails."""

FAILURE_LIFETIME = timedelta(hours=23, minutes=50)
"""How long a failure counts: a day less ten minutes, since a daily run may start a bit earlier."""

UNUSABLE_RESULT_QUERY = "all"
"""Stands for the query of a failure that shows only when all responses are put together."""

RELAUNCH_PAUSE = timedelta(hours=1)
"""How long the backfill sensor launches no run for a metric after a failed request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportContext:
    """What a fetch of one report works with.

    `warn` takes a sentence for the operator: what was unexpected, and what is done about it.
    """

    stream: Stream
    report: ReportEndpoint
    client: KlaviyoClient
    lake: Lake
    account: str
    calendar: ReportCalendar
    clock: Callable[[], datetime]
    warn: Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedMetric:
    """The requests of a metric that failed within a day: at least one, the oldest first."""

    failures: tuple[ReportFailure, ...]

    @property
    def failure_count(self) -> int:
        """Return how many requests failed."""
        return len(self.failures)

    @property
    def reason(self) -> str:
        """Return why the last one failed."""
        return self.failures[-1].reason

    @property
    def tries_left(self) -> int:
        """Return how many more requests may fail within the day."""
        return max(0, MAX_FAILURES_PER_DAY - self.failure_count)

    @property
    def retry_at(self) -> datetime:
        """Return when the backfill sensor launches runs for this metric again, UTC."""
        if self.tries_left:
            return self.failures[-1].failed_at + RELAUNCH_PAUSE
        return self.failures[-MAX_FAILURES_PER_DAY].failed_at + FAILURE_LIFETIME

    def describe(self) -> str:
        """Return a sentence: how often and since when it failed, when it is requested again."""
        first, again = self.failures[0].failed_at, self.retry_at
        said = (
            f"{format_quantity(self.failure_count, 'request')} failed since "
            f"{first:%Y-%m-%d %H:%M} UTC"
        )
        if self.tries_left:
            return (
                f"{said}; after {MAX_FAILURES_PER_DAY} within a day it is not requested again that "
                "day"
            )
        return (
            f"{said}, so it is not requested again before {again:%Y-%m-%d %H:%M} UTC, unless the "
            "run config says ask_refused: true"
        )


def read_failed_metrics(
    lake: Lake, report_name: str, now: datetime | None = None
) -> Mapping[str, FailedMetric]:
    """Return the metrics of a report, by id, whose requests failed within a day before `now`.

    Without `now` it returns all stored ones, each with the failures of the day before its last.
    """
    found = {
        metric_id: recent_failures(failures, now or failures[-1].failed_at)
        for metric_id, failures in lake.response_cache(report_name).failed_metrics().items()
    }
    return {metric_id: each for metric_id, each in found.items() if each is not None}


def recent_failures(failures: Sequence[ReportFailure], now: datetime) -> FailedMetric | None:
    """Return the failures that count at `now`; None if there is none.

    One far in the future does not count: the clock was wrong when it was recorded.
    """
    recent = tuple(each for each in failures if abs(now - each.failed_at) < FAILURE_LIFETIME)
    return FailedMetric(failures=recent) if recent else None


def is_wasted_request(error: KlaviyoAssetsError) -> bool:
    """Return whether an error means that a request of the daily quota was spent in vain.

    It does not if Klaviyo did not count the request (429) or never received it. The refusal of a
    metric is no waste either, because it is recorded for good.
    """
    if isinstance(error, ConnectionLostError):
        return error.was_sent
    if isinstance(error, RateLimitError | QuotaError | ReportFailedError | IneligibleMetricError):
        return False
    kinds = TransientError | PermanentError | ContractError | AccessDeniedError
    return isinstance(error, kinds)


class FailedRequestStore:
    """The failed requests of one report in the lake; used while holding the metric's lock."""

    def __init__(self, context: ReportContext, *, should_retry_failed: bool) -> None:
        """Do no I/O; with `should_retry_failed` the failures of earlier runs do not count."""
        self._context = context
        self._response_cache = context.lake.response_cache(context.stream.name)
        self._should_retry_failed = should_retry_failed
        self._cleared_metrics: set[str] = set()
        self._last_recorded_error: KlaviyoAssetsError | None = None
        self._started_at = context.clock()

    def retry_policy(self, metric_id: str) -> RetryPolicy:
        """Return how often a request for a metric may be tried now.

        Raises:
            ReportFailedError: too many failed within a day.
        """
        if self._should_retry_failed and metric_id not in self._cleared_metrics:
            self._response_cache.store_failures(metric_id, ())
        self._cleared_metrics.add(metric_id)
        known = self.failed_metric(metric_id)
        left = known.tries_left if known is not None else MAX_FAILURES_PER_DAY
        if known is not None and not left:
            raise ReportFailedError(
                f"{known.describe()}. Not requested now; the last error: {known.reason}"
            )
        own = self._context.client.retry_policy
        return replace(own, max_tries=min(MAX_TRIES_PER_RUN, left), has_constant_backoff=True)

    def failed_metric(self, metric_id: str) -> FailedMetric | None:
        """Return the failures of a metric that count now; None if there is none."""
        return recent_failures(self._response_cache.failures(metric_id), self._now())

    def record_unusable(self, metric_id: str, error: KlaviyoAssetsError) -> None:
        """Record that the responses were received, but together cannot be stored."""
        if error is not self._last_recorded_error and isinstance(error, ContractError):
            self.record(metric_id, None, error)

    def record(self, metric_id: str, query: ReportQuery | None, error: KlaviyoAssetsError) -> None:
        """Record an error if it means that a request was spent in vain."""
        if not is_wasted_request(error):
            return
        self._last_recorded_error = error
        known = self.failed_metric(metric_id)
        key = query_key(query) if query is not None else UNUSABLE_RESULT_QUERY
        failed = ReportFailure(failed_at=self._now(), request=key, reason=error.message)
        self._response_cache.store_failures(metric_id, (*(known.failures if known else ()), failed))

    def forget(self, metric_id: str, query: ReportQuery) -> None:
        """Remove the failures of a query, because it succeeded."""
        failures = self._response_cache.failures(metric_id)
        others = [each for each in failures if each.request != query_key(query)]
        if len(others) < len(failures):
            self._response_cache.store_failures(metric_id, others)

    def _now(self) -> datetime:
        """Return the time by Klaviyo's clock, as read when the fetch began; whole seconds, UTC."""
        now = self._context.calendar.now + (self._context.clock() - self._started_at)
        return now.replace(microsecond=0)


def query_key(query: ReportQuery) -> str:
    """Return the text that identifies a query of a metric."""
    return (
        f"{query.date_range.first} {query.date_range.last} {' '.join(query.message_ids)}".rstrip()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedMetric:
    """A wanted metric that Klaviyo makes no report with.

    `row_counts`: for each wanted day the rows that are stored, from before the refusal.
    `rows_total`: the rows of the table. `requests`: how many it took to learn of the refusal, 0 if
    it was known.
    """

    metric_id: str
    refusal: MetricRefusal
    row_counts: Mapping[date, int]
    rows_total: int
    requests: int

    @property
    def sharing_days(self) -> int:
        """Return how many wanted days the requests were for."""
        return len(self.row_counts)


class RefusedMetricStore:
    """The metrics that Klaviyo refuses for a report, stored in the report's table."""

    def __init__(
        self, context: ReportContext, table: LakeTable, *, should_retry_refused: bool
    ) -> None:
        """Do no I/O; with `should_retry_refused` stored refusals do not count."""
        self._context = context
        self._table = table
        self._should_retry_refused = should_retry_refused
        self._newly_refused: set[str] = set()

    def check(self, metric_id: str) -> None:
        """Refuse a metric that Klaviyo has refused before.

        Raises:
            IneligibleMetricError: Klaviyo has refused it.
        """
        if not self._should_retry_refused and metric_id in self._read_refusals():
            raise IneligibleMetricError(f"Klaviyo has refused metric {metric_id!a} before")

    def record(self, metric_id: str, error: IneligibleMetricError) -> None:
        """Record that Klaviyo has just refused a metric, why, and whether the account has it."""
        context = self._context
        refusal = MetricRefusal(
            refused_on=local_date(context.calendar.now, context.calendar.zone),
            reason=error.detail or error.code or "",
            is_known=self._is_stored_metric(metric_id) or self._is_custom_metric(metric_id),
        )
        context.lake.record_metric_refusal(
            self._table, account=context.account, metric_id=metric_id, refusal=refusal
        )
        self._newly_refused.add(metric_id)

    def build_outcome(self, metric_id: str, days: Collection[date]) -> RefusedMetric:
        """Return the refusal of a metric, with what is stored of its wanted days."""
        lake, name = self._context.lake, self._context.stream.name
        refusal = self._read_refusals()[metric_id]
        if not refusal.is_known and self._is_stored_metric(metric_id):
            refusal = replace(refusal, is_known=True)
        states = lake.read_partition_states(name)
        stored = {day: states.get(ReportPartition(metric_id, day)) for day in sorted(days)}
        state = lake.read_table_state(name)
        return RefusedMetric(
            metric_id=metric_id,
            refusal=refusal,
            row_counts={day: each.rows if each is not None else 0 for day, each in stored.items()},
            rows_total=state.rows if state is not None else 0,
            requests=int(metric_id in self._newly_refused),
        )

    def _read_refusals(self) -> Mapping[str, MetricRefusal]:
        return self._context.lake.read_metric_refusals(self._context.stream.name)

    def _is_stored_metric(self, metric_id: str) -> bool:
        return any(metric.id == metric_id for metric in read_metrics(self._context.lake))

    def _is_custom_metric(self, metric_id: str) -> bool:
        """Return whether it is a custom metric, which no table has; False if that is not known."""
        try:
            found = fetch_custom_metrics(self._context.client)
        except TransientError as error:
            self._context.warn(f"whether {metric_id!a} is a custom metric is not known: {error}")
            found = None
        return any(metric.id == metric_id for metric in found or ())
