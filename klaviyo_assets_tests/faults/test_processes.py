"""F42 to F45: processes that are killed, cancelled, doubled or short of memory."""

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from time import monotonic

import dagster as dg
import pytest
from deltalake import DeltaTable

from klaviyo_assets.lake.lake import Lake
from klaviyo_assets_tests.crash_hooks import KillAt
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.memory import ACCOUNT_DAYS, measure_forked_peak
from klaviyo_assets_tests.e2e.processes import ChildProcess, fork_parallel_sync, fork_sync
from klaviyo_assets_tests.faults.assertions import assert_complete, assert_sound_part, stored_ids
from klaviyo_assets_tests.timing import takes_less_than

EVENTS = "/api/events"

FEW, MANY = 40_000, 160_000
"""Events of two accounts."""

COMMIT_BYTES = 2**20
"""About two pages, so that a small sync has several commits."""

MOMENTS = {
    "before the first page": KillAt("before awaiting the first page"),
    "before the first request is booked": KillAt("before reserving a request"),
    "before the first write": KillAt("before staging rows"),
    "in a part, before its first bytes are out": KillAt(
        "before writing a row group", count=2, max_file_bytes=100
    ),
    "in a part, half of it written": KillAt("after writing a row group", count=3),
    "after the rename, before the commit": KillAt("after moving files", count=2),
    "inside the first commit": KillAt("before a table commit", max_file_bytes=100),
    "inside a later commit": KillAt("before a table commit", count=2, max_file_bytes=100),
    "after the commit, before the metadata": KillAt("before observing a commit", count=2),
    "after the metadata": KillAt("after observing a commit", count=2),
    "after the last commit, before its materialization": KillAt("after writing an output"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_f42_a_kill_at_any_point_is_completed_by_the_next_run(
    open_home: StartHome, moment: str
) -> None:
    """Killed there, a first sync leaves nothing twice; the next run completes it and tidies up."""
    home = open_home(events=4_000, future_events=0, gzip=False)
    child = fork_sync(home, "events", kill_at=MOMENTS[moment], commit_bytes=COMMIT_BYTES)
    assert child.has_ended(within=300)
    assert child.exit_code in {-signal.SIGKILL, -signal.SIGXFSZ}
    stored = stored_ids(home, "events")
    assert len(stored) == len(set(stored))
    assert set(stored) <= home.account.true_ids("events")
    assert home.sync("events").success
    assert_complete(home, "events")
    assert not leftovers(home, "events")


def leftovers(home: Home, stream: str) -> set[str]:
    """Return what lies in a table's folder beyond its newest version, once the grace is over."""
    later = home.account.now + timedelta(days=3650)
    Lake(home.data_dir, clock=lambda: later).vacuum(stream)
    folder = home.data_dir / "lake" / stream
    named = set(DeltaTable(str(folder)).file_uris())
    found = {
        str(path) for path in folder.rglob("*") if path.is_file() and "_delta_log" not in path.parts
    }
    return found - named


@pytest.mark.parametrize(
    ("begin", "page"),
    [(fork_sync, 1), (fork_sync, 3), (fork_parallel_sync, 3)],
    ids=["one process, at once", "one process", "several"],
)
def test_f43_a_cancel_ends_the_wait_for_klaviyo(
    open_home: StartHome, begin: Callable[..., ChildProcess], page: int
) -> None:
    """In a Retry-After of minutes a cancelled run ends within two seconds, as cancelled.

    Dagster's retry policy does not begin it anew; the next run completes it.
    """
    assert takes_less_than(2, lambda: cancelled_in_a_wait(open_home, begin, page))


def cancelled_in_a_wait(
    open_home: StartHome, begin: Callable[..., ChildProcess], page: int
) -> float:
    """Cancel a run that was told to wait and check what is left; return how long it took to end."""
    home = open_home(events=6_000, future_events=0)
    match = {"path": EVENTS, "from": page}
    with home.account.inject_fault("throttle", match=match, retry_after=250):
        child = begin(home, "events")
        wait_for_a_429(home, child)
        began = monotonic()
        cancel(home, child)
        # Well before the 250 seconds are over, however busy this machine is.
        assert child.has_ended(within=120)
        took = monotonic() - began
    assert status_of_last_run(home) is dg.DagsterRunStatus.CANCELED
    assert_sound_part(home, "events")
    # What Klaviyo asked for is waited for by every process of the account.
    home.settings["KLAVIYO_STATE_DIR"] = str(home.root / "another")
    assert home.sync("events").success
    assert_complete(home, "events")
    return took


def cancel(home: Home, child: ChildProcess) -> None:
    """Do what the UI's button does: note that the run is to be cancelled, then signal it."""
    with open_instance(home.dagster_home) as instance:
        instance.report_run_canceling(instance.get_runs(limit=1)[0])
    os.kill(child.pid, signal.SIGTERM)


def status_of_last_run(home: Home) -> dg.DagsterRunStatus:
    """Return how Dagster says that the newest run ended."""
    with open_instance(home.dagster_home) as instance:
        return instance.get_runs(limit=1)[0].status


def wait_for_a_429(home: Home, child: ChildProcess) -> None:
    """Wait until the account has told a run to wait."""
    while not any(each.status == 429 for each in home.account.sandbox.journal.requests()):
        assert not child.has_ended(within=0.02)


def test_f44_two_runs_of_one_stream_at_once_leave_no_double(open_home: StartHome) -> None:
    """Two processes begin the same first sync: both end green, one of them after starting over."""
    home = open_home(events=4_000, latency_ms=150, future_events=0)
    children = [fork_sync(home, "events"), fork_sync(home, "events")]
    assert all(child.has_ended(within=300) for child in children)
    assert {child.exit_code for child in children} == {0}
    assert home.account.request_counts()[EVENTS] > 4
    assert_complete(home, "events")


@pytest.mark.takes(20)
def test_f45_a_first_sync_stays_below_half_a_gigabyte(open_home: StartHome) -> None:
    """160,000 events at 1,000 a page: the peak of the whole process is below 512 MiB.

    It is within a fifth of that of 40,000 events. Every event is stored.
    """
    few = measure_forked_peak(open_home(events=FEW, days=ACCOUNT_DAYS, gzip=False))
    home = open_home(events=MANY, days=ACCOUNT_DAYS, gzip=False)
    many = measure_forked_peak(home)
    assert many < 512 * 2**20, f"{many / 2**20:.0f} MiB"
    assert many <= few * 1.2, f"{few / 2**20:.0f} MiB, then {many / 2**20:.0f} MiB"
    assert stored_ids(home, "events") == sorted(home.account.true_ids("events"))
