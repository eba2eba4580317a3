"""How a sync treats its process: memory given back, collector and allocator tuned.

That memory stays flat however many events there are is F45; its long form is the module `memory`.
"""

import os
import subprocess
import sys

import pytest

from klaviyo_assets.sync import sync_run
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home

PROCESS_OF_A_RUN = """
import gc, os
import dagster as dg, pyarrow
from klaviyo_assets.definitions import defs

def state():
    return gc.get_threshold(), gc.get_freeze_count(), pyarrow.default_memory_pool().backend_name

before = state()
done = dg.materialize(list(defs.assets), selection=["klaviyo/lists"], resources=defs.resources)
print(done.success, [one == other for one, other in zip(before, state())])
"""


def test_memory_goes_back_while_a_sync_goes_on(
    open_home: StartHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Free blocks are given back time and again, but not with every page."""
    times: list[int] = []
    monkeypatch.setattr(sync_run, "HEAP_TRIM_BYTES", 2 * 1024 * 1024)
    monkeypatch.setattr(sync_run, "trim_heap", lambda: times.append(1))
    home = open_home(events=12_000, future_events=0)
    assert home.sync("events").success
    assert 1 < len(times) < home.account.request_counts()["/api/events"]


@pytest.mark.parametrize("tune", ["true", "false"])
def test_the_process_of_a_run_is_tuned_unless_a_setting_says_no(home: Home, tune: str) -> None:
    """Collector and Arrow's memory change with the first sync, and with the setting alone."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROCESS_OF_A_RUN],
        env={**os.environ, **home.variables, "KLAVIYO_TUNE_PROCESS": tune},
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout.split("\n")[-2] == f"True {[tune == 'false'] * 3}"
