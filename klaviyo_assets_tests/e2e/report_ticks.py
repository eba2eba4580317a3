"""Sensors and schedules of reports at a tick, and the runs they ask for.

What belongs here: evaluating a tick in a home, and carrying its requests out. What does not:
judging (the tests).
"""

import os
import shutil
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from unittest.mock import patch

import dagster as dg

from klaviyo_assets.api.ledger import Ledger
from klaviyo_assets.lake import Lake
from klaviyo_assets.streams import REPORTS, STREAMS
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import instance_of
from klaviyo_assets_tests.e2e.report_runs import METRICS, ReportRun, fetch

RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


@dataclass(frozen=True, slots=True)
class Tick:
    """What a sensor wants at a tick: runs, or to skip it, with the reason."""

    runs: tuple[dg.RunRequest, ...]
    reason: str
    cursor: str | None


@contextmanager
def opened(home: Home) -> Generator[dg.DagsterInstance]:
    """Open the home's Dagster, with its key in the environment."""
    with (
        patch.dict(os.environ, {"KLAVIYO_API_KEY": home.shop.key}),
        instance_of(home.dagster) as instance,
        dg.partition_loading_context(dynamic_partitions_store=instance),
    ):
        yield instance


def tick(home: Home, sensor: str, cursor: str | None = None, **more: str) -> Tick:
    """Evaluate a sensor once; partitions that it asks for are added, as the daemon does."""
    defs = home.code_location(**more)
    with (
        opened(home) as instance,
        dg.build_sensor_context(
            instance=instance,
            resources=resources_of(defs),
            cursor=cursor,
            repository_def=defs.get_repository_def(),
        ) as context,
    ):
        found = defs.resolve_sensor_def(sensor).evaluate_tick(context)
        for adding in found.dynamic_partitions_requests or ():
            assert isinstance(adding, dg.AddDynamicPartitionsRequest)
            instance.add_dynamic_partitions(METRICS, list(adding.partition_keys))
        return Tick(tuple(found.run_requests or ()), found.skip_message or "", found.cursor)


def resources_of(defs: dg.Definitions) -> dict[str, object]:
    """Return the resources that ticks use: those of runs alone warn when they are made here."""
    return {name: (defs.resources or {})[name] for name in ("lake", "klaviyo")}


def schedule_tick(home: Home, at: datetime, *, automation: str = "off") -> list[dg.RunRequest]:
    """Return what the daily schedules of the reports ask for at a tick."""
    defs = home.code_location(automation=automation)
    with (
        opened(home) as instance,
        dg.build_schedule_context(
            instance=instance,
            resources=resources_of(defs),
            scheduled_execution_time=at,
            repository_def=defs.get_repository_def(),
        ) as context,
    ):
        names = [f"klaviyo_daily_{stream.name}" for stream in REPORTS]
        ticks = [defs.resolve_schedule_def(name).evaluate_tick(context) for name in names]
        return [request for tick in ticks for request in tick.run_requests or ()]


def pretend(home: Home, stream: str, status: dg.DagsterRunStatus, tags: Mapping[str, str]) -> None:
    """Record a run of a report as if somebody had launched it."""
    with opened(home) as instance:
        instance.add_run(
            dg.DagsterRun(
                job_name="__ASSET_JOB",
                status=status,
                tags=dict(tags),
                asset_selection=frozenset({home.key(stream)}),
            )
        )


def carry_out(home: Home, request: dg.RunRequest) -> ReportRun:
    """Run what a tick asks for."""
    assert request.asset_selection is not None
    (key,) = request.asset_selection
    first, last = (request.tags[name].partition("|") for name in RANGE)
    from_day, to_day = (datetime.fromisoformat(day).date() for day, _, _ in (first, last))
    tags = {name: value for name, value in request.tags.items() if name not in RANGE}
    return fetch(home, key.path[-1], (first[2], from_day, last[2], to_day), tags=tags)


def keys(home: Home) -> list[str]:
    """Return the metrics that are partitions now."""
    with instance_of(home.dagster) as instance:
        return list(instance.get_dynamic_partitions(METRICS))


def spend(home: Home, booked: Mapping[str, int], *, hours_ago: float = 20) -> None:
    """Start the ledger anew with requests of reports booked, as other processes did before."""
    folder = Path(home.variables["KLAVIYO_STATE_DIR"])
    state = Lake(home.data, clock=datetime.now).state("metrics")
    assert state is not None
    shutil.rmtree(folder)
    seconds = time.time() - hours_ago * 3600
    moments = [seconds + 40 * number for number in range(max(booked.values()) + 1)]
    ledger = Ledger(folder, state.account, clock=lambda: moments[0])
    while len(moments) > 1:
        for stream, requests in booked.items():
            if len(moments) <= requests + 1:
                assert ledger.reserve(STREAMS[stream].budgets()) < 60
        del moments[0]
    ledger.close()
