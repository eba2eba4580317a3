"""Jobs: which streams run together, and in how many processes."""

from collections.abc import Mapping

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from klaviyo_assets.defs.automation import ChecksByName, select_assets
from klaviyo_assets.defs.checks import NOT_NULL_CHECK, UNIQUE_KEY_CHECK
from klaviyo_assets.defs.completeness_check import COMPLETENESS_CHECK_KEY
from klaviyo_assets.defs.report_freshness import NEWEST_DAYS_CHECK
from klaviyo_assets.defs.report_runs import PRIORITY_TAG
from klaviyo_assets.streams import COLLECTIONS

SLOW_STREAMS = frozenset({"lists_detailed"})
"""Klaviyo allows fifteen lists a minute. They run daily in a job of their own, so that the hourly
job does not wait for them."""

SEPARATE_CHECKS = ChecksByName(
    UNIQUE_KEY_CHECK, NOT_NULL_CHECK, NEWEST_DAYS_CHECK, COMPLETENESS_CHECK_KEY.name
)
"""Checks that read whole tables or send requests to Klaviyo. No sync job runs them."""

FIRST_SYNC_JOB = "klaviyo_first_sync"

JOB_PRIORITY_TAGS = {PRIORITY_TAG: "5"}
"""Runs of jobs start before runs of backfills, of which a person may launch fifty at once."""

_PRELOADED_MODULES = ["klaviyo_assets.definitions", "duckdb", "pyarrow.parquet", "deltalake"]


def build_multiprocess_executor() -> dg.ExecutorDefinition:
    """Return the executor that runs streams in parallel, each in a process of its own.

    It is for a first sync: every stream waits for its own rate limit, so the whole takes as long
    as the slowest stream and not as long as all of them together. Starting a process costs
    seconds. Beside a sync of minutes that is little, beside an hourly sync it is much.
    """
    return dg.multiprocess_executor.configured(
        {
            "max_concurrent": 4,
            "start_method": {"forkserver": {"preload_modules": _PRELOADED_MODULES}},
        }
    )


def build_jobs() -> list[UnresolvedAssetJobDefinition]:
    """Return all jobs: syncs, weekly refreshes, a first sync of every stream, and checks."""
    hourly = tuple(each.name for each in COLLECTIONS if each.name not in SLOW_STREAMS)
    slow = tuple(sorted(SLOW_STREAMS))
    return [
        _build_job(
            "collections", hourly, "What is new in every collection, one stream after the other."
        ),
        _build_job("slow_details", slow, "Profile counts, fifteen lists a minute."),
        _build_job(
            "late_events",
            ("events",),
            "Reads the last days of events again, for events that arrived late.",
        ),
        _build_job(
            "lifted_suppressions",
            ("global_exclusions",),
            "Reads global exclusions from the beginning, so that lifted ones disappear.",
        ),
        _build_job(
            "deleted_profiles",
            ("profiles",),
            "Reads the ids of all profiles, and marks those that Klaviyo no longer has as deleted.",
            config=ID_SCAN_RUN_CONFIG,
        ),
        _build_job(
            "first_sync",
            (*hourly, *slow),
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
        description="Unique keys, no NULL where none may be, and every event that Klaviyo counts.",
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


def op_run_config(stream: str, config: Mapping[str, object]) -> dict[str, object]:
    """Return the run config of a run in which the op of one stream has this config."""
    return {"ops": {f"klaviyo__{stream}": {"config": config}}}


ID_SCAN_RUN_CONFIG = op_run_config("profiles", {"sweep_ids": True})
"""An id scan costs one request per hundred profiles, so it runs weekly."""
