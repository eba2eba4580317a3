"""Dagster's own daemon in the tests' process: its loops, a turn at a time, on code that is here.

A daemon of its own and the server of its code each take seconds to import what this process has.
"""

import os
import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from logging import getLogger
from signal import SIGKILL
from unittest.mock import patch

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_representation.external import RemoteSchedule
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorTick,
    ScheduleInstigatorData,
)
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._daemon import sensor as sensors
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster._scheduler.scheduler import (
    launch_scheduled_runs,  # pyright: ignore[reportUnknownVariableType]
)

from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.report_daemon import InProcessTarget, reload_definitions

DAGSTER_DEPRECATION = (
    "Function `AssetSelection.sources` is deprecated",
    ".*environment_vars. is deprecated",
)
"""What Dagster warns of, because it calls it itself: for backfills, and where it serves code."""

FORKING_LAUNCHER = (
    "\nrun_launcher: {module: klaviyo_assets_tests.e2e.forking_launcher, class: ForkingLauncher}\n"
)
"""A line for `dagster.yaml`: runs are forked from a server that has imported everything."""


@contextmanager
def open_workspace(home: Home) -> Generator[WorkspaceProcessContext]:
    """Load the home's code as a process of the UI or the daemon does."""
    environment = {**home.variables, "DAGSTER_HOME": str(home.dagster_home)}
    with (
        warnings.catch_warnings(),
        patch.dict(os.environ, environment),
        open_instance(home.dagster_home) as instance,
    ):
        for message in DAGSTER_DEPRECATION:
            warnings.filterwarnings("ignore", message=message, category=DeprecationWarning)
        reload_definitions()
        with create_test_daemon_workspace_context(InProcessTarget(), instance) as workspace:
            yield workspace


def fork_runs(home: Home) -> None:
    """Let runs of the home be forks; the rest of its `dagster.yaml` is as users have it."""
    with (home.dagster_home / "dagster.yaml").open("a", encoding="utf-8") as config:
        config.write(FORKING_LAUNCHER)


def turn_sensors(workspace: WorkspaceProcessContext) -> None:
    """Look once at each sensor that is on, as if its interval were over."""
    with patch.object(sensors, "is_under_min_interval", return_value=False):
        for _ in sensors.execute_sensor_iteration(workspace, getLogger("sensors"), None, None):
            pass


def turn_schedules(workspace: WorkspaceProcessContext) -> None:
    """Launch what is due of each schedule that is on."""
    list(launch_scheduled_runs(workspace, getLogger("schedules"), datetime.now(UTC), {}))


def turn_queue(workspace: WorkspaceProcessContext) -> None:
    """Take out of the queue what has a place, and launch it."""
    queue = QueuedRunCoordinatorDaemon(interval_seconds=1)
    for _ in queue.run_iteration(workspace):
        pass


def read_states(instance: dg.DagsterInstance) -> dict[str, InstigatorState]:
    """Return what Dagster keeps of schedules and sensors, by name."""
    return {each.name: each for each in instance.all_instigator_state()}


def read_ticks(instance: dg.DagsterInstance, name: str) -> list[InstigatorTick]:
    """Return the ticks of a schedule or sensor that have ended, the last one first."""
    state = read_states(instance).get(name)
    if state is None:
        return []
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id)
    return [tick for tick in ticks if tick.end_timestamp is not None]


def start_an_hour_ago(workspace: WorkspaceProcessContext, name: str) -> None:
    """Store of a schedule that is on what the daemon would have, had it come up an hour ago.

    What it missed since then it makes good at once.
    """
    schedule = find_schedule(workspace, name)
    since = time.time() - timedelta(hours=1).total_seconds()
    workspace.instance.add_instigator_state(
        InstigatorState(
            schedule.get_remote_origin(),
            InstigatorType.SCHEDULE,
            InstigatorStatus.DECLARED_IN_CODE,
            ScheduleInstigatorData(schedule.cron_schedule, since),
        )
    )


def find_schedule(workspace: WorkspaceProcessContext, name: str) -> RemoteSchedule:
    """Return a schedule of the code, as the UI and the daemon see it."""
    (location,) = workspace.create_request_context().code_locations
    (repository,) = location.get_repositories().values()
    return repository.get_schedule(name)


def kill_runs(instance: dg.DagsterInstance) -> None:
    """End the processes of all runs that have not ended."""
    for run in instance.get_runs():
        if run.is_finished:
            continue
        for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
            event = entry.dagster_event
            data = event.engine_event_data if event is not None else None
            pid = data.metadata.get("pid") if data is not None else None
            if pid is not None:
                with suppress(ProcessLookupError, ValueError):
                    os.kill(int(str(pid.value)), SIGKILL)
