"""Dagster's daemon looking at its sensors once, in a process of its own that may be killed."""

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
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.forkserver import FORKSERVER

DEFINITIONS_MODULE = "klaviyo_assets.definitions"
TIMEOUT_SECONDS = 300


class InProcessTarget(WorkspaceLoadTarget):
    """Serves the code without a server, which would outlive a process that is killed."""

    def create_origins(self) -> list[InProcessCodeLocationOrigin]:
        """Return where the code is; the daemon names a module's location after it."""
        target = LoadableTargetOrigin(
            executable_path=sys.executable, module_name=DEFINITIONS_MODULE
        )
        return [
            InProcessCodeLocationOrigin(
                loadable_target_origin=target, location_name=DEFINITIONS_MODULE
            )
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorEvaluation:
    """A look at one sensor, switched on before; it ends by a kill at one of Dagster's moments."""

    variables: Mapping[str, str]
    dagster_home: Path
    sensor: str
    kill_point: str | None


def evaluate_sensor_once(evaluation: SensorEvaluation) -> None:
    """Be a daemon that was just started, and looks at the sensor once: its time has come."""
    os.environ.update(evaluation.variables, DAGSTER_HOME=str(evaluation.dagster_home))
    reload_definitions()
    flags = (
        {evaluation.sensor: {evaluation.kill_point: signal.SIGKILL}}
        if evaluation.kill_point
        else None
    )
    with (
        open_instance(evaluation.dagster_home) as instance,
        create_test_daemon_workspace_context(InProcessTarget(), instance) as workspace,
        patch.object(loop, "is_under_min_interval", return_value=False),
    ):
        start_sensor(workspace, evaluation.sensor)
        for _ in loop.execute_sensor_iteration(
            workspace, getLogger("sensors"), None, None, debug_crash_flags=flags
        ):
            pass


def reload_definitions() -> None:
    """Load the code with the settings of now, which are read when its module is imported."""
    importlib.reload(importlib.import_module(DEFINITIONS_MODULE))


def start_sensor(workspace: WorkspaceProcessContext, name: str) -> None:
    """Start a sensor as its switch in the UI does; that of one that runs changes nothing."""
    (location,) = workspace.create_request_context().code_locations
    (repository,) = location.get_repositories().values()
    found = repository.get_sensor(name)
    if read_sensor_state(workspace.instance, name) is None:
        workspace.instance.start_sensor(found)


def read_sensor_state(instance: dg.DagsterInstance, sensor: str) -> InstigatorState | None:
    """Return what Dagster keeps of a sensor."""
    return next((each for each in instance.all_instigator_state() if each.name == sensor), None)


def run_sensor_daemon(home: Home, sensor: str, *, kill_point: str | None = None) -> None:
    """Start a daemon in a process of its own, and wait for its end."""
    # This sensor alone is looked at, and not all that the home's setting switches on.
    variables = {**home.variables, "KLAVIYO_AUTOMATION": "off"}
    look = SensorEvaluation(
        variables=variables, dagster_home=home.dagster_home, sensor=sensor, kill_point=kill_point
    )
    process = FORKSERVER.Process(target=evaluate_sensor_once, args=(look,))
    process.start()
    process.join(TIMEOUT_SECONDS)
    assert process.exitcode == (-signal.SIGKILL if kill_point else 0)


def read_sensor_cursor(home: Home, sensor: str) -> str | None:
    """Return the cursor that a sensor would begin with."""
    with open_instance(home.dagster_home) as instance:
        state = read_sensor_state(instance, sensor)
        assert state is not None
        assert isinstance(state.instigator_data, SensorInstigatorData)
        return state.instigator_data.cursor


def launched_runs(home: Home, sensor: str) -> list[dg.DagsterRun]:
    """Return a sensor's runs in the order of their launch; nobody takes them out of the queue."""
    with open_instance(home.dagster_home) as instance:
        found = instance.get_runs(dg.RunsFilter(tags={"dagster/sensor_name": sensor}))
        return list(reversed(list(found)))
