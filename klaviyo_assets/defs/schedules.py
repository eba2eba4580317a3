"""Schedules: when jobs run, and which days of reports are fetched daily."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

import dagster as dg

from klaviyo_assets.account.metrics import (
    find_metric_setting_problems,
    read_mapped_metric,
    read_metrics,
)
from klaviyo_assets.api.clock import utc_now
from klaviyo_assets.defs.automation import (
    default_schedule_status,
    find_asset_key,
    is_switched_on,
    select_assets,
)
from klaviyo_assets.defs.jobs import FIRST_SYNC_JOB, ID_SCAN_RUN_CONFIG, op_run_config
from klaviyo_assets.defs.report_runs import (
    BACKFILL_SENSOR_NAME,
    UNFINISHED_STATUSES,
    partition_range_tags,
    report_run_tags,
)
from klaviyo_assets.defs.sensors import metrics_to_fetch
from klaviyo_assets.errors import KlaviyoAssetsError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.report import DateRange
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.reports.calendar import last_complete_day, resolve_zone_offline
from klaviyo_assets.settings import Settings
from klaviyo_assets.sync.plan import SyncMode

MAX_UNFINISHED_RUN_AGE = timedelta(days=1)
"""While a job has an unfinished run no older than this, its schedule launches no second one."""

FULL_REFRESH_MODE = SyncMode.FULL_REFRESH_OVERWRITE.value


def build_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Return the schedules of all jobs that recur. Times are UTC."""
    days = settings.late_events_days

    def late_events_config(at: datetime) -> dict[str, object]:
        return op_run_config("events", {"start": (at - timedelta(days=days)).isoformat()})

    def full_refresh_config(_at: datetime) -> dict[str, object]:
        return op_run_config("global_exclusions", {"sync_mode": FULL_REFRESH_MODE})

    status = default_schedule_status(settings)
    return [
        _build_schedule("hourly", "7 * * * *", job="collections", status=status),
        _build_schedule("daily_details", "20 3 * * *", job="slow_details", status=status),
        # After the late events are read: before that they would count as missing.
        _build_schedule("daily_checks", "10 3 * * *", job="checks", status=status),
        _build_schedule(
            "daily_late_events",
            "40 2 * * *",
            job="late_events",
            status=status,
            config=late_events_config,
        ),
        _build_schedule(
            "weekly_exclusions",
            "10 4 * * 0",
            job="lifted_suppressions",
            status=status,
            config=full_refresh_config,
        ),
        _build_schedule(
            "weekly_deleted_profiles",
            "20 5 * * 0",
            job="deleted_profiles",
            status=status,
            config=lambda _at: ID_SCAN_RUN_CONFIG,
        ),
    ]


def _build_schedule(
    name: str,
    cron: str,
    *,
    job: str,
    status: dg.DefaultScheduleStatus,
    config: Callable[[datetime], dict[str, object]] = lambda _at: {},
) -> dg.ScheduleDefinition:
    """Return a schedule that launches a job. `config` maps the time of a tick to run config."""
    job_name = f"klaviyo_{job}"

    def launch(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        unfinished = _find_unfinished_run(context.instance, (job_name, FIRST_SYNC_JOB))
        if unfinished is not None:
            return dg.SkipReason(f"run {unfinished.run_id} of {unfinished.job_name} is under way")
        return dg.RunRequest(run_config=config(context.scheduled_execution_time))

    return dg.ScheduleDefinition(
        name=f"klaviyo_{name}",
        job_name=job_name,
        cron_schedule=cron,
        default_status=status,
        execution_fn=launch,
    )


def _find_unfinished_run(
    instance: dg.DagsterInstance, job_names: Sequence[str]
) -> dg.DagsterRun | None:
    """Return a run of one of these jobs that has not ended, or None.

    A second run beside it would read the same records, and its commit to the lake would conflict.
    A run launched more than a day ago does not count: its process may have died without Dagster
    having noticed.
    """
    since = utc_now() - MAX_UNFINISHED_RUN_AGE
    for job in job_names:
        wanted = dg.RunsFilter(job_name=job, statuses=UNFINISHED_STATUSES, created_after=since)
        if runs := instance.get_runs(wanted, limit=1):
            return runs[0]
    return None


REPORT_CRON_SCHEDULE = "15 4 * * *"
"""In the account's zone: some hours after midnight, when Klaviyo has counted the day."""

REPORT_RUN_PRIORITY = -5
"""There is a run per metric and they wait for each other, so every other run comes first."""


def build_report_schedule(
    stream: Stream, settings: Settings, zone: str | None
) -> dg.ScheduleDefinition:
    """Return a report's daily schedule: one run per metric, over the days that still change.

    While the sensor `klaviyo_reports_drain` is on, the schedule launches nothing. The sensor
    fetches the same days within the daily quota, and both together would request them twice.

    Each report has a schedule of its own: a schedule has one backfill policy, and those of the
    reports differ. It ticks in `zone`, or in UTC while the account's zone is not known. The days
    are always days of the account's zone.

                 attribution window           yesterday  tick
    ──────────────[════════════════════════════════════]────┼──▶ days of the account's zone
                  └─ fetched for the last time, and final
    """

    @dg.schedule(
        name=f"klaviyo_daily_{stream.name}",
        cron_schedule=REPORT_CRON_SCHEDULE,
        execution_timezone=zone or "UTC",
        default_status=default_schedule_status(settings),
        target=select_assets(stream.name),
        description="Yesterday and the days whose numbers still move, of every metric.",
        required_resource_keys={"lake"},
    )
    def launch_daily_report(
        context: dg.ScheduleEvaluationContext,
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        yield from _daily_report_requests(context, stream, settings)

    return launch_daily_report


def _daily_report_requests(
    context: dg.ScheduleEvaluationContext, stream: Stream, settings: Settings
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Yield one run per metric, or the reason why there is none."""
    if is_switched_on(context.instance, BACKFILL_SENSOR_NAME, settings):
        yield dg.SkipReason(f"the sensor {BACKFILL_SENSOR_NAME} is on, and fetches these days")
        return
    lake: Lake = context.resources.lake.lake()
    now = context.scheduled_execution_time
    try:
        last = last_complete_day(now, resolve_zone_offline(settings, lake, now=now))
    except KlaviyoAssetsError as error:
        yield dg.SkipReason(str(error))
        return
    first = max(settings.first_report_day, last - timedelta(days=settings.report_lookback_days))
    if last < first:
        return
    metrics = _metrics_by_priority(context.instance, lake, settings, stream)
    if not metrics:
        yield dg.SkipReason(_no_metric_reason(lake, settings))
    for metric_id in metrics:
        yield dg.RunRequest(
            run_key=f"{stream.name} {metric_id} {last}",
            asset_selection=[find_asset_key(context, stream.name)],
            # A report's checks read its whole table, so they run on a schedule of their own.
            asset_check_keys=[],
            tags={
                **partition_range_tags([metric_id], DateRange(first, last)),
                **report_run_tags(stream.name, priority=REPORT_RUN_PRIORITY),
            },
        )


def _metrics_by_priority(
    instance: dg.DagsterInstance, lake: Lake, settings: Settings, stream: Stream
) -> Sequence[str]:
    """Return the metrics to fetch, in the order in which they are worth fetching."""
    mapped = read_mapped_metric(lake, settings)
    return metrics_to_fetch(instance, lake, settings, stream=stream.name, mapped_metric_id=mapped)


def _no_metric_reason(lake: Lake, settings: Settings) -> str:
    """Return why there is no metric to fetch, as the text of a skipped tick."""
    stored = read_metrics(lake)
    problems = find_metric_setting_problems(
        settings, stored, mapped=read_mapped_metric(lake, settings)
    )
    reason = "no metric is a partition of the report yet" if stored else "no metric was read yet"
    return "; ".join([reason, *problems])
