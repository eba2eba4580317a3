"""Lines about waits for Klaviyo's rate limit, so that a run that waits does not look hung.

A line says which request waits, how long, and for reports what is left of the day's requests.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from threading import Lock
from time import monotonic

from klaviyo_assets.api.client import KlaviyoClient
from klaviyo_assets.api.request_guard import Request
from klaviyo_assets.errors import KlaviyoAssetsError, format_seconds
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.reports.backfill_plan import read_daily_quota
from klaviyo_assets.reports.estimate import CostEstimator
from klaviyo_assets.reports.failed_requests import ReportContext
from klaviyo_assets.reports.fetch import ReportFetch
from klaviyo_assets.reports.planner import PartitionRequest, load_planner_inputs
from klaviyo_assets.reports.source import RESPONSE_CACHE_LIFETIME, RequestBudget

SHORT_WAIT_SECONDS = 5.0
"""A shorter wait is not worth a line: nobody thinks of a hung run."""

LINE_INTERVAL_SECONDS = 10.0
"""Waits that end this soon after one that has a line get none: threads wait side by side."""


class WaitLog:
    """Writes a line for each wait that a person would notice. Safe for threads.

    Args:
        log: writes a line.
        describe: returns the line of a wait of so many seconds.
        clock: monotonic seconds, for tests.
    """

    def __init__(
        self,
        log: Callable[[str], None],
        describe: Callable[[float], str],
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._log = log
        self._describe = describe
        self._clock = clock
        self._lock = Lock()
        self._told_until = float("-inf")

    def __call__(self, request: Request, seconds: float) -> None:  # noqa: ARG002 - the client's
        """Write a line, unless the wait is short or another line covers it."""
        end = self._clock() + seconds
        with self._lock:
            if seconds < SHORT_WAIT_SECONDS or end < self._told_until + LINE_INTERVAL_SECONDS:
                return
            self._told_until = end
        self._log(self._describe(seconds))


def describe_wait(subject: str, seconds: float) -> str:
    """Return the line of a wait: `lists_detailed: request 31, next in 58 s`."""
    return f"{subject}, next in {format_seconds(seconds)}"


def log_waits(log: Callable[[str], None], stream: Stream, client: KlaviyoClient) -> None:
    """Let the client of a sync log its waits, each with the number of the request that waits."""

    def describe(seconds: float) -> str:
        return describe_wait(f"{stream.name}: request {client.stats.requests + 1:,}", seconds)

    client.on_wait = WaitLog(log, describe)


class ReportWaits:
    """Describes the waits of a report's run: how many requests it makes, and how many are left."""

    def __init__(
        self,
        context: ReportContext,
        fetch: ReportFetch,
        requests: Iterable[PartitionRequest],
        budget: RequestBudget,
    ) -> None:
        """Do no I/O."""
        self._context = context
        self._fetch = fetch
        self._requests = tuple(requests)
        self._budget = budget
        self._expected: int | None = None

    def describe(self, seconds: float) -> str:
        """Return `flow_series_reports: request 4 of about 7, next in 30 s, 218 left today`."""
        name, number = self._context.stream.name, self._budget.spent
        total = self._budget.limit
        of = f"of at most {total:,}" if total is not None else f"of about {self._expect():,}"
        line = describe_wait(f"{name}: request {number:,} {of}", seconds)
        quota = read_daily_quota(self._context.stream, self._context.client.rate_limiter)
        return line if quota is None else f"{line}, {quota.remaining:,} left today"

    def _expect(self) -> int:
        """Return how many requests the run makes in all, estimated when it first waits."""
        if self._expected is None:
            try:
                left = self._estimate_left()
            except KlaviyoAssetsError:
                left = 1
            self._expected = self._budget.spent - 1 + left
        return max(self._expected, self._budget.spent)

    def _estimate_left(self) -> int:
        """Return what the days cost that are not stored yet, the waiting request included.

        Raises:
            KlaviyoAssetsError: the lake cannot be read.
        """
        context, bounds = self._context, self._context.calendar.bounds
        if bounds is None:
            return 1
        cache = context.lake.response_cache(context.stream.name)
        estimator = CostEstimator(
            load_planner_inputs(
                context.stream, context.lake, bounds=bounds, calendar=context.calendar
            ),
            assume_spread=True,
            recent_timeframes=cache.recent_timeframes(max_age=RESPONSE_CACHE_LIFETIME),
        )
        days = self._fetch.remaining_days
        left = (replace(each, days=frozenset(days[each.metric_id])) for each in self._requests)
        return sum(estimator.estimate(each) for each in left if each.days)
