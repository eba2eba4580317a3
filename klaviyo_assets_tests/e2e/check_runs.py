"""Checks as Dagster runs them apart from a sync, and the sensor that heals."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import dagster as dg

from klaviyo_assets_tests.e2e.home import Home, asset_key
from klaviyo_assets_tests.e2e.report_ticks import SensorTick, evaluate_sensor
from klaviyo_assets_tests.e2e.run_log import CheckResult, RunResult

COMPLETENESS_CHECK = dg.AssetCheckKey(asset_key("events"), "complete")
REPAIR_SENSOR = "klaviyo_events_healing"


def run_completeness_check(
    home: Home, *, config: Mapping[str, object] | None = None
) -> CheckResult:
    """Compare events with Klaviyo's counts; return the verdict."""
    run_config = {"ops": {"klaviyo__events_complete": {"config": dict(config or {})}}}
    run = run_checks(home, {COMPLETENESS_CHECK}, run_config=run_config)
    assert run.success, run.failures
    return run.check_results["events", "complete"]


def run_checks(
    home: Home,
    checks: set[dg.AssetCheckKey],
    *,
    assets: set[dg.AssetKey] | None = None,
    run_config: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> RunResult:
    """Run checks, after assets where some are named."""
    defs = home.load_definitions()

    def execute(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
        job = defs.resolve_implicit_global_asset_job_def()
        part = job.get_subset(asset_selection=assets or set(), asset_check_selection=checks)
        return part.execute_in_process(
            run_config=dict(run_config or {}),
            instance=instance,
            tags=dict(tags or {}),
            raise_on_error=False,
        )

    return home.execute(execute)


def run_repair_sensor(home: Home) -> RunResult:
    """Let the sensor look once, and do what it asks for."""
    (request,) = evaluate_repair_sensor(home).runs
    assert request.asset_selection is not None
    assert request.asset_check_keys is not None
    return run_checks(
        home,
        set(request.asset_check_keys),
        assets=set(request.asset_selection),
        run_config=request.run_config,
        tags=request.tags,
    )


def evaluate_repair_sensor(home: Home) -> SensorTick:
    """Evaluate the healing sensor once."""
    return evaluate_sensor(home, REPAIR_SENSOR)


def hide_events(home: Home, start: datetime, end: datetime, **how: object) -> None:
    """Let the account keep events of [start, end) back: counted, unless `counted=False`."""
    bounds = {"start": start.isoformat(), "end": end.isoformat()}
    home.account.mutate(hide_events={**bounds, **how})


def show_events(home: Home) -> None:
    """Let the account show everything again."""
    home.account.mutate(show_events=True)
