"""Plans backfills of reports: what is missing, what it costs, when it is done, what comes next."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import takewhile
from math import ceil
from zoneinfo import ZoneInfo

from klaviyo_assets.account.metrics import cached_revenue_metric
from klaviyo_assets.api.limits import STEADY_WINDOW_SECONDS, tier_limits
from klaviyo_assets.api.rate_limiter import RateLimiter, read_daily_quota
from klaviyo_assets.errors import SettingError, format_quantity
from klaviyo_assets.lake.delta.state import MetricRefusal, PartitionState
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.report import ONE_DAY, DateRange, ReportEndpoint, ReportPartition
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.reports.calendar import (
    ReportCalendar,
    bounding_range,
    build_calendar_offline,
    choose_timeframes,
    describe_days_of_other_zones,
    last_known_zone,
    local_date,
)
from klaviyo_assets.reports.failed_requests import FailedMetric, read_failed_metrics
from klaviyo_assets.reports.fetch import RESPONSE_CACHE_LIFETIME, fetch_times
from klaviyo_assets.reports.planner import (
    PartitionRequest,
    RequestCost,
    estimate_cost,
    load_planner_inputs,
    report_endpoint,
)
from klaviyo_assets.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRate:
    """How fast requests can be sent; `requests_left`: those that the daily quota allows now."""

    requests_left: int
    daily_limit: int
    requests_per_minute: int

    def minutes_for(self, requests: int) -> int:
        """Return how many minutes it takes to send so many requests."""
        return ceil(requests / self.requests_per_minute)

    def days_for(self, requests: int) -> int:
        """Return for how many daily quotas the last request has to wait; 0: none."""
        return ceil(max(0, requests - self.requests_left) / self.daily_limit)

    def finish_time(self, requests: int, now: datetime) -> datetime:
        """Return when the last of so many requests can have been sent, UTC."""
        days = self.days_for(requests)
        on_last_day = requests
        if days:
            on_last_day -= self.requests_left + (days - 1) * self.daily_limit
        return now + timedelta(days=days, minutes=self.minutes_for(on_last_day))


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillPlan:
    """The figures of one report. `extent`: its days or months in words.

    `refused_metrics`: left out, because Klaviyo refuses them. `failed_metrics`: included, although
    their requests failed recently.
    """

    stream: str
    has_metrics: bool
    extent: str
    metric_count: int
    date_range: DateRange
    wanted_partitions: int
    stored_partitions: int
    cost: RequestCost
    rate: RequestRate
    now: datetime
    refused_metrics: Mapping[str, MetricRefusal]
    failed_metrics: Mapping[str, FailedMetric]


def plannable_days(start: date, end: date, calendar: ReportCalendar) -> DateRange:
    """Return the days from `start` to `end`, inclusive, that are over and have partitions.

    Raises:
        SettingError: there is none.
    """
    bounds = calendar.bounds
    first = max(start, calendar.first_day)
    last = min(end, bounds.last) if bounds is not None else end
    if bounds is None or last < first:
        raise no_complete_day_error(
            start, end, first_day=calendar.first_day, zone=calendar.zone.key
        )
    return DateRange(first, last)


def no_complete_day_error(start: date, end: date, *, first_day: date, zone: str) -> SettingError:
    """Return the error for a plan without a day that can be fetched."""
    return SettingError(
        f"no day from {start} to {end} can be fetched: reports begin at {first_day} "
        f"(KLAVIYO_REPORT_START_DATE), and a day has to be over in {zone}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanContext:
    """What a plan is computed from; `now` is by this machine's clock."""

    lake: Lake
    rate_limiter: RateLimiter
    settings: Settings
    now: datetime

    @property
    def mapped_metric(self) -> str | None:
        """Return the metric that the account maps to revenue; None if no sync has read it."""
        return cached_revenue_metric(self.rate_limiter)


def plan_backfill(
    stream: Stream,
    metrics: Sequence[str],
    date_range: DateRange,
    *,
    context: PlanContext,
) -> BackfillPlan:
    """Return the figures for the days of some metrics that are not stored yet.

    Raises:
        SettingError: as for `build_calendar_offline`.
        LakeError: the lake cannot be read.
    """
    refused = context.lake.read_metric_refusals(stream.name)
    failed = read_failed_metrics(context.lake, stream.name)
    stored = context.lake.read_partition_states(stream.name)
    days = report_endpoint(stream).partition_days(date_range)
    requests = [
        PartitionRequest(
            metric_id=each,
            days=frozenset(day for day in days if ReportPartition(each, day) not in stored),
        )
        for each in metrics
        if each not in refused
    ]
    wanted = len(requests) * len(days)
    return BackfillPlan(
        stream=stream.name,
        has_metrics=report_endpoint(stream).has_metric,
        extent=format_quantity(len(days), report_endpoint(stream).period),
        metric_count=len(requests),
        date_range=date_range,
        wanted_partitions=wanted,
        stored_partitions=wanted - sum(len(request.days) for request in requests),
        cost=_estimate_plan_cost(
            stream,
            requests,
            date_range,
            shown_days={each.day for each in stored},
            context=context,
        ),
        rate=build_request_rate(stream, context),
        now=context.now,
        refused_metrics={each: refused[each] for each in metrics if each in refused},
        failed_metrics={each: failed[each] for each in metrics if each in failed},
    )


def _estimate_plan_cost(
    stream: Stream,
    requests: Sequence[PartitionRequest],
    date_range: DateRange,
    *,
    shown_days: Collection[date],
    context: PlanContext,
) -> RequestCost:
    """Return what the requests cost now, given the cached responses and the days stored."""
    calendar = build_calendar_offline(context.settings, context.lake, context.now)
    inputs = load_planner_inputs(
        stream, context.lake, bounds=calendar.bounds or date_range, calendar=calendar
    )
    response_cache = context.lake.response_cache(stream.name)
    since = context.now - RESPONSE_CACHE_LIFETIME
    return estimate_cost(
        requests,
        inputs,
        fetch_times={
            each.metric_id: fetch_times(
                response_cache.complete_responses(each.metric_id, fresh_since=since)
            )
            for each in requests
        },
        recent_timeframes=response_cache.recent_timeframes(max_age=RESPONSE_CACHE_LIFETIME),
        shown_days=shown_days,
    )


def build_request_rate(stream: Stream, context: PlanContext) -> RequestRate:
    """Return how fast a report can be requested; without a daily quota, all minutes of a day."""
    a_minute = requests_per_minute(stream, context.settings)
    quota = read_daily_quota(stream, context.rate_limiter)
    return RequestRate(
        requests_left=quota.remaining if quota is not None else a_minute * MINUTES_A_DAY,
        daily_limit=quota.limit if quota is not None else a_minute * MINUTES_A_DAY,
        requests_per_minute=a_minute,
    )


MINUTES_A_DAY = 24 * 60


def requests_per_minute(stream: Stream, settings: Settings) -> int:
    """Return how many requests of a report the rate limiter allows us in a minute."""
    share, scale = settings.rate_limit_share, settings.rate_limit_scale
    limits = tier_limits(stream.rate_limit_buckets()[0].tier, share=share, scale=scale)
    (steady,) = (each for each in limits if each.window_seconds == STEADY_WINDOW_SECONDS)
    return steady.requests


def format_plan(plan: BackfillPlan) -> list[str]:
    """Return the figures as lines of a table."""
    rate, cost = plan.rate, plan.cost
    days = f"{plan.date_range.first} to {plan.date_range.last}"
    done = rate.finish_time(cost.max_requests, plan.now)
    least = (
        ""
        if cost.min_requests == cost.max_requests
        else f"  (at most; {cost.min_requests:,} at least)"
    )
    rows = [
        ("partitions wanted", f"{plan.wanted_partitions:,}", f"  ({_format_extent(plan)}, {days})"),
        ("already there", f"{plan.stored_partitions:,}", ""),
        ("requests", f"{cost.max_requests:,}", least),
        *_unlisted_row(cost),
        (
            f"minutes at {rate.requests_per_minute} a minute",
            f"{rate.minutes_for(cost.max_requests):,}",
            "",
        ),
        (
            f"days at {rate.daily_limit:,} a day",
            f"{ceil(cost.max_requests / rate.daily_limit):,}",
            f"  ({rate.requests_left:,} requests left now)",
        ),
        ("done", f"{done:%Y-%m-%d}", ""),
    ]
    lines = [plan.stream, *(_format_line(*row) for row in rows)]
    return (
        lines
        + format_refused_metrics(plan.refused_metrics)
        + format_failed_metrics(plan.failed_metrics)
    )


def _unlisted_row(cost: RequestCost) -> Iterator[tuple[str, str, str]]:
    """Yield the row of what reports may show beyond the stored campaigns, if there may be any."""
    if cost.unlisted_requests:
        more = "  (more, if reports have campaigns that the list lacks, such as deleted ones)"
        yield "not listed, up to", f"{cost.unlisted_requests:,}", more


def _format_line(name: str, value: str, more: str) -> str:
    return f"  {name:<22} {value:>10}{more}"


def format_alternative(alternative: str, plan: BackfillPlan) -> str:
    """Return the partitions and requests of another choice of metrics, as one line."""
    cost = plan.cost
    requests = (
        f"{cost.max_requests:,}"
        if cost.min_requests == cost.max_requests
        else f"{cost.min_requests:,} to {cost.max_requests:,}"
    )
    more = f"  partitions ({_format_extent(plan)}), {requests} requests"
    return _format_line(f"with {alternative}", f"{plan.wanted_partitions:,}", more)


def format_refused_metrics(refused: Mapping[str, MetricRefusal]) -> list[str]:
    """Return the metrics that Klaviyo refuses, a line each."""
    return [
        f"  {'refused by Klaviyo' if each.is_known else 'not in the account'}: {metric_id} "
        f"({each.refused_on}){': ' * bool(each.reason)}{each.reason}"
        for metric_id, each in refused.items()
    ]


def format_failed_metrics(failed: Mapping[str, FailedMetric]) -> list[str]:
    """Return the metrics whose requests failed recently, a line each."""
    return [
        f"  {'failed recently' if each.tries_left else 'set aside'}: {metric_id}: "
        f"{each.describe()}; the last error: {each.reason}"
        for metric_id, each in failed.items()
    ]


def _format_extent(plan: BackfillPlan) -> str:
    if not plan.has_metrics:
        return plan.extent
    return f"{format_quantity(plan.metric_count, 'metric')} x {plan.extent}"


def format_report_status(stream: Stream, *, context: PlanContext) -> list[str]:
    """Return the status of a report as lines: partitions, quota, refused and failed metrics.

    Raises:
        LakeError: the lake cannot be read.
    """
    stored = context.lake.read_partition_states(stream.name)
    final = sum(each.is_final for each in stored.values())
    newest = max((partition.day for partition in stored), default=None)
    quota = read_daily_quota(stream, context.rate_limiter)
    zone = context.settings.timezone or last_known_zone(context.settings, context.lake)
    lines = [
        f"  days of {zone or 'a time zone that is not known: set KLAVIYO_TIMEZONE'}",
        (
            f"  {format_quantity(len(stored), 'partition')}, {final:,} of them final, "
            f"the newest day {newest}"
        ),
    ]
    if quota is not None:
        left, free = (
            f"{quota.remaining:,} of {quota.limit:,}",
            f"{quota.next_free_at:%Y-%m-%d %H:%M}",
        )
        lines.append(f"  {left} requests left; the next can go at {free} UTC")
    with suppress(SettingError):
        calendar = build_calendar_offline(context.settings, context.lake, context.now)
        mixed = describe_days_of_other_zones(context.lake, stream.name, calendar)
        lines += [f"  {mixed}"] if mixed is not None else []
    refused = format_refused_metrics(context.lake.read_metric_refusals(stream.name))
    return lines + refused + format_failed_metrics(read_failed_metrics(context.lake, stream.name))


@dataclass(frozen=True, slots=True)
class BackfillTask:
    """Days of one metric, without a gap, that one timeframe covers."""

    metric_id: str
    date_range: DateRange


def due_days(
    stored_days: Mapping[date, PartitionState],
    *,
    days: Iterable[date],
    now: datetime,
    zone: ZoneInfo,
) -> frozenset[date]:
    """Return those of the days that a metric lacks, or that are not final and not fetched today."""
    today = local_date(now, zone)
    return frozenset(
        day
        for day in days
        if day not in stored_days
        or (not stored_days[day].is_final and local_date(stored_days[day].fetched_at, zone) < today)
    )


def rank_tasks(
    due_days: Mapping[str, frozenset[date]],
    *,
    bounds: DateRange,
    report: ReportEndpoint,
    first_metric_id: str | None = None,
) -> list[BackfillTask]:
    """Return tasks that cover every day due, the most important first.

    The tasks of the metric `first_metric_id` come before all others. Then newer days come before
    older ones, and of the same days those of the metric that is earlier in `due_days`. A task has
    all days that one timeframe can cover, so that they share one request; of a report by month, the
    days of one month.
    """
    ranked = [
        (
            metric_id == first_metric_id,
            timeframe.last,
            -rank,
            BackfillTask(metric_id, timeframe),
        )
        for rank, (metric_id, days) in enumerate(due_days.items())
        for timeframe in _task_ranges(days, bounds, report)
    ]
    ordered = sorted(ranked, key=lambda each: each[:3], reverse=True)
    return [task for _, _, _, task in ordered]


def _task_ranges(
    days: frozenset[date], bounds: DateRange, report: ReportEndpoint
) -> Iterator[DateRange]:
    """Yield the ranges of the days due that one request each brings, newest first."""
    if report.period == "month":
        yield from (report.days_of(day) for day in sorted(days, reverse=True))
        return
    for timeframe in choose_timeframes(
        days, bounds=bounds, max_days=report.max_days, should_widen=False
    ):
        yield bounding_range([day for day in days if day in timeframe])


@dataclass(frozen=True, slots=True)
class RunBatch:
    """What one run fetches: the same days of metrics that are neighbours among the partitions.

    Dagster names a run's partitions by two corners, so a batch is a rectangle.
    """

    metric_ids: tuple[str, ...]
    date_range: DateRange

    @property
    def partition_count(self) -> int:
        """Return the number of partitions; of a report by month, of their days."""
        return len(self.metric_ids) * len(self.date_range)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """The requests left of the daily quota, and the most requests and partitions of one run."""

    quota_left: int
    max_requests: int
    max_partitions: int


def choose_next_batch(
    tasks: Sequence[BackfillTask],
    metric_order: Sequence[str],
    *,
    limits: BatchLimits,
    task_cost: Callable[[BackfillTask], int],
) -> tuple[RunBatch, int] | None:
    """Return the batch of the next run, and its cost in requests.

    `tasks` is in order of importance. The batch has the first task, and further ones that keep it a
    rectangle: the next timeframes of the same metric if they come next in `tasks`, else the same
    days of metrics that are neighbours in `metric_order`. The first task may exceed the limits of a
    run, because two runs would cost more requests. None if there is no task, or if the first one
    costs more than is left of the quota.

    `task_cost` returns the most that a task costs after those that it was called with before.
    """
    if not tasks or (cost := task_cost(tasks[0])) > limits.quota_left:
        return None
    batch = RunBatch((tasks[0].metric_id,), tasks[0].date_range)
    for larger_batch, task in _grow_batch(batch, tasks, metric_order):
        if larger_batch.partition_count > limits.max_partitions:
            break
        larger_cost = cost + task_cost(task)
        if larger_cost > min(limits.quota_left, limits.max_requests):
            break
        batch, cost = larger_batch, larger_cost
    return batch, cost


def _grow_batch(
    batch: RunBatch, tasks: Sequence[BackfillTask], metric_order: Sequence[str]
) -> Iterator[tuple[RunBatch, BackfillTask]]:
    """Yield ever larger batches, each with the task that was added."""
    older = list(takewhile(lambda each: each.metric_id == tasks[0].metric_id, tasks[1:]))
    if older:
        for task in older:
            if batch.date_range.first - task.date_range.last != ONE_DAY:
                return
            date_range = DateRange(task.date_range.first, batch.date_range.last)
            batch = RunBatch(batch.metric_ids, date_range)
            yield batch, task
        return
    same_days = {each.metric_id: each for each in tasks if each.date_range == batch.date_range}
    position = metric_order.index(tasks[0].metric_id)
    for metric_id in takewhile(same_days.__contains__, metric_order[position + 1 :]):
        batch = RunBatch((*batch.metric_ids, metric_id), batch.date_range)
        yield batch, same_days[metric_id]
    for metric_id in takewhile(same_days.__contains__, reversed(metric_order[:position])):
        batch = RunBatch((metric_id, *batch.metric_ids), batch.date_range)
        yield batch, same_days[metric_id]
