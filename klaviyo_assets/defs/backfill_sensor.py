"""The backfill sensor: fetches all missing report days by itself, as far as the daily quota goes.

Its only state is a counter of ticks. At every tick it reads from the lake which days are missing or
can still change, from Dagster which runs are unfinished, and from the rate limiter what is left of
the quota. So a restart, a crash or a pause changes nothing.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import dagster as dg

from klaviyo_assets.account.metrics import (
    AccountMetric,
    fetch_custom_metrics,
    fetch_revenue_metric,
    find_metric_setting_problems,
    read_metrics,
    revenue_metric,
    unknown_metric_ids,
)
from klaviyo_assets.api.rate_limiter import DailyQuota, read_daily_quota
from klaviyo_assets.defs.automation import default_sensor_status, find_asset_key, select_assets
from klaviyo_assets.defs.report_assets import MAX_PARTITIONS_PER_RUN
from klaviyo_assets.defs.report_runs import (
    BACKFILL_SENSOR_NAME,
    BACKFILL_SENSOR_TAG,
    MAX_REQUESTS_TAG,
    SKIP_PERIOD,
    UNFINISHED_STATUSES,
    InFlightRuns,
    metric_partitions,
    metrics_to_fetch,
    partition_range_tags,
    read_in_flight_runs,
    report_run_tags,
)
from klaviyo_assets.defs.resources import KlaviyoConnection, KlaviyoResource
from klaviyo_assets.errors import KlaviyoAssetsError, format_quantity
from klaviyo_assets.lake.delta.state import PartitionState
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.report import NO_METRIC, DateRange
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.reports.backfill_plan import (
    BackfillTask,
    BatchLimits,
    RunBatch,
    choose_next_batch,
    due_days,
    rank_tasks,
    requests_per_minute,
)
from klaviyo_assets.reports.calendar import ReportCalendar, fetch_calendar
from klaviyo_assets.reports.failed_requests import read_failed_metrics
from klaviyo_assets.reports.fetch import RESPONSE_CACHE_LIFETIME
from klaviyo_assets.reports.planner import (
    CostEstimator,
    PartitionRequest,
    load_planner_inputs,
    report_endpoint,
)
from klaviyo_assets.seams import utc_now
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import REPORTS

BACKFILL_SENSOR_INTERVAL_SECONDS = 60

MAX_BACKFILL_RUN_MINUTES = 5
"""A run may send as many requests as Klaviyo allows in this many minutes.

There is one run per report at a time. Klaviyo allows two requests a minute, which a second run
could not share to any use, while it would occupy a place in the queue that other runs need.

A run of a series report has six requests, because of its number of partitions. It takes three
minutes, twenty seconds to start and to store, and the next tick follows within a minute: the 225
requests of a day are sent in three hours. If no two tasks fit into one run, each of 225 runs takes
two minutes, together seven and a half hours.
"""

MAX_SENSOR_RUNS = 3
"""How many of its runs may be unfinished at once, of all reports together: of the four that run at
once (deploy/dagster.yaml) one place stays free for the hourly sync. A run may last five minutes."""

BACKFILL_RUN_PRIORITY = -10
"""A backfill of the past can wait for every other run, the daily fetch of reports included."""

MAX_FAILED_RUNS, FAILED_RUN_PERIOD = 3, timedelta(hours=1)
"""After so many failed runs of a metric within this period the sensor pauses the metric. It pauses
a report if runs of so many metrics failed and no run succeeded."""

SPARE_REQUESTS = 8
"""How many requests a run may send beyond its estimate, for further pages and for messages whose
send day is not known."""


def build_backfill_sensor(settings: Settings, reports: Sequence[Stream]) -> dg.SensorDefinition:
    """Return the sensor that backfills reports."""

    @dg.sensor(
        name=BACKFILL_SENSOR_NAME,
        description="Fetches report days that are missing or not final, newest first, within the "
        "quota.",
        minimum_interval_seconds=BACKFILL_SENSOR_INTERVAL_SECONDS,
        default_status=default_sensor_status(settings),
        asset_selection=select_assets(*(stream.name for stream in reports)),
        required_resource_keys={"lake", "klaviyo"},
    )
    def launch_backfills(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        ticks = int(json.loads(context.cursor or "{}").get("ticks", 0)) + 1
        try:
            klaviyo: KlaviyoResource = context.resources.klaviyo
            lake: Lake = context.resources.lake.lake()
            known_lake = lake if lake.stored_account() is not None else None
            with klaviyo.connect(warn=context.log.warning, lake=known_lake) as connection:
                requests, reasons = _choose_runs(
                    context, reports, connection=connection, lake=lake, ticks=ticks
                )
        except KlaviyoAssetsError as error:
            return dg.SkipReason(str(error))
        if not requests:
            return dg.SkipReason("; ".join(reasons))
        return dg.SensorResult(run_requests=requests, cursor=json.dumps({"ticks": ticks}))

    return launch_backfills


def _choose_runs(
    context: dg.SensorEvaluationContext,
    reports: Sequence[Stream],
    *,
    connection: KlaviyoConnection,
    lake: Lake,
    ticks: int,
) -> tuple[list[dg.RunRequest], list[str]]:
    """Return the runs to launch, and for each report without one the reason."""
    warn = context.log.warning
    reasons: list[str] = []
    turns = _rotate(reports, ticks - 1)
    ready = list(_reports_that_may_run(context, turns, connection, reasons))
    free = MAX_SENSOR_RUNS - _count_unfinished_runs(context.instance)
    if ready and free <= 0:
        reasons.append(f"{MAX_SENSOR_RUNS} runs of the sensor are under way, of other reports")
    if not ready or free <= 0:
        # Most ticks end here, without a request: a run is unfinished, or the quota is spent.
        return [], reasons
    calendar = fetch_calendar(connection.account_connection, connection.settings, warn=warn)
    metric_selection = select_metrics(connection, lake)
    for problem in metric_selection.problems:
        warn(problem)
    requests: list[dg.RunRequest] = []
    reasons += metric_selection.problems
    for stream, in_flight, requests_left in ready:
        if len(requests) == free:
            reasons.append(f"{stream.name}: its turn comes after {MAX_SENSOR_RUNS} other reports")
            continue
        tick = ReportBackfillTick(
            stream, connection, lake, calendar=calendar, metric_selection=metric_selection
        )
        launch = tick.choose_run(context.instance, in_flight, requests_left)
        if isinstance(launch, str):
            reasons.append(f"{stream.name}: {launch}")
        else:
            key = find_asset_key(context, stream.name)
            requests.append(_build_run_request(stream, key, *launch, ticks=ticks))
    return requests, reasons


def _rotate(reports: Sequence[Stream], ticks: int) -> Sequence[Stream]:
    """Return the reports with another one first at each tick that launches, where not all may run.

    Without turns the last ones would wait until the day's requests of the others are spent.
    """
    if len(reports) <= MAX_SENSOR_RUNS:
        return reports
    first = ticks % len(reports)
    return [*reports[first:], *reports[:first]]


def _count_unfinished_runs(instance: dg.DagsterInstance) -> int:
    """Return how many runs of the sensor are queued or under way, of any report."""
    runs = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED_STATUSES))
    return sum(BACKFILL_SENSOR_TAG in run.tags for run in runs)


def _reports_that_may_run(
    context: dg.SensorEvaluationContext,
    reports: Sequence[Stream],
    connection: KlaviyoConnection,
    reasons: list[str],
) -> Iterator[tuple[Stream, InFlightRuns, int]]:
    """Yield the reports of which a run may be launched now, each with the requests left today.

    Why another must wait is added to `reasons`.
    """
    for stream in reports:
        key = find_asset_key(context, stream.name)
        in_flight = read_in_flight_runs(
            context.instance, stream.name, key, now=utc_now(), failure_period=FAILED_RUN_PERIOD
        )
        quota = read_daily_quota(stream, connection.account_connection.rate_limiter)
        if (reason := _waiting_reason(in_flight, quota)) is not None:
            reasons.append(f"{stream.name}: {reason}")
        else:
            yield stream, in_flight, quota.remaining if quota is not None else NO_QUOTA


NO_QUOTA = 1_000_000
"""The requests left today where Klaviyo sets no daily quota."""


def _waiting_reason(in_flight: InFlightRuns, quota: DailyQuota | None) -> str | None:
    """Return why no run of a report may be launched now; None if one may be."""
    failures = in_flight.failure_count(None)
    if failures >= MAX_FAILED_RUNS:
        return (
            f"{format_quantity(failures, 'run')} failed within {FAILED_RUN_PERIOD}; look at the "
            "last one"
        )
    if not in_flight.success_count and len(in_flight.failed_runs_by_metric) >= MAX_FAILED_RUNS:
        return (
            f"runs of {len(in_flight.failed_runs_by_metric)} metrics failed within "
            f"{FAILED_RUN_PERIOD} and none ended well; look at the last one"
        )
    if in_flight.has_skipped_run:
        return (
            f"the key may not read it, as a run found within {SKIP_PERIOD}: look at that run's "
            "warning, and launch one by hand to see whether another key may"
        )
    if in_flight.has_sensor_run:
        return "a run of the sensor is under way"
    if quota is not None and quota.remaining <= 0:
        return f"the day's requests are spent until {quota.next_free_at:%H:%M} UTC"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSelection:
    """What a tick knows of the account's metrics, for all reports.

    `mapped_metric_id` is the metric that the account maps to revenue; `revenue_metric_id` is that
    one, or else Placed Order. `absent_metric_ids` are ids in the setting that the account does not
    have. `problems` are sentences about what is wrong with the setting.
    """

    mapped_metric_id: str | None
    revenue_metric_id: str | None
    absent_metric_ids: frozenset[str]
    problems: Sequence[str]


def select_metrics(connection: KlaviyoConnection, lake: Lake) -> MetricSelection:
    """Return the account's metrics as far as the setting names them.

    Klaviyo is asked only for what is not known: for the revenue metric if no sync of metrics has
    asked for it yet, and for the custom metrics if the setting names an id that is not in the
    table of metrics and that no report was stored with.

    Raises:
        KlaviyoAssetsError: the lake or the rate limiter's file cannot be read, or Klaviyo cannot
            be reached.
    """
    settings, client = connection.settings, connection.client
    rate_limiter = connection.account_connection.rate_limiter
    known = rate_limiter.revenue_metric()
    mapped = known.id if known else fetch_revenue_metric(client, rate_limiter)
    stored = read_metrics(lake)
    proven_ids = {
        partition.metric_id
        for stream in REPORTS
        for partition in lake.read_partition_states(stream.name)
    }
    custom: Sequence[AccountMetric] | None = None
    absent = set[str]()
    if stored and not proven_ids.issuperset(unknown_metric_ids(settings, stored)):
        custom = fetch_custom_metrics(client)
    if custom is not None:
        absent = set(unknown_metric_ids(settings, [*stored, *custom])) - proven_ids
    return MetricSelection(
        mapped_metric_id=mapped,
        revenue_metric_id=revenue_metric(stored, mapped),
        absent_metric_ids=frozenset(absent),
        problems=find_metric_setting_problems(
            settings, stored, mapped=mapped, custom=custom, proven_ids=proven_ids
        ),
    )


class ReportBackfillTick:
    """Chooses what to launch for one report at one tick."""

    def __init__(
        self,
        stream: Stream,
        connection: KlaviyoConnection,
        lake: Lake,
        *,
        calendar: ReportCalendar,
        metric_selection: MetricSelection,
    ) -> None:
        """Read which metrics failed recently; everything else is read when it is needed."""
        self._metric_selection = metric_selection
        self._stream = stream
        self._connection = connection
        self._lake = lake
        self._report = report_endpoint(stream)
        self._calendar = calendar.starting_at(self._report.first_day)
        now = calendar.now
        failed = read_failed_metrics(lake, stream.name, now)
        self._paused_metrics = {
            metric_id: each for metric_id, each in failed.items() if now < each.retry_at
        }

    def choose_run(
        self, instance: dg.DagsterInstance, in_flight: InFlightRuns, requests_left: int
    ) -> tuple[RunBatch, int] | str:
        """Return the next run and how many requests it may send, or why there is none.

        Raises:
            KlaviyoAssetsError: the lake or the rate limiter's file cannot be read.
        """
        bounds = self._calendar.bounds
        tasks = self._find_due_tasks(instance, bounds, in_flight) if bounds is not None else []
        if bounds is None or not tasks:
            return self._idle_reason(in_flight)
        metric_order = [NO_METRIC]
        if self._report.has_metric:
            metric_order = instance.get_dynamic_partitions(
                metric_partitions(self._report).name or ""
            )
        return self._find_affordable_run(tasks, metric_order, bounds, requests_left) or (
            f"{requests_left} requests are left, too few for what comes next"
        )

    def _find_due_tasks(
        self, instance: dg.DagsterInstance, bounds: DateRange, in_flight: InFlightRuns
    ) -> list[BackfillTask]:
        """Return tasks for the days due that no unfinished run is for, the most valuable first."""
        metrics = metrics_to_fetch(
            instance,
            self._lake,
            self._connection.settings,
            stream=self._stream,
            mapped_metric_id=self._metric_selection.mapped_metric_id,
        )
        stored: dict[str, dict[date, PartitionState]] = {}
        for partition, state in self._lake.read_partition_states(self._stream.name).items():
            stored.setdefault(partition.metric_id, {})[partition.day] = state
        now, zone = self._calendar.now, self._calendar.zone
        days = self._report.partition_days(bounds)
        due = {
            each: frozenset(
                day
                for day in due_days(stored.get(each, {}), days=days, now=now, zone=zone)
                if not in_flight.is_in_flight(each, day)
            )
            for each in metrics
            if each not in self._metric_selection.absent_metric_ids
            and each not in self._paused_metrics
            and in_flight.failure_count(each) < MAX_FAILED_RUNS
        }
        # A task is a range of days. Between days that are due there may be days in flight.
        return [
            task
            for task in rank_tasks(
                due,
                bounds=bounds,
                report=self._report,
                first_metric_id=self._metric_selection.revenue_metric_id,
            )
            if not any(in_flight.is_in_flight(task.metric_id, day) for day in task.date_range)
        ]

    def _idle_reason(self, in_flight: InFlightRuns) -> str:
        """Return why nothing is launched although the quota would allow it."""
        reasons = [
            f"metric {metric_id!a} is left alone until {each.retry_at:%Y-%m-%d %H:%M} UTC: "
            f"{format_quantity(each.failure_count, 'request')} failed within a day, the last one "
            f"so: {each.reason}"
            for metric_id, each in self._paused_metrics.items()
        ]
        failing = sorted(
            each
            for each in in_flight.failed_runs_by_metric
            if each is not None and in_flight.failure_count(each) >= MAX_FAILED_RUNS
        )
        if failing:
            reasons.append(
                f"left alone, as {MAX_FAILED_RUNS} runs of each failed within {FAILED_RUN_PERIOD}: "
                f"{', '.join(map(ascii, failing))}"
            )
        if reasons:
            return "; ".join([*reasons, "nothing else is missing"])
        return "nothing is missing, and what moves was fetched today"

    def _find_affordable_run(
        self,
        tasks: Sequence[BackfillTask],
        metric_order: Sequence[str],
        bounds: DateRange,
        requests_left: int,
    ) -> tuple[RunBatch, int] | None:
        """Return as many of the first tasks as one run can fetch, and its limit of requests.

        None if the quota does not even allow the first task.
        """
        estimator = CostEstimator(
            load_planner_inputs(self._stream, self._lake, bounds=bounds, calendar=self._calendar),
            assume_spread=True,
            recent_timeframes=self._lake.response_cache(self._stream.name).recent_timeframes(
                max_age=RESPONSE_CACHE_LIFETIME
            ),
        )

        def estimate_cost(task: BackfillTask) -> int:
            days = frozenset(self._report.partition_days(task.date_range))
            return estimator.estimate(
                PartitionRequest(metric_id=task.metric_id, days=days, should_widen=False)
            )

        a_minute = requests_per_minute(self._stream, self._connection.settings)
        limits = BatchLimits(
            quota_left=requests_left,
            max_requests=a_minute * MAX_BACKFILL_RUN_MINUTES,
            max_partitions=MAX_PARTITIONS_PER_RUN,
        )
        choice = choose_next_batch(tasks, metric_order, limits=limits, task_cost=estimate_cost)
        if choice is None:
            return None
        batch, cost = choice
        return batch, min(requests_left, cost + SPARE_REQUESTS)


def _build_run_request(
    stream: Stream, key: dg.AssetKey, batch: RunBatch, max_requests: int, *, ticks: int
) -> dg.RunRequest:
    first, last = batch.metric_ids[0], batch.metric_ids[-1]
    days = report_endpoint(stream).partition_days(batch.date_range)
    return dg.RunRequest(
        # By this key a tick that is evaluated again after a crash launches nothing twice.
        run_key=(
            f"{stream.name} {first} {last} {batch.date_range.first} {batch.date_range.last} {ticks}"
        ),
        asset_selection=[key],
        # A report's checks read its whole table, so they run on a schedule of their own.
        asset_check_keys=[],
        tags={
            **partition_range_tags(batch.metric_ids, DateRange(days[0], days[-1])),
            **report_run_tags(stream.name, priority=BACKFILL_RUN_PRIORITY),
            BACKFILL_SENSOR_TAG: stream.name,
            MAX_REQUESTS_TAG: str(max_requests),
        },
    )
