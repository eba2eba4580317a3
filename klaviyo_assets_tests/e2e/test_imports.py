"""What a run loads: no more than it needs, for its start is the longest part of an hourly sync."""

import os
import subprocess
import sys

import pytest

from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import Home


def imported_modules(home: Home, *command: str) -> set[str]:
    """Run a module in a process of its own; return the modules that it imported."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", *command],
        cwd=ROOT,
        env={**os.environ, **home.variables, "DAGSTER_HOME": str(home.dagster_home)},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (line for line in done.stderr.splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip() for line in lines}


@pytest.mark.takes(10)
def test_the_hourly_job_has_no_use_for_pandas(home: Home) -> None:
    """Neither the first time nor, with rows to be merged, the second: 0.2 s and 46 MiB each.

    Of five streams: some replaced, some merged, one filed by day, whose rows come back unchanged,
    and one a view.
    """
    home.settings["KLAVIYO_LOOKBACK_DAYS"] = "7"
    home.settings["KLAVIYO_STREAMS"] = "events,events_detailed,lists,metrics,profiles"
    job = (
        "dagster",
        "job",
        "execute",
        "-j",
        "klaviyo_collections",
        "-m",
        "klaviyo_assets.definitions",
    )
    for _ in range(2):
        found = imported_modules(home, *job)
        assert "pyarrow.lib" in found
        assert "pandas" not in found
        home.account.mutate(profile=min(home.ids("profiles")), set={"last_name": "Merged"})
        home.account.mutate(list=min(home.ids("lists")), delete=True)
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))
