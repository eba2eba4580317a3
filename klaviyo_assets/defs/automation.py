"""Jobs and schedules: what runs together, in how many processes, and when.

What belongs here: selections and cron strings. What does not: what a run does. Every schedule is
off until someone switches it on.
"""

from datetime import timedelta

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from klaviyo_assets.defs.metadata import asset_key
from klaviyo_assets.model.settings import Settings
from klaviyo_assets.streams import COLLECTIONS
from klaviyo_assets.sync.plan import SyncMode

SLOW = frozenset({"lists_detailed"})
"""Fifteen lists a minute: on their own daily schedule, so that they hold nobody up."""

_PRELOADED = ["klaviyo_assets.definitions", "duckdb", "pandas", "pyarrow.parquet", "deltalake"]


def several_processes() -> dg.ExecutorDefinition:
    """Return the executor that runs streams side by side, each in a process of its own.

    For a first sync: every stream waits for its own rate limit, so the sum becomes the maximum.
    Starting a process costs seconds, which a sync of minutes does not feel and an hourly one does.
    """
    return dg.multiprocess_executor.configured(
        {"max_concurrent": 4, "start_method": {"forkserver": {"preload_modules": _PRELOADED}}}
    )


def jobs() -> list[UnresolvedAssetJobDefinition]:
    """Return the jobs: every collection hourly, slow ones daily, a first sync of all."""
    every_hour = [asset_key(each.name) for each in COLLECTIONS if each.name not in SLOW]
    slow = [asset_key(name) for name in sorted(SLOW)]
    return [
        dg.define_asset_job(
            "klaviyo_collections",
            selection=every_hour,
            executor_def=dg.in_process_executor,
            description="What is new in every collection, one stream after the other.",
        ),
        dg.define_asset_job(
            "klaviyo_slow_details",
            selection=slow,
            executor_def=dg.in_process_executor,
            description="Profile counts, fifteen lists a minute.",
        ),
        dg.define_asset_job(
            "klaviyo_first_sync",
            selection=[*every_hour, *slow],
            executor_def=several_processes(),
            description="Everything, streams side by side in processes of their own.",
        ),
        dg.define_asset_job(
            "klaviyo_late_events",
            selection=[asset_key("events")],
            executor_def=dg.in_process_executor,
            description="The last days of events once more, for what arrived late.",
        ),
        dg.define_asset_job(
            "klaviyo_lifted_suppressions",
            selection=[asset_key("global_exclusions")],
            executor_def=dg.in_process_executor,
            description="Global exclusions from the beginning, so that lifted ones leave.",
        ),
    ]


def schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Return the schedules, all stopped; times are UTC."""
    days = settings.late_events_days

    def late_events(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        start = context.scheduled_execution_time - timedelta(days=days)
        return dg.RunRequest(run_config=_op_config("events", {"start": start.isoformat()}))

    lifted = _op_config("global_exclusions", {"sync_mode": SyncMode.FULL_REFRESH_OVERWRITE.value})
    return [
        dg.ScheduleDefinition(
            name="klaviyo_hourly", job_name="klaviyo_collections", cron_schedule="7 * * * *"
        ),
        dg.ScheduleDefinition(
            name="klaviyo_daily_details",
            job_name="klaviyo_slow_details",
            cron_schedule="20 3 * * *",
        ),
        dg.ScheduleDefinition(
            name="klaviyo_daily_late_events",
            job_name="klaviyo_late_events",
            cron_schedule="40 2 * * *",
            execution_fn=late_events,
        ),
        dg.ScheduleDefinition(
            name="klaviyo_weekly_exclusions",
            job_name="klaviyo_lifted_suppressions",
            cron_schedule="10 4 * * 0",
            run_config=lifted,
        ),
    ]


def _op_config(stream: str, config: dict[str, str]) -> dict[str, object]:
    return {"ops": {f"klaviyo__{stream}": {"config": config}}}
