"""A whole Dagster daemon in a process of its own, which takes runs out of the queue."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from unittest.mock import patch

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorTick

from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.report_daemon import DEFINITIONS_MODULE

TIMEOUT_SECONDS = 600

START_SCRIPT = "from dagster._daemon.cli import cli; cli()"
"""What the command `dagster-daemon` does, whatever lies in the path of the shell."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon at work, and what it has launched in its home."""

    home: Home
    instance: dg.DagsterInstance
    process: subprocess.Popen[bytes]

    def runs(self, **tags: str) -> list[dg.DagsterRun]:
        """Return the runs with some tags, the first one first."""
        names = {name.replace("__", "/"): value for name, value in tags.items()}
        return list(self.instance.get_runs(dg.RunsFilter(tags=names), ascending=True))

    def wait_for(self, condition: Callable[[], bool]) -> float:
        """Wait until something has happened; return the seconds that took."""
        began = time.monotonic()
        while not condition():
            assert self.process.poll() is None, "the daemon has ended"
            assert time.monotonic() - began < TIMEOUT_SECONDS
            time.sleep(0.2)
        return time.monotonic() - began

    def ticks(self, sensor: str) -> list[InstigatorTick]:
        """Return the ticks of a sensor that have ended, the last one first."""
        for state in self.instance.all_instigator_state():
            if state.name == sensor:
                found = self.instance.get_ticks(state.instigator_origin_id, state.selector_id)
                return [tick for tick in found if tick.end_timestamp is not None]
        return []

    def seconds_in_queue(self, job: str) -> float | None:
        """Return how long the last run of a job was queued before its launch; None: it still is.

        How long its process takes to start depends on the machine, and does not count.
        """
        (record,) = self.instance.get_run_records(dg.RunsFilter(job_name=job), limit=1)
        run_id, event_type = record.dagster_run.run_id, dg.DagsterEventType.PIPELINE_STARTING
        for entry in self.instance.all_logs(run_id, of_type=event_type):
            return entry.timestamp - record.create_timestamp.timestamp()
        return None


@contextmanager
def run_daemon(home: Home) -> Generator[Daemon]:
    """Start a daemon, which begins what the home's automation names; end it and all its runs."""
    environment = {**os.environ, **home.variables, "DAGSTER_HOME": str(home.dagster_home)}
    with (
        patch.dict(os.environ, environment),
        open_instance(home.dagster_home) as instance,
        (home.root / "daemon.log").open("wb") as log,
    ):
        process = subprocess.Popen(
            [sys.executable, "-c", START_SCRIPT, "run", "-m", DEFINITIONS_MODULE],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Daemon(home, instance, process)
        finally:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()
            for run in instance.get_runs():
                kill_run(instance, run)


def run_dagster_command(*words: str) -> str:
    """Run Dagster's own command on the project in the environment of now; return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "dagster", *words, "-m", DEFINITIONS_MODULE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def kill_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """End the process of a run that outlived the daemon."""
    if run.is_finished:
        return
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        data = event.engine_event_data if event is not None else None
        pid = data.metadata.get("pid") if data is not None else None
        if pid is not None:
            with suppress(ProcessLookupError, ValueError):
                os.kill(int(str(pid.value)), signal.SIGKILL)
