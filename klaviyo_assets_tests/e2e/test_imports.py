"""What a run loads: no more than it needs, for its start is the longest part of an hourly sync."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from subprocess import PIPE, Popen

import pytest

from klaviyo_assets.defs.schedules import preloaded_modules
from klaviyo_assets.settings import Settings
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import Home

RUN_TWICE = """
import sys
from dagster._cli import main

for line in sys.stdin:
    try:
        main()
    except SystemExit as ended:
        print(ended.code, flush=True)
"""
"""Dagster's command, once for each line, in one process: to start two takes twice as long."""


@contextmanager
def watch_imports(home: Home, *words: str) -> Generator[Callable[[], set[str]]]:
    """Start a process that runs Dagster's command when asked; it tells what it has imported."""
    log = home.root / "imports"
    with (
        log.open("w", encoding="utf-8") as errors,
        Popen(
            [sys.executable, "-X", "importtime", "-c", RUN_TWICE, *words],
            cwd=ROOT,
            env={**os.environ, **home.variables, "DAGSTER_HOME": str(home.dagster_home)},
            stdin=PIPE,
            stdout=PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def run() -> set[str]:
            stdin.write("\n")
            stdin.flush()
            printed = stdout.readline()
            written = log.read_text(encoding="utf-8")
            assert printed == "0\n", written[-2000:]
            lines = (line for line in written.splitlines() if line.startswith("import time:"))
            return {line.rpartition("|")[2].strip() for line in lines}

        yield run
    assert process.returncode == 0


@pytest.mark.takes(10)
def test_the_hourly_job_has_no_use_for_pandas(home: Home) -> None:
    """Neither the first time nor, with rows to be merged, the second: 0.2 s and 46 MiB each.

    Of five streams: some replaced, some merged, one filed by day, whose rows come back unchanged,
    and one a view.
    """
    home.settings["KLAVIYO_LOOKBACK_DAYS"] = "7"
    home.settings["KLAVIYO_STREAMS"] = "events,events_detailed,lists,metrics,profiles"
    job = ("job", "execute", "-j", "klaviyo_collections", "-m", "klaviyo_assets.definitions")
    with watch_imports(home, *job) as run:
        for _ in range(2):
            found = run()
            assert "pyarrow.lib" in found
            assert "pandas" not in found
            home.account.mutate(profile=min(home.ids("profiles")), set={"last_name": "Merged"})
            home.account.mutate(list=min(home.ids("lists")), delete=True)
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))


BE_A_STEP_SERVER = """
import json, os, sys
from importlib import import_module

def inherited():
    return [sorted(os.listdir(f"/proc/self/{each}")) for each in ("task", "fd")]

*names, server = json.loads(sys.argv[1])
for name in names:
    import_module(name)
before = inherited()
import_module(server)
assert inherited() == before, (before, inherited())
known = set(sys.modules)

import dagster as dg
from dagster._core.execution.api import create_execution_plan
from klaviyo_assets.definitions import defs

with dg.DagsterInstance.get() as instance:
    create_execution_plan(defs.get_repository_def().get_job("klaviyo_first_sync"))
    instance.get_event_records(dg.EventRecordsFilter(dg.DagsterEventType.STEP_START), limit=1)
    instance.compute_log_manager
assert not set(sys.modules) - known, set(sys.modules) - known
"""


def test_a_step_of_the_first_sync_imports_nothing_itself(home: Home) -> None:
    """Its process finds Dagster's modules, too; it inherits no thread and no open file."""
    modules = preloaded_modules(Settings())
    done = subprocess.run(
        [sys.executable, "-c", BE_A_STEP_SERVER, json.dumps(modules)],
        cwd=ROOT,
        env={**os.environ, **home.variables, "DAGSTER_HOME": str(home.dagster_home)},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_untuned_process_is_forked_as_it_was_imported() -> None:
    """The switch `KLAVIYO_TUNE_PROCESS` leaves the imports, and takes away what is done to them."""
    *imports, server = preloaded_modules(Settings())
    assert server == "klaviyo_assets.step_server"
    assert preloaded_modules(Settings(tune_process=False)) == imports
