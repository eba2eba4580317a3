"""Sensors and schedules of reports at a tick, and the runs they request."""

import os
import shutil
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from unittest.mock import patch

import dagster as dg

from klaviyo_assets.api.rate_limiter import RateLimiter
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.streams import DEFAULT_REPORTS, STREAMS
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.report_runs import METRIC_PARTITIONS, ReportRun, run_partitions

RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


@dataclass(frozen=True, slots=True)
class SensorTick:
    """What a sensor wants at a tick: runs, or to skip it, with the reason."""

    runs: tuple[dg.RunRequest, ...]
    reason: str
    cursor: str | None


@contextmanager
def open_home_instance(home: Home) -> Generator[dg.DagsterInstance]:
    """Open the home's Dagster, with its key in the environment."""
    with (
        patch.dict(os.environ, {"KLAVIYO_API_KEY": home.account.key}),
        open_instance(home.dagster_home) as instance,
        dg.partition_loading_context(dynamic_partitions_store=instance),
    ):
        yield instance


def evaluate_sensor(home: Home, sensor: str, cursor: str | None = None, **more: str) -> SensorTick:
    """Evaluate a sensor once; partitions that it asks for are added, as the daemon does."""
    defs = home.load_definitions(**more)
    with (
        open_home_instance(home) as instance,
        dg.build_sensor_context(
            instance=instance,
            resources=tick_resources(defs),
            cursor=cursor,
            repository_def=defs.get_repository_def(),
        ) as context,
    ):
        found = defs.resolve_sensor_def(sensor).evaluate_tick(context)
        for adding in found.dynamic_partitions_requests or ():
            assert isinstance(adding, dg.AddDynamicPartitionsRequest)
            instance.add_dynamic_partitions(METRIC_PARTITIONS, list(adding.partition_keys))
        return SensorTick(tuple(found.run_requests or ()), found.skip_message or "", found.cursor)


def tick_resources(defs: dg.Definitions) -> dict[str, object]:
    """Return the resources that ticks use: those of runs alone warn when they are made here."""
    return {name: (defs.resources or {})[name] for name in ("lake", "klaviyo")}


def evaluate_daily_schedules(
    home: Home,
    at: datetime,
    *,
    automation: str = "off",
    reports: Iterable[str] = tuple(each.name for each in DEFAULT_REPORTS),
) -> list[dg.RunRequest]:
    """Return what the daily schedules of reports ask for at a tick."""
    defs = home.load_definitions(automation=automation)
    with (
        open_home_instance(home) as instance,
        dg.build_schedule_context(
            instance=instance,
            resources=tick_resources(defs),
            scheduled_execution_time=at,
            repository_def=defs.get_repository_def(),
        ) as context,
    ):
        schedules = [defs.resolve_schedule_def(f"klaviyo_{name}") for name in reports]
        ticks = [each.evaluate_tick(context) for each in schedules]
        return [request for tick in ticks for request in tick.run_requests or ()]


def record_run(
    home: Home, stream: str, status: dg.DagsterRunStatus, tags: Mapping[str, str]
) -> None:
    """Record a run of a report as if somebody had launched it."""
    with open_home_instance(home) as instance:
        instance.add_run(
            dg.DagsterRun(
                job_name="__ASSET_JOB",
                status=status,
                tags=dict(tags),
                asset_selection=frozenset({home.asset_key(stream)}),
            )
        )


def run_request(home: Home, request: dg.RunRequest) -> ReportRun:
    """Run what a tick asks for."""
    assert request.asset_selection is not None
    (key,) = request.asset_selection
    first, last = (request.tags[name].partition("|") for name in RANGE_TAGS)
    from_day, to_day = (datetime.fromisoformat(day).date() for day, _, _ in (first, last))
    tags = {name: value for name, value in request.tags.items() if name not in RANGE_TAGS}
    return run_partitions(home, key.path[-1], (first[2], from_day, last[2], to_day), tags=tags)


def metric_partitions(home: Home) -> list[str]:
    """Return the metrics that are partitions now."""
    with open_instance(home.dagster_home) as instance:
        return list(instance.get_dynamic_partitions(METRIC_PARTITIONS))


def book_requests(home: Home, booked: Mapping[str, int], *, hours_ago: float = 20) -> None:
    """Start a new rate limit store with report requests reserved, as by other processes before."""
    folder = Path(home.variables["KLAVIYO_STATE_DIR"])
    state = Lake(home.data_dir, clock=datetime.now).read_table_state("metrics")
    assert state is not None
    shutil.rmtree(folder)
    seconds = time.time() - hours_ago * 3600
    moments = [seconds + 40 * number for number in range(max(booked.values()) + 1)]
    ledger = RateLimiter(folder, state.account, clock=lambda: moments[0])
    while len(moments) > 1:
        for stream, requests in booked.items():
            if len(moments) <= requests + 1:
                assert ledger.reserve(STREAMS[stream].rate_limit_buckets()) < 60
        del moments[0]
    ledger.close()
