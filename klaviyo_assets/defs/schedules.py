"""Jobs, and the schedules that launch them and the daily reports."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from klaviyo_assets.account.metrics import (
    find_metric_setting_problems,
    read_mapped_metric,
    read_metrics,
)
from klaviyo_assets.api.clock import utc_now
from klaviyo_assets.defs.automation import (
    ChecksByName,
    default_schedule_status,
    find_asset_key,
    is_switched_on,
    select_assets,
)
from klaviyo_assets.defs.checks import NOT_NULL_CHECK, UNIQUE_KEY_CHECK
from klaviyo_assets.defs.completeness_check import COMPLETENESS_CHECK_KEY
from klaviyo_assets.defs.partitions import (
    BACKFILL_SENSOR_NAME,
    PRIORITY_TAG,
    partition_range_tags,
    report_run_tags,
)
from klaviyo_assets.defs.report_freshness import NEWEST_DAYS_CHECK
from klaviyo_assets.defs.run_history import UNFINISHED_STATUSES
from klaviyo_assets.defs.sensors import metrics_to_fetch
from klaviyo_assets.errors import KlaviyoAssetsError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.report import DateRange
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.reports.calendar import last_complete_day, resolve_zone_offline
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import COLLECTIONS
from klaviyo_assets.sync.plan import SyncMode

SLOW_STREAMS = frozenset({"lists_detailed"})
"""Fifteen lists a minute: on their own daily schedule, so that they hold nobody up."""

SEPARATE_CHECKS = ChecksByName(
    UNIQUE_KEY_CHECK, NOT_NULL_CHECK, NEWEST_DAYS_CHECK, COMPLETENESS_CHECK_KEY.name
)
"""Checks that read whole tables or ask Klaviyo: no part of a sync."""

FIRST_SYNC_JOB = "klaviyo_first_sync"

MAX_UNFINISHED_RUN_AGE = timedelta(days=1)
"""So long schedules leave a run alone that has not ended."""

FULL_REFRESH_MODE = SyncMode.FULL_REFRESH_OVERWRITE.value

JOB_PRIORITY_TAGS = {PRIORITY_TAG: "5"}
"""Runs of jobs come before those of backfills, of which a person may launch fifty at once."""

_PRELOADED_MODULES = ["klaviyo_assets.definitions", "duckdb", "pyarrow.parquet", "deltalake"]


def build_multiprocess_executor() -> dg.ExecutorDefinition:
    """Return the executor that runs streams side by side, each in a process of its own.

    For a first sync: every stream waits for its own rate limit, so the sum becomes the maximum.
    Starting a process costs seconds, which a sync of minutes does not feel and an hourly one does.
    """
    return dg.multiprocess_executor.configured(
        {
            "max_concurrent": 4,
            "start_method": {"forkserver": {"preload_modules": _PRELOADED_MODULES}},
        }
    )


def build_jobs() -> list[UnresolvedAssetJobDefinition]:
    """Return the jobs: every collection hourly, slow ones daily, a first sync of all, checks."""
    every_hour = tuple(each.name for each in COLLECTIONS if each.name not in SLOW_STREAMS)
    slow = tuple(sorted(SLOW_STREAMS))
    return [
        _build_job(
            "collections", every_hour, "What is new everywhere, one stream after the other."
        ),
        _build_job("slow_details", slow, "Profile counts, fifteen lists a minute."),
        _build_job(
            "late_events", ("events",), "The last days of events again, for what arrived late."
        ),
        _build_job(
            "lifted_suppressions",
            ("global_exclusions",),
            "Global exclusions from the beginning, so that lifted ones leave.",
        ),
        _build_job(
            "deleted_profiles",
            ("profiles",),
            "Which profiles there still are; the others are marked as deleted.",
            config=ID_SCAN_RUN_CONFIG,
        ),
        _build_job(
            "first_sync",
            (*every_hour, *slow),
            "Everything, streams side by side in processes of their own.",
            executor=build_multiprocess_executor(),
        ),
        _build_checks_job(),
    ]


def _build_checks_job() -> UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        "klaviyo_checks",
        selection=SEPARATE_CHECKS,
        executor_def=dg.in_process_executor,
        tags=JOB_PRIORITY_TAGS,
        description="Keys once, nothing NULL, and every event that Klaviyo counts.",
    )


def _build_job(
    name: str,
    streams: tuple[str, ...],
    description: str,
    *,
    executor: dg.ExecutorDefinition = dg.in_process_executor,
    config: dict[str, object] | None = None,
) -> UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        f"klaviyo_{name}",
        selection=select_assets(*streams) - SEPARATE_CHECKS,
        executor_def=executor,
        config=config,
        tags=JOB_PRIORITY_TAGS,
        description=description,
    )


def build_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Return the schedules of collections and checks; times are UTC."""
    days = settings.late_events_days

    def last_days(at: datetime) -> dict[str, object]:
        return _op_run_config("events", {"start": (at - timedelta(days=days)).isoformat()})

    def from_the_beginning(_at: datetime) -> dict[str, object]:
        return _op_run_config("global_exclusions", {"sync_mode": FULL_REFRESH_MODE})

    status = default_schedule_status(settings)
    return [
        _build_schedule("hourly", "7 * * * *", job="collections", status=status),
        _build_schedule("daily_details", "20 3 * * *", job="slow_details", status=status),
        # After the late events, which would be missing before.
        _build_schedule("daily_checks", "10 3 * * *", job="checks", status=status),
        _build_schedule(
            "daily_late_events", "40 2 * * *", job="late_events", status=status, config=last_days
        ),
        _build_schedule(
            "weekly_exclusions",
            "10 4 * * 0",
            job="lifted_suppressions",
            status=status,
            config=from_the_beginning,
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
    """Return a schedule that launches a job, with the config for the time of the tick."""
    job_name = f"klaviyo_{job}"

    def launch(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        under_way = _find_unfinished_run(context.instance, (job_name, FIRST_SYNC_JOB))
        if under_way is not None:
            return dg.SkipReason(f"run {under_way.run_id} of {under_way.job_name} is under way")
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
    """Return a run of one of these jobs that has not ended; None where there is none.

    A second run would read the same records beside it, and lose at the lake's commit. One that was
    launched more than a day ago is not waited for: its process may be gone without a word.
    """
    since = utc_now() - MAX_UNFINISHED_RUN_AGE
    for job in job_names:
        wanted = dg.RunsFilter(job_name=job, statuses=UNFINISHED_STATUSES, created_after=since)
        if runs := instance.get_runs(wanted, limit=1):
            return runs[0]
    return None


def _op_run_config(stream: str, config: Mapping[str, object]) -> dict[str, object]:
    return {"ops": {f"klaviyo__{stream}": {"config": config}}}


ID_SCAN_RUN_CONFIG = _op_run_config("profiles", {"sweep_ids": True})
"""One request a hundred profiles, so not too often."""


REPORT_CRON_SCHEDULE = "15 4 * * *"
"""In the account's zone: some hours after the day is over, so that it is counted."""

REPORT_RUN_PRIORITY = -5
"""Runs of all metrics are many, and wait for each other: every other run comes first."""


def build_report_schedule(
    stream: Stream, settings: Settings, zone: str | None
) -> dg.ScheduleDefinition:
    """Return a report's schedule: a run a metric, over the trailing days.

    While the sensor `klaviyo_reports_drain` is on it asks for nothing: that one fetches the same
    days, within the day's requests, and both together would pay for them twice.

    One schedule a report: their backfills are cut differently, and a schedule has one policy.
    It ticks in `zone`, in UTC while that is not known; its days are the account's all the same.

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
    def daily(
        context: dg.ScheduleEvaluationContext,
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        yield from _daily_report_requests(context, stream, settings)

    return daily


def _daily_report_requests(
    context: dg.ScheduleEvaluationContext, stream: Stream, settings: Settings
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Yield a run a metric, or why there is none."""
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
            # The checks of a report read its whole table: they have a schedule of their own.
            asset_check_keys=[],
            tags={
                **partition_range_tags([metric_id], DateRange(first, last)),
                **report_run_tags(stream.name, priority=REPORT_RUN_PRIORITY),
            },
        )


def _metrics_by_priority(
    instance: dg.DagsterInstance, lake: Lake, settings: Settings, stream: Stream
) -> Sequence[str]:
    """Return the metrics to fetch, the revenue metric first."""
    mapped = read_mapped_metric(lake, settings)
    return metrics_to_fetch(instance, lake, settings, stream=stream.name, mapped_metric_id=mapped)


def _no_metric_reason(lake: Lake, settings: Settings) -> str:
    """Return why there is no metric to fetch."""
    stored = read_metrics(lake)
    problems = find_metric_setting_problems(
        settings, stored, mapped=read_mapped_metric(lake, settings)
    )
    reason = "no metric is a partition of the report yet" if stored else "no metric was read yet"
    return "; ".join([reason, *problems])
