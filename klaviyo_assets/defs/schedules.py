"""Jobs, and the schedules that launch them: which streams run together, when and how.

The daily schedules of reports fetch partitions and have no job.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from klaviyo_assets.account.metrics import (
    find_metric_setting_problems,
    read_mapped_metric,
    read_metrics,
)
from klaviyo_assets.defs.automation import (
    ChecksByName,
    default_schedule_status,
    find_asset_key,
    is_switched_on,
    select_assets,
)
from klaviyo_assets.defs.checks import (
    NEWEST_DAYS_CHECK,
    NOT_NULL_CHECK,
    SIZES_CHECK,
    UNIQUE_KEY_CHECK,
)
from klaviyo_assets.defs.completeness_check import COMPLETENESS_CHECK_KEY
from klaviyo_assets.defs.report_runs import (
    BACKFILL_SENSOR_NAME,
    PRIORITY_TAG,
    UNFINISHED_STATUSES,
    metrics_to_fetch,
    partition_range_tags,
    report_run_tags,
)
from klaviyo_assets.errors import KlaviyoAssetsError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.report import DateRange, ReportEndpoint
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.reports.calendar import last_complete_day, resolve_zone_offline
from klaviyo_assets.reports.planner import report_endpoint
from klaviyo_assets.seams import utc_now
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import COLLECTIONS
from klaviyo_assets.sync.plan import SyncMode

HOURLY_STREAMS = tuple(each.name for each in COLLECTIONS if not each.is_read_by_parent)
SLOW_STREAMS = tuple(each.name for each in COLLECTIONS if each.is_read_by_parent)
"""Those of a job of their own, so that the hourly job does not wait for them: Klaviyo allows
fifteen profile counts of lists a minute."""

SEPARATE_CHECKS = ChecksByName(
    UNIQUE_KEY_CHECK,
    NOT_NULL_CHECK,
    SIZES_CHECK,
    NEWEST_DAYS_CHECK,
    COMPLETENESS_CHECK_KEY.name,
)
"""Checks that read whole tables or send requests to Klaviyo. No sync job runs them."""

JOB_PRIORITY_TAGS = {PRIORITY_TAG: "5"}
"""Runs of jobs start before runs of backfills, of which a person may launch fifty at once."""

MAX_UNFINISHED_RUN_AGE = timedelta(days=1)
"""While a job has an unfinished run no older than this, its schedule launches no second one."""

FIRST_SYNC_JOB = "klaviyo_first_sync"

_PRELOADED_MODULES = (
    "klaviyo_assets.definitions",
    "duckdb",
    "pyarrow.parquet",
    "deltalake",
    # What Dagster imports late: to open its instance, to find the job again, to start a step.
    "dagster._core.instance.factory",
    "dagster._core.secrets.env_file",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.storage.migration.utils",
    "dagster._core.storage.root",
    "dagster._core.storage.sqlite_storage",
    "dagster._core.workspace.autodiscovery",
    "dagster._utils.test.definitions",
    "upath.implementations.local",
)
"""What every step process uses: imported once, by the server that the processes are forked from.

That server passes over a module that it does not find.
"""

_STEP_SERVER = "klaviyo_assets.step_server"


def _op_run_config(stream: str, **config: object) -> dict[str, object]:
    """Return the run config of a run in which the op of one stream has this config."""
    return {"ops": {f"klaviyo__{stream}": {"config": config}}}


def _late_events_config(settings: Settings, at: datetime | None) -> dict[str, object]:
    """Return the run config that reads the last days of events again.

    `at`: the time of the schedule's tick, from which the days count back. None: the config is for a
    launch by hand, whose days count back from that launch, not from when the code was loaded.
    """
    days = settings.late_events_days
    if at is None:
        return _op_run_config("events", start=f"{days} days ago") if days else {}
    return _op_run_config("events", start=(at - timedelta(days=days)).isoformat())


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurringJob:
    """A job and its schedule; in Dagster both are named `klaviyo_<name>`.

    It syncs those of its `streams` that are assets; without any it runs the separate checks. `cron`
    is in UTC. `config` is the job's run config, however it is launched; `timed_config` returns it
    where it depends on when that is: the time of the schedule's tick, or None by hand.
    """

    name: str
    streams: tuple[str, ...] = ()
    description: str
    cron: str
    config: Mapping[str, object] = field(default_factory=dict[str, object])
    timed_config: Callable[[Settings, datetime | None], Mapping[str, object]] | None = None

    def run_config(self, settings: Settings, at: datetime | None = None) -> Mapping[str, object]:
        """Return the run config of a launch by the schedule at a time, or by hand."""
        return self.config if self.timed_config is None else self.timed_config(settings, at)


RECURRING_JOBS = (
    RecurringJob(
        name="collections",
        streams=HOURLY_STREAMS,
        description="What is new in every collection, one stream after the other.",
        cron="7 * * * *",
    ),
    RecurringJob(
        name="slow_details",
        streams=SLOW_STREAMS,
        description="Profile counts of lists, and what else takes a request for each parent.",
        cron="20 3 * * *",
    ),
    RecurringJob(
        name="late_events",
        streams=("events",),
        description="Reads the last days of events again, for events that arrived late.",
        cron="40 2 * * *",
        timed_config=_late_events_config,
    ),
    RecurringJob(
        name="checks",
        description="Unique keys, no NULL where none may be, and every event that Klaviyo counts.",
        # After the late events are read: before that they would count as missing.
        cron="10 3 * * *",
    ),
    RecurringJob(
        name="lifted_suppressions",
        streams=("global_exclusions",),
        description="Reads global exclusions from the beginning, so that lifted ones disappear.",
        cron="10 4 * * 0",
        config=_op_run_config("global_exclusions", sync_mode=SyncMode.FULL_REFRESH_OVERWRITE.value),
    ),
    RecurringJob(
        name="deleted_profiles",
        streams=("profiles",),
        description="Reads the ids of all profiles, and marks those that Klaviyo no longer has as "
        "deleted.",
        # An id scan costs one request per hundred profiles.
        cron="20 5 * * 0",
        config=_op_run_config("profiles", sweep_ids=True),
    ),
    *(
        RecurringJob(
            name=f"left_{stream}",
            streams=(stream,),
            description=f"Reads all of {stream}, and gives those that are gone their left_at.",
            # A full read costs one request per hundred members.
            cron=cron,
            config=_op_run_config(stream, sync_mode=SyncMode.FULL_REFRESH_OVERWRITE.value),
        )
        for stream, cron in (("list_members", "20 6 * * 0"), ("segment_members", "20 7 * * 0"))
    ),
)


def _select_streams(
    streams: Collection[str], selected: Collection[str]
) -> dg.AssetSelection | None:
    """Return the assets of those streams that are selected; None where none is."""
    chosen = [each for each in streams if each in selected]
    return select_assets(*chosen) - SEPARATE_CHECKS if chosen else None


def _jobs_of(selected: Collection[str]) -> Iterator[tuple[RecurringJob, dg.AssetSelection]]:
    """Yield the recurring jobs that have something to do, each with what it selects."""
    for job in RECURRING_JOBS:
        found = _select_streams(job.streams, selected) if job.streams else SEPARATE_CHECKS
        if found is not None:
            yield job, found


def build_jobs(settings: Settings, selected: Collection[str]) -> list[UnresolvedAssetJobDefinition]:
    """Return the jobs of the selected streams: those that recur, and the first sync of everything.

    The first sync runs each stream in a process of its own: every stream waits for its own rate
    limit, so the whole takes as long as the slowest stream and not as long as all of them together.
    Such a process has to be started, which is little beside a sync of minutes and much beside an
    hourly one.
    """
    recurring = [
        dg.define_asset_job(
            f"klaviyo_{job.name}",
            selection=selection,
            executor_def=dg.in_process_executor,
            config=dict(job.run_config(settings)) or None,
            tags=JOB_PRIORITY_TAGS,
            description=job.description,
        )
        for job, selection in _jobs_of(selected)
    ]
    everything = _select_streams((*HOURLY_STREAMS, *SLOW_STREAMS), selected)
    if everything is None:
        return recurring
    first_sync = dg.define_asset_job(
        FIRST_SYNC_JOB,
        selection=everything,
        executor_def=dg.multiprocess_executor.configured(
            {
                "max_concurrent": 4,
                "start_method": {"forkserver": {"preload_modules": preloaded_modules(settings)}},
            }
        ),
        tags=JOB_PRIORITY_TAGS,
        description="Everything, streams side by side in processes of their own.",
    )
    return [*recurring, first_sync]


def preloaded_modules(settings: Settings) -> list[str]:
    """Return what the server imports, in order, that step processes of the first sync fork from."""
    return [*_PRELOADED_MODULES, *([_STEP_SERVER] if settings.tune_process else [])]


def build_schedules(settings: Settings, selected: Collection[str]) -> list[dg.ScheduleDefinition]:
    """Return the schedules of the selected streams' jobs that recur. Times are UTC."""
    return [_build_schedule(job, settings) for job, _ in _jobs_of(selected)]


def _build_schedule(job: RecurringJob, settings: Settings) -> dg.ScheduleDefinition:
    job_name = f"klaviyo_{job.name}"

    def launch(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        unfinished = _find_unfinished_run(context.instance, (job_name, FIRST_SYNC_JOB))
        if unfinished is not None:
            return dg.SkipReason(f"run {unfinished.run_id} of {unfinished.job_name} is under way")
        at = context.scheduled_execution_time
        return dg.RunRequest(run_config=job.run_config(settings, at))

    return dg.ScheduleDefinition(
        name=job_name,
        job_name=job_name,
        description=job.description,
        cron_schedule=job.cron,
        default_status=default_schedule_status(settings),
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
    """Return a report's daily schedule: one run per metric, over the days that are not final.

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
        name=f"klaviyo_{stream.name}",
        cron_schedule=REPORT_CRON_SCHEDULE,
        execution_timezone=zone or "UTC",
        default_status=default_schedule_status(settings),
        target=select_assets(stream.name),
        description=_daily_description(report_endpoint(stream)),
        required_resource_keys={"lake"},
    )
    def launch_daily_report(
        context: dg.ScheduleEvaluationContext,
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        yield from _daily_report_requests(context, stream, settings)

    return launch_daily_report


def _daily_description(report: ReportEndpoint) -> str:
    """Return what the daily schedule of a report fetches, in a sentence."""
    fetched = "The months" if report.period == "month" else "Yesterday and the days"
    metrics = ", of every metric" if report.has_metric else ""
    return f"{fetched} that are not final{metrics}."


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
    report = report_endpoint(stream)
    first = max(settings.first_report_day, report.first_day or settings.first_report_day)
    first_open_day = last - timedelta(days=settings.report_lookback_days)
    all_days = report.partition_days(DateRange(first, last)) if first <= last else ()
    days = [day for day in all_days if report.days_of(day).last >= first_open_day]
    if not days:
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
                **partition_range_tags([metric_id], DateRange(days[0], days[-1])),
                **report_run_tags(stream.name, priority=REPORT_RUN_PRIORITY),
            },
        )


def _metrics_by_priority(
    instance: dg.DagsterInstance, lake: Lake, settings: Settings, stream: Stream
) -> Sequence[str]:
    """Return the metrics to fetch, in the order in which they are worth fetching."""
    mapped = read_mapped_metric(lake, settings)
    return metrics_to_fetch(instance, lake, settings, stream=stream, mapped_metric_id=mapped)


def _no_metric_reason(lake: Lake, settings: Settings) -> str:
    """Return why there is no metric to fetch, as the text of a skipped tick."""
    stored = read_metrics(lake)
    problems = find_metric_setting_problems(
        settings, stored, mapped=read_mapped_metric(lake, settings)
    )
    reason = "no metric is a partition of the report yet" if stored else "no metric was read yet"
    return "; ".join([reason, *problems])
