"""Jobs and schedules: what runs together, in how many processes, and when.

What belongs here: selections and cron strings. What does not: what a run does. Every schedule is
off until someone switches it on, or from the start where `KLAVIYO_AUTOMATION` says so.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from klaviyo_assets.api.clock import utc_now
from klaviyo_assets.defs.completeness_verdict import COMPLETE
from klaviyo_assets.defs.deep_checks import NOT_NULL, UNIQUE
from klaviyo_assets.defs.newest_days import NEWEST
from klaviyo_assets.defs.partitions import PRIORITY
from klaviyo_assets.defs.report_flight import UNFINISHED
from klaviyo_assets.defs.selections import ChecksByName, assets_of
from klaviyo_assets.defs.switches import schedule_status
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import COLLECTIONS
from klaviyo_assets.sync.plan import SyncMode

SLOW = frozenset({"lists_detailed"})
"""Fifteen lists a minute: on their own daily schedule, so that they hold nobody up."""

DEEP = ChecksByName(UNIQUE, NOT_NULL, NEWEST, COMPLETE.name)
"""Checks that read whole tables or ask Klaviyo: no part of a sync."""

FIRST_SYNC = "klaviyo_first_sync"

LONGEST_WAIT = timedelta(days=1)
"""So long schedules leave a run alone that has not ended."""

FULL_REFRESH = SyncMode.FULL_REFRESH_OVERWRITE.value

FIRST_IN_QUEUE = {PRIORITY: "5"}
"""Runs of jobs come before those of backfills, of which a person may launch fifty at once."""

_PRELOADED = ["klaviyo_assets.definitions", "duckdb", "pyarrow.parquet", "deltalake"]


def several_processes() -> dg.ExecutorDefinition:
    """Return the executor that runs streams side by side, each in a process of its own.

    For a first sync: every stream waits for its own rate limit, so the sum becomes the maximum.
    Starting a process costs seconds, which a sync of minutes does not feel and an hourly one does.
    """
    return dg.multiprocess_executor.configured(
        {"max_concurrent": 4, "start_method": {"forkserver": {"preload_modules": _PRELOADED}}}
    )


def jobs() -> list[UnresolvedAssetJobDefinition]:
    """Return the jobs: every collection hourly, slow ones daily, a first sync of all, checks."""
    every_hour = tuple(each.name for each in COLLECTIONS if each.name not in SLOW)
    slow = tuple(sorted(SLOW))
    return [
        _job("collections", every_hour, "What is new everywhere, one stream after the other."),
        _job("slow_details", slow, "Profile counts, fifteen lists a minute."),
        _job("late_events", ("events",), "The last days of events again, for what arrived late."),
        _job(
            "lifted_suppressions",
            ("global_exclusions",),
            "Global exclusions from the beginning, so that lifted ones leave.",
        ),
        _job(
            "deleted_profiles",
            ("profiles",),
            "Which profiles there still are; the others are marked as deleted.",
            config=SWEEP,
        ),
        _job(
            "first_sync",
            (*every_hour, *slow),
            "Everything, streams side by side in processes of their own.",
            executor=several_processes(),
        ),
        _checks(),
    ]


def _checks() -> UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        "klaviyo_checks",
        selection=DEEP,
        executor_def=dg.in_process_executor,
        tags=FIRST_IN_QUEUE,
        description="Keys once, nothing NULL, and every event that Klaviyo counts.",
    )


def _job(
    name: str,
    streams: tuple[str, ...],
    about: str,
    *,
    executor: dg.ExecutorDefinition = dg.in_process_executor,
    config: dict[str, object] | None = None,
) -> UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        f"klaviyo_{name}",
        selection=assets_of(*streams) - DEEP,
        executor_def=executor,
        config=config,
        tags=FIRST_IN_QUEUE,
        description=about,
    )


def schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Return the schedules of collections and checks; times are UTC."""
    days = settings.late_events_days

    def last_days(at: datetime) -> dict[str, object]:
        return _op_config("events", {"start": (at - timedelta(days=days)).isoformat()})

    def from_the_beginning(_at: datetime) -> dict[str, object]:
        return _op_config("global_exclusions", {"sync_mode": FULL_REFRESH})

    status = schedule_status(settings)
    return [
        _schedule("hourly", "7 * * * *", job="collections", status=status),
        _schedule("daily_details", "20 3 * * *", job="slow_details", status=status),
        # After the late events, which would be missing before.
        _schedule("daily_checks", "10 3 * * *", job="checks", status=status),
        _schedule(
            "daily_late_events", "40 2 * * *", job="late_events", status=status, config=last_days
        ),
        _schedule(
            "weekly_exclusions",
            "10 4 * * 0",
            job="lifted_suppressions",
            status=status,
            config=from_the_beginning,
        ),
        _schedule(
            "weekly_deleted_profiles",
            "20 5 * * 0",
            job="deleted_profiles",
            status=status,
            config=lambda _at: SWEEP,
        ),
    ]


def _schedule(
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
        under_way = _run_under_way(context.instance, (job_name, FIRST_SYNC))
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


def _run_under_way(instance: dg.DagsterInstance, jobs: Sequence[str]) -> dg.DagsterRun | None:
    """Return a run of one of these jobs that has not ended; None where there is none.

    A second run would read the same records beside it, and lose at the lake's commit. One that was
    launched more than a day ago is not waited for: its process may be gone without a word.
    """
    since = utc_now() - LONGEST_WAIT
    for job in jobs:
        wanted = dg.RunsFilter(job_name=job, statuses=UNFINISHED, created_after=since)
        if runs := instance.get_runs(wanted, limit=1):
            return runs[0]
    return None


def _op_config(stream: str, config: Mapping[str, object]) -> dict[str, object]:
    return {"ops": {f"klaviyo__{stream}": {"config": config}}}


SWEEP = _op_config("profiles", {"sweep_ids": True})
"""One request a hundred profiles, so not too often."""
