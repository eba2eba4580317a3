"""Runs of a backfill as forks of a server that has imported everything: seconds less for each."""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from dagster._cli.api import (
    _execute_run_command_body,  # pyright: ignore[reportPrivateUsage]
)
from dagster._core.launcher import LaunchRunContext, RunLauncher
from dagster._serdes import ConfigurableClass
from dagster._serdes.config_class import ConfigurableClassData

from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.forkserver import FORKSERVER

DEFINITIONS_MODULE = "klaviyo_assets.definitions"


class ForkingLauncher(RunLauncher, ConfigurableClass):
    """Launches each run in a process of its own, with the environment of the launch."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__()
        self._inst_data = inst_data

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """Return what Dagster keeps of the configuration."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return that there is nothing to configure."""
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        """Return a launcher as `dagster.yaml` names it."""
        return cls(inst_data, **config_value)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the run's process, and do not wait for it."""
        folder = Path(self._instance.root_directory)
        FORKSERVER.Process(
            target=execute_run, args=(context.dagster_run.run_id, folder, dict(os.environ))
        ).start()

    def terminate(self, run_id: str) -> bool:
        """Tell that nothing was ended: nobody asks."""
        del run_id
        return False


def execute_run(run_id: str, folder: Path, environment: dict[str, str]) -> None:
    """Be the process of a run: load the code with the settings of now, and do what is ordered."""
    os.environ.clear()
    os.environ.update(environment)
    # The settings are read when the module is imported, and it is here already.
    importlib.reload(importlib.import_module(DEFINITIONS_MODULE))
    with open_instance(folder) as instance:
        _execute_run_command_body(run_id, instance, lambda _: None, set_exit_code_on_failure=False)
