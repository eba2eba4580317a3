"""Jobs and schedules: what runs together, in how many processes, and when.

What belongs here: selections and cron strings. What does not: what a run does. Every schedule is
off until someone switches it on.
"""

from collections.abc import Mapping
from datetime import timedelta

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from klaviyo_assets.defs.completeness_verdict import COMPLETE
from klaviyo_assets.defs.deep_checks import deep_checks_of
from klaviyo_assets.defs.metadata import asset_key
from klaviyo_assets.defs.verdicts import check_key
from klaviyo_assets.model.settings import Settings
from klaviyo_assets.streams import COLLECTIONS, STREAMS
from klaviyo_assets.sync.plan import SyncMode

SLOW = frozenset({"lists_detailed"})
"""Fifteen lists a minute: on their own daily schedule, so that they hold nobody up."""

DEEP = dg.AssetSelection.checks(
    *(check_key(each.name, name) for each in STREAMS.values() for name in deep_checks_of(each)),
    COMPLETE,
)
"""Checks that read whole tables or ask Klaviyo: no part of a sync."""

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
        selection=dg.AssetSelection.assets(*map(asset_key, streams)) - DEEP,
        executor_def=executor,
        config=config,
        description=about,
    )


def schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Return the schedules, all stopped; times are UTC."""
    days = settings.late_events_days

    def late_events(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        start = context.scheduled_execution_time - timedelta(days=days)
        return dg.RunRequest(run_config=_op_config("events", {"start": start.isoformat()}))

    return [
        _schedule("hourly", job="collections", cron="7 * * * *"),
        _schedule("daily_details", job="slow_details", cron="20 3 * * *"),
        # After the late events, which would be missing before.
        _schedule("daily_checks", job="checks", cron="10 3 * * *"),
        dg.ScheduleDefinition(
            name="klaviyo_daily_late_events",
            job_name="klaviyo_late_events",
            cron_schedule="40 2 * * *",
            execution_fn=late_events,
        ),
        *_weekly(),
    ]


def _weekly() -> list[dg.ScheduleDefinition]:
    lifted = _op_config("global_exclusions", {"sync_mode": SyncMode.FULL_REFRESH_OVERWRITE.value})
    return [
        dg.ScheduleDefinition(
            name="klaviyo_weekly_exclusions",
            job_name="klaviyo_lifted_suppressions",
            cron_schedule="10 4 * * 0",
            run_config=lifted,
        ),
        dg.ScheduleDefinition(
            name="klaviyo_weekly_deleted_profiles",
            job_name="klaviyo_deleted_profiles",
            cron_schedule="20 5 * * 0",
            run_config=SWEEP,
        ),
    ]


def _schedule(name: str, *, job: str, cron: str) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=f"klaviyo_{name}", job_name=f"klaviyo_{job}", cron_schedule=cron
    )


def _op_config(stream: str, config: Mapping[str, object]) -> dict[str, object]:
    return {"ops": {f"klaviyo__{stream}": {"config": config}}}


SWEEP = _op_config("profiles", {"sweep_ids": True})
"""One request a hundred profiles, so not too often."""
