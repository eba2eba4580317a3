"""Remembers which metrics not to request again: refused ones for good, failing ones for a day.

    failed     1   2             3                            1 again
    ───────────x───x─────────────x────────────────────────────x────▶
               └10 s┘            └── not requested ───────────┘
               └── FAILURE_LIFETIME ──────────────────────────┘

A report request counts against the daily quota of 225 whether its response can be used or not. Most
failures pass within seconds, so a run tries twice; some pass within an hour, so the third try is
left to another run. A query that succeeds later removes its failures.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from klaviyo_assets.account.metrics import fetch_custom_metrics, read_metrics
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
from klaviyo_assets.model.report import ReportPartition
from klaviyo_assets.reports.bisect import ReportQuery
from klaviyo_assets.reports.calendar import local_date
from klaviyo_assets.reports.context import ReportContext

MAX_FAILURES_PER_DAY = 3
"""Requests of one metric that may fail within a day, over all runs and processes."""

MAX_TRIES_PER_RUN = 2
"""Requests that a run spends on a question that fails."""

FAILURE_LIFETIME = timedelta(hours=23, minutes=50)
"""How long a failure counts: a day, less what a daily run may begin sooner than the day before."""

UNUSABLE_RESULT_QUERY = "all"
"""The question of a failure that shows only when all answers are put together."""

RELAUNCH_PAUSE = timedelta(hours=1)
"""So long nothing is launched by itself for a metric whose request has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedMetric:
    """A metric of which requests failed within a day, the oldest first; there is at least one."""

    failures: tuple[ReportFailure, ...]

    @property
    def failure_count(self) -> int:
        """Return how many requests failed."""
        return len(self.failures)

    @property
    def reason(self) -> str:
        """Return why the last one did."""
        return self.failures[-1].reason

    @property
    def tries_left(self) -> int:
        """Return how many more may fail today."""
        return max(0, MAX_FAILURES_PER_DAY - self.failure_count)

    @property
    def retry_at(self) -> datetime:
        """Return when whoever launches runs by himself does so for this metric again, UTC."""
        if self.tries_left:
            return self.failures[-1].failed_at + RELAUNCH_PAUSE
        return self.failures[-MAX_FAILURES_PER_DAY].failed_at + FAILURE_LIFETIME

    def describe(self) -> str:
        """Return how often and since when it failed, and when it is asked again, as a sentence."""
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
    """Return the metrics of a report of which requests failed within a day before `now`, by id.

    Without `now` those that are remembered, each by the day before its last failure.
    """
    found = {
        metric_id: recent_failures(failures, now or failures[-1].failed_at)
        for metric_id, failures in lake.response_cache(report_name).failed_metrics().items()
    }
    return {metric_id: each for metric_id, each in found.items() if each is not None}


def recent_failures(failures: Sequence[ReportFailure], now: datetime) -> FailedMetric | None:
    """Return those failures that count at `now`; None where there is none.

    One far in the future was noted by a clock that was wrong: it does not count.
    """
    recent = tuple(each for each in failures if abs(now - each.failed_at) < FAILURE_LIFETIME)
    return FailedMetric(failures=recent) if recent else None


def is_wasted_request(error: KlaviyoAssetsError) -> bool:
    """Tell whether an error stands for a request of the day that brought nothing.

    Not for one that Klaviyo did not count (429), or could not get; a refusal of the metric itself
    is remembered for good.
    """
    if isinstance(error, ConnectionLostError):
        return error.was_sent
    if isinstance(error, RateLimitError | QuotaError | ReportFailedError | IneligibleMetricError):
        return False
    kinds = TransientError | PermanentError | ContractError | AccessDeniedError
    return isinstance(error, kinds)


class FailedRequestStore:
    """The failed requests of one report, as its lake has them; to be used under a metric's lock."""

    def __init__(self, context: ReportContext, *, should_retry_failed: bool) -> None:
        """Read nothing yet; with `should_retry_failed` each metric begins with none."""
        self._context = context
        self._response_cache = context.lake.response_cache(context.stream.name)
        self._should_retry_failed = should_retry_failed
        self._cleared_metrics: set[str] = set()
        self._last_recorded_error: KlaviyoAssetsError | None = None
        self._started_at = context.clock()

    def retry_policy(self, metric_id: str) -> RetryPolicy:
        """Return how often a request about a metric may be tried now.

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
        """Return the failures of a metric that count now; None where there is none."""
        return recent_failures(self._response_cache.failures(metric_id), self._now())

    def record_unusable(self, metric_id: str, error: KlaviyoAssetsError) -> None:
        """Remember that what was paid for now was read, and cannot be stored all the same."""
        if error is not self._last_recorded_error and isinstance(error, ContractError):
            self.record(metric_id, None, error)

    def record(self, metric_id: str, query: ReportQuery | None, error: KlaviyoAssetsError) -> None:
        """Remember that a request was paid in vain, if it was."""
        if not is_wasted_request(error):
            return
        self._last_recorded_error = error
        known = self.failed_metric(metric_id)
        question = query_key(query) if query is not None else UNUSABLE_RESULT_QUERY
        failed = ReportFailure(failed_at=self._now(), request=question, reason=error.message)
        self._response_cache.store_failures(metric_id, (*(known.failures if known else ()), failed))

    def forget(self, metric_id: str, query: ReportQuery) -> None:
        """Forget that a question failed: it was answered after all."""
        failures, question = self._response_cache.failures(metric_id), query_key(query)
        if any(each.request == question for each in failures):
            others = [each for each in failures if each.request != question]
            self._response_cache.store_failures(metric_id, others)

    def _now(self) -> datetime:
        """Return the time by the clock that the fetch keeps to, whole seconds, UTC."""
        now = self._context.calendar.now + (self._context.clock() - self._started_at)
        return now.replace(microsecond=0)


def query_key(query: ReportQuery) -> str:
    """Return what tells a question about a metric from all others."""
    return (
        f"{query.date_range.first} {query.date_range.last} {' '.join(query.message_ids)}".rstrip()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedMetric:
    """A metric that Klaviyo makes no report with, and the days wanted of it that it has not made.

    `row_counts` has how many rows of a day are stored all the same, from a time when it did, and
    `rows_total` how many the table has. `requests` were spent now to learn it: 0 if it was known.
    """

    metric_id: str
    refusal: MetricRefusal
    row_counts: Mapping[date, int]
    rows_total: int
    requests: int


class RefusedMetricStore:
    """The metrics that Klaviyo refuses for a report, as the lake has them."""

    def __init__(
        self, context: ReportContext, table: LakeTable, *, should_retry_refused: bool
    ) -> None:
        """Read nothing yet; with `asks_again` what is known does not count."""
        self._context = context
        self._table = table
        self._should_retry_refused = should_retry_refused
        self._newly_refused: set[str] = set()

    def check(self, metric_id: str) -> None:
        """Refuse to ask for a metric that Klaviyo has refused before.

        Raises:
            IneligibleMetricError: it has.
        """
        if not self._should_retry_refused and metric_id in self._read_refusals():
            raise IneligibleMetricError(f"Klaviyo has refused metric {metric_id!a} before")

    def record(self, metric_id: str, error: IneligibleMetricError) -> None:
        """Remember that Klaviyo has just refused a metric, its words, and whether there is one."""
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
        """Return what is known of a refused metric, and of the days wanted of it."""
        lake, name = self._context.lake, self._context.stream.name
        refusal = self._read_refusals()[metric_id]
        if not refusal.is_known and self._is_stored_metric(metric_id):
            refusal = replace(refusal, is_known=True)
        facts = lake.read_partition_states(name)
        stored = {day: facts.get(ReportPartition(metric_id, day)) for day in sorted(days)}
        rows = {day: each.rows if each is not None else 0 for day, each in stored.items()}
        state = lake.read_table_state(name)
        return RefusedMetric(
            metric_id=metric_id,
            refusal=refusal,
            row_counts=rows,
            rows_total=state.rows if state is not None else 0,
            requests=int(metric_id in self._newly_refused),
        )

    def _read_refusals(self) -> Mapping[str, MetricRefusal]:
        return self._context.lake.read_metric_refusals(self._context.stream.name)

    def _is_stored_metric(self, metric_id: str) -> bool:
        return any(metric.id == metric_id for metric in read_metrics(self._context.lake))

    def _is_custom_metric(self, metric_id: str) -> bool:
        """Return whether it is a custom metric, which no table has; False where nobody tells."""
        try:
            found = fetch_custom_metrics(self._context.client, self._context.base_url)
        except TransientError as error:
            self._context.warn(f"whether {metric_id!a} is a custom metric is not known: {error}")
            found = None
        return any(metric.id == metric_id for metric in found or ())
