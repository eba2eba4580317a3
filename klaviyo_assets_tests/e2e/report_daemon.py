"""Dagster's daemon looking at its sensors once, in a process of its own that may be killed.

What belongs here: such a process, and what it left in the home. What does not: judging (the tests).
The names under `dagster._core` and `dagster._daemon` are not public; the release is pinned.
"""

import importlib
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from unittest.mock import patch

import dagster as dg
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.scheduler.instigation import InstigatorState, SensorInstigatorData
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceLoadTarget
from dagster._daemon import sensor as loop

from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import instance_of
from klaviyo_assets_tests.forks import FORKS

MODULE = "klaviyo_assets.definitions"
PATIENCE_SECONDS = 120


class InThisProcess(WorkspaceLoadTarget):
    """Serves the code without a server, which would outlive a process that is killed."""

    def create_origins(self) -> list[InProcessCodeLocationOrigin]:
        """Return where the code is."""
        target = LoadableTargetOrigin(executable_path=sys.executable, module_name=MODULE)
        return [InProcessCodeLocationOrigin(loadable_target_origin=target, location_name="here")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A look at one sensor, switched on before; it ends by a kill at one of Dagster's moments."""

    variables: Mapping[str, str]
    dagster: Path
    sensor: str
    killed_at: str | None


def take(look: Look) -> None:
    """Be a daemon that was just started, and looks at the sensor once: its time has come."""
    os.environ.update(look.variables, DAGSTER_HOME=str(look.dagster))
    import_anew()
    flags = {look.sensor: {look.killed_at: signal.SIGKILL}} if look.killed_at else None
    with (
        instance_of(look.dagster) as instance,
        create_test_daemon_workspace_context(InThisProcess(), instance) as workspace,
        patch.object(loop, "is_under_min_interval", return_value=False),
    ):
        switch_on(workspace, look.sensor)
        for _ in loop.execute_sensor_iteration(
            workspace, getLogger("sensors"), None, None, debug_crash_flags=flags
        ):
            pass


def import_anew() -> None:
    """Load the code with the settings of now, which are read when its module is imported."""
    importlib.reload(importlib.import_module(MODULE))


def switch_on(workspace: WorkspaceProcessContext, name: str) -> None:
    """Start a sensor as its switch in the UI does; that of one that runs changes nothing."""
    (location,) = workspace.create_request_context().code_locations
    (repository,) = location.get_repositories().values()
    found = repository.get_sensor(name)
    if state_of(workspace.instance, name) is None:
        workspace.instance.start_sensor(found)


def state_of(instance: dg.DagsterInstance, sensor: str) -> InstigatorState | None:
    """Return what Dagster keeps of a sensor."""
    return next((each for each in instance.all_instigator_state() if each.name == sensor), None)


def looked(home: Home, sensor: str, *, killed_at: str | None = None) -> None:
    """Start a daemon in a process of its own, and wait for its end."""
    # This sensor alone is looked at, and not all that the home's setting switches on.
    variables = {**home.variables, "KLAVIYO_AUTOMATION": "off"}
    look = Look(variables=variables, dagster=home.dagster, sensor=sensor, killed_at=killed_at)
    process = FORKS.Process(target=take, args=(look,))
    process.start()
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == (-signal.SIGKILL if killed_at else 0)


def cursor_of(home: Home, sensor: str) -> str | None:
    """Return the cursor that a sensor would begin with."""
    with instance_of(home.dagster) as instance:
        state = state_of(instance, sensor)
        assert state is not None
        assert isinstance(state.instigator_data, SensorInstigatorData)
        return state.instigator_data.cursor


def launched(home: Home, sensor: str) -> list[dg.DagsterRun]:
    """Return a sensor's runs in the order of their launch; nobody takes them out of the queue."""
    with instance_of(home.dagster) as instance:
        found = instance.get_runs(dg.RunsFilter(tags={"dagster/sensor_name": sensor}))
        return list(reversed(list(found)))
