"""A fetch of reports before it is made: what is wanted, what it costs, when it will be done.

What is worth fetching first, and how much of it the quota can pay now.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from itertools import takewhile
from math import ceil, floor
from zoneinfo import ZoneInfo

from klaviyo_assets.account.metrics import cached_revenue_metric
from klaviyo_assets.api.rate_limiter import DailyQuota, RateLimiter
from klaviyo_assets.errors import SettingError, format_quantity
from klaviyo_assets.lake.delta.state import MetricRefusal, PartitionState
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.report import ONE_DAY, DateRange, ReportEndpoint, ReportPartition
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.reports.calendar import (
    ReportCalendar,
    bounding_range,
    choose_timeframes,
    describe_days_of_other_zones,
    last_known_zone,
    local_date,
    resolve_zone_offline,
)
from klaviyo_assets.reports.context import build_planner_inputs, load_send_facts
from klaviyo_assets.reports.estimate import RequestCost, RequestRate, estimate_cost
from klaviyo_assets.reports.failed_requests import FailedMetric, read_failed_metrics
from klaviyo_assets.reports.planner import FetchTimes, PartitionRequest
from klaviyo_assets.reports.source import RESPONSE_CACHE_LIFETIME, fetch_times
from klaviyo_assets.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillPlan:
    """The figures of one report.

    `refused_metrics` are metrics that are left out because Klaviyo did.

    `failed_metrics` are those whose report failed recently: their requests count as if it had not.
    """

    stream: str
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
    """Return the days of a plan, both ends inclusive: those that are over and have partitions.

    Raises:
        SettingError: none of the days is.
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
    """Return the error for days of which none can be fetched."""
    return SettingError(
        f"no day from {start} to {end} can be fetched: reports begin at {first_day} "
        f"(KLAVIYO_REPORT_START_DATE), and a day has to be over in {zone}"
    )


def build_calendar_offline(settings: Settings, lake: Lake, now: datetime) -> ReportCalendar:
    """Return the account's calendar at an instant of this machine's clock; no request is sent.

    Raises:
        SettingError: the account's zone is not known, or not that of the settings.
        LakeError: the lake cannot be read.
    """
    return ReportCalendar(
        zone=resolve_zone_offline(settings, lake, now=now),
        now=now,
        first_day=settings.first_report_day,
        attribution_window_days=settings.report_lookback_days,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanContext:
    """What figures are made from: the lake, the ledger, the settings, and this machine's clock."""

    lake: Lake
    rate_limiter: RateLimiter
    settings: Settings
    now: datetime

    @property
    def mapped_metric(self) -> str | None:
        """Return the metric that the account maps to revenue, where a sync of metrics asked."""
        return cached_revenue_metric(self.rate_limiter)


def plan_backfill(
    stream: Stream,
    report: ReportEndpoint,
    metrics: Sequence[str],
    date_range: DateRange,
    *,
    context: PlanContext,
) -> BackfillPlan:
    """Return the figures for what is not stored yet of some metrics and days.

    Raises:
        SettingError: as for `build_calendar_offline`.
        LakeError: the lake cannot be read.
    """
    refused = context.lake.read_metric_refusals(stream.name)
    failed = read_failed_metrics(context.lake, stream.name)
    requests = _build_requests(
        stream.name, [each for each in metrics if each not in refused], date_range, context=context
    )
    wanted = len(requests) * len(date_range)
    return BackfillPlan(
        stream=stream.name,
        metric_count=len(requests),
        date_range=date_range,
        wanted_partitions=wanted,
        stored_partitions=wanted - sum(len(request.days) for request in requests),
        cost=_estimate_plan_cost(stream, report, requests, date_range, context=context),
        rate=build_request_rate(
            context.rate_limiter.daily_quota(stream.rate_limit_buckets()[0]), context.settings
        ),
        now=context.now,
        refused_metrics={each: refused[each] for each in metrics if each in refused},
        failed_metrics={each: failed[each] for each in metrics if each in failed},
    )


def _build_requests(
    report_name: str, metrics: Sequence[str], date_range: DateRange, *, context: PlanContext
) -> list[PartitionRequest]:
    """Return what a report lacks of each metric."""
    there = set(context.lake.read_partition_states(report_name))
    return [
        PartitionRequest(
            metric_id=each,
            days=frozenset(day for day in date_range if ReportPartition(each, day) not in there),
        )
        for each in metrics
    ]


def _estimate_plan_cost(
    stream: Stream,
    report: ReportEndpoint,
    requests: Sequence[PartitionRequest],
    date_range: DateRange,
    *,
    context: PlanContext,
) -> RequestCost:
    """Return what the wishes cost now, given the answers that were paid for already."""
    calendar = build_calendar_offline(context.settings, context.lake, context.now)
    send_facts = load_send_facts(stream, report, context.lake)
    return estimate_cost(
        requests,
        build_planner_inputs(report, calendar.bounds or date_range, send_facts, calendar),
        fetch_times=_fetch_times(stream.name, [request.metric_id for request in requests], context),
        campaigns=send_facts.campaigns.values(),
        recent_timeframes=context.lake.response_cache(stream.name).recent_timeframes(
            max_age=RESPONSE_CACHE_LIFETIME
        ),
    )


def build_request_rate(quota: DailyQuota, settings: Settings) -> RequestRate:
    """Return how fast reports can be asked for."""
    a_minute = max(1, floor(2 * settings.rate_limit_scale))
    return RequestRate(
        requests_left=quota.remaining, daily_limit=quota.limit, requests_per_minute=a_minute
    )


def _fetch_times(
    report_name: str, metrics: Collection[str], context: PlanContext
) -> Mapping[str, FetchTimes]:
    response_cache = context.lake.response_cache(report_name)
    since = context.now - RESPONSE_CACHE_LIFETIME
    return {
        each: fetch_times(response_cache.complete_responses(each, fresh_since=since))
        for each in metrics
    }


def format_plan(plan: BackfillPlan) -> list[str]:
    """Return the figures as lines of a table."""
    rate, cost = plan.rate, plan.cost
    done = rate.finish_time(cost.max_requests, plan.now)
    least = (
        ""
        if cost.min_requests == cost.max_requests
        else f"  (at most; {cost.min_requests:,} at least)"
    )
    rows = [
        ("partitions wanted", f"{plan.wanted_partitions:,}", _format_extent(plan)),
        ("already there", f"{plan.stored_partitions:,}", ""),
        ("requests", f"{cost.max_requests:,}", least),
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


def _format_line(name: str, value: str, more: str) -> str:
    return f"  {name:<22} {value:>10}{more}"


def format_alternative(alternative: str, plan: BackfillPlan) -> str:
    """Return what another choice of metrics is, as one line: its partitions and its requests."""
    cost, days = plan.cost, len(plan.date_range)
    requests = (
        f"{cost.max_requests:,}"
        if cost.min_requests == cost.max_requests
        else f"{cost.min_requests:,} to {cost.max_requests:,}"
    )
    extent = f"{format_quantity(plan.metric_count, 'metric')} x {format_quantity(days, 'day')}"
    more = f"  partitions ({extent}), {requests} requests"
    return _format_line(f"with {alternative}", f"{plan.wanted_partitions:,}", more)


def format_refused_metrics(refused: Mapping[str, MetricRefusal]) -> list[str]:
    """Return the metrics that Klaviyo refused, a line each."""
    return [
        f"  {'refused by Klaviyo' if each.is_known else 'not in the account'}: {metric_id} "
        f"({each.refused_on}){': ' * bool(each.reason)}{each.reason}"
        for metric_id, each in refused.items()
    ]


def format_failed_metrics(failed: Mapping[str, FailedMetric]) -> list[str]:
    """Return the metrics whose report failed recently, a line each."""
    return [
        f"  {'failed recently' if each.tries_left else 'set aside'}: {metric_id}: "
        f"{each.describe()}; the last error: {each.reason}"
        for metric_id, each in failed.items()
    ]


def _format_extent(plan: BackfillPlan) -> str:
    days, metrics = plan.date_range, format_quantity(plan.metric_count, "metric")
    return f"  ({metrics} x {format_quantity(len(days), 'day')}, {days.first} to {days.last})"


def format_report_status(stream: Stream, *, context: PlanContext) -> list[str]:
    """Return how far a report is, as lines: its partitions, refused metrics, its quota.

    Raises:
        LakeError: the lake cannot be read.
    """
    facts = context.lake.read_partition_states(stream.name)
    final = sum(each.is_final for each in facts.values())
    newest = max((partition.day for partition in facts), default=None)
    quota = context.rate_limiter.daily_quota(stream.rate_limit_buckets()[0])
    free = f"{quota.next_free_at:%Y-%m-%d %H:%M}"
    zone = context.settings.timezone or last_known_zone(context.settings, context.lake)
    lines = [
        f"  days of {zone or 'a time zone that is not known: set KLAVIYO_TIMEZONE'}",
        (
            f"  {format_quantity(len(facts), 'partition')}, {final:,} of them final, "
            f"the newest day {newest}"
        ),
        f"  {quota.remaining:,} of {quota.limit:,} requests left; the next can go at {free} UTC",
    ]
    with suppress(SettingError):
        calendar = build_calendar_offline(context.settings, context.lake, context.now)
        mixed = describe_days_of_other_zones(context.lake, stream.name, calendar)
        lines += [f"  {mixed}"] if mixed is not None else []
    refused = format_refused_metrics(context.lake.read_metric_refusals(stream.name))
    return lines + refused + format_failed_metrics(read_failed_metrics(context.lake, stream.name))


@dataclass(frozen=True, slots=True)
class BackfillTask:
    """One launch: days of one metric, without a gap, that share a time frame."""

    metric_id: str
    date_range: DateRange


def due_days(
    stored_days: Mapping[date, PartitionState], *, bounds: DateRange, now: datetime, zone: ZoneInfo
) -> frozenset[date]:
    """Return the days of one metric that are missing, or still move and were not fetched today."""
    today = local_date(now, zone)
    return frozenset(
        day
        for day in bounds
        if day not in stored_days
        or (not stored_days[day].is_final and local_date(stored_days[day].fetched_at, zone) < today)
    )


def rank_tasks(
    due_days: Mapping[str, frozenset[date]],
    *,
    bounds: DateRange,
    max_days: int,
    first_metric_id: str | None = None,
) -> list[BackfillTask]:
    """Return launches that hold every day due, in the order of worth.

    Those of the metric `first_metric_id` come first. Of each kind the newest days come first, of
    equally new ones those of the metric that stands first in `due_days`. Each is one time frame
    long, so that as many as possible share its request.
    """
    ranked = [
        (
            metric_id == first_metric_id,
            timeframe.last,
            -rank,
            BackfillTask(metric_id, bounding_range([day for day in days if day in timeframe])),
        )
        for rank, (metric_id, days) in enumerate(due_days.items())
        for timeframe in choose_timeframes(
            days, bounds=bounds, max_days=max_days, should_widen=False
        )
    ]
    ordered = sorted(ranked, key=lambda each: each[:3], reverse=True)
    return [task for _, _, _, task in ordered]


@dataclass(frozen=True, slots=True)
class RunBatch:
    """What one run fetches: days of metrics that stand side by side among the partitions.

    Dagster knows a run's partitions by the two ends of a rectangle, so a batch is one.
    """

    metric_ids: tuple[str, ...]
    date_range: DateRange

    @property
    def partition_count(self) -> int:
        """Return the number of partitions."""
        return len(self.metric_ids) * len(self.date_range)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """What a run may hold: `quota_left` requests a day, `max_requests` and `partitions` a run."""

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
    """Return what one run fetches of `tasks`, which stands in the order of worth, and its cost.

    It holds the first errand and those of the same worth beside it: the same metric's next time
    frames where they come next, else the same days of the metrics beside it in the `metric_order`
    of the partitions. None where the first costs more than is left of the day, or nothing is
    wanted. What
    the day can pay is taken first whatever it costs: cut in two, it would cost more. `task_cost`
    tells the most that an errand costs after those it was called with before.
    """
    if not tasks or (price := task_cost(tasks[0])) > limits.quota_left:
        return None
    batch = RunBatch((tasks[0].metric_id,), tasks[0].date_range)
    for grown, task in _grow_batch(batch, tasks, metric_order):
        if grown.partition_count > limits.max_partitions:
            break
        more = price + task_cost(task)
        if more > min(limits.quota_left, limits.max_requests):
            break
        batch, price = grown, more
    return batch, price


def _grow_batch(
    batch: RunBatch, tasks: Sequence[BackfillTask], metric_order: Sequence[str]
) -> Iterator[tuple[RunBatch, BackfillTask]]:
    """Yield ever larger batches, each with the errand that was added."""
    past = list(takewhile(lambda each: each.metric_id == tasks[0].metric_id, tasks[1:]))
    if past:
        for task in past:
            if batch.date_range.first - task.date_range.last != ONE_DAY:
                return
            batch = RunBatch(
                batch.metric_ids, DateRange(task.date_range.first, batch.date_range.last)
            )
            yield batch, task
        return
    same = {each.metric_id: each for each in tasks if each.date_range == batch.date_range}
    place = metric_order.index(tasks[0].metric_id)
    for metric_id in takewhile(same.__contains__, metric_order[place + 1 :]):
        batch = RunBatch((*batch.metric_ids, metric_id), batch.date_range)
        yield batch, same[metric_id]
    for metric_id in takewhile(same.__contains__, reversed(metric_order[:place])):
        batch = RunBatch((metric_id, *batch.metric_ids), batch.date_range)
        yield batch, same[metric_id]
