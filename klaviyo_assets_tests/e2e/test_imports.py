"""What a run loads: no more than it needs, for its start is the longest part of an hourly sync."""

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from subprocess import PIPE, Popen

import pytest

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
