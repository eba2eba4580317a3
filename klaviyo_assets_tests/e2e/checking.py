"""Checks as Dagster runs them apart from a sync, and the sensor that heals.

What belongs here: launching, and a sensor's tick. What does not: judging (the tests).
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import dagster as dg

from klaviyo_assets_tests.e2e.home import Home, key_of
from klaviyo_assets_tests.e2e.report_ticks import Tick, tick
from klaviyo_assets_tests.e2e.run import Run, Verdict

COMPLETE = dg.AssetCheckKey(key_of("events"), "complete")
SENSOR = "klaviyo_events_healing"


def check(home: Home, *, config: Mapping[str, object] | None = None) -> Verdict:
    """Compare events with Klaviyo's counts; return the verdict."""
    run_config = {"ops": {"klaviyo__events_complete": {"config": dict(config or {})}}}
    run = launch(home, {COMPLETE}, run_config=run_config)
    assert run.success, run.failed
    return run.verdicts["events", "complete"]


def launch(
    home: Home,
    checks: set[dg.AssetCheckKey],
    *,
    assets: set[dg.AssetKey] | None = None,
    run_config: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Run:
    """Run checks, after assets where some are named."""
    defs = home.code_location()

    def execute(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
        job = defs.resolve_implicit_global_asset_job_def()
        part = job.get_subset(asset_selection=assets or set(), asset_check_selection=checks)
        return part.execute_in_process(
            run_config=dict(run_config or {}),
            instance=instance,
            tags=dict(tags or {}),
            raise_on_error=False,
        )

    return home.run(execute)


def heal(home: Home) -> Run:
    """Let the sensor look once, and do what it asks for."""
    (request,) = look(home).runs
    assert request.asset_selection is not None
    assert request.asset_check_keys is not None
    return launch(
        home,
        set(request.asset_check_keys),
        assets=set(request.asset_selection),
        run_config=request.run_config,
        tags=request.tags,
    )


def look(home: Home) -> Tick:
    """Evaluate the healing sensor once."""
    return tick(home, SENSOR)


def hide(home: Home, start: datetime, end: datetime, **how: object) -> None:
    """Let the shop keep events of [start, end) back: counted, unless `counted=False`."""
    bounds = {"start": start.isoformat(), "end": end.isoformat()}
    home.shop.mutate(hide_events={**bounds, **how})


def show(home: Home) -> None:
    """Let the shop show everything again."""
    home.shop.mutate(show_events=True)
