"""A killed run worker whose step process lives on: what it still commits neither doubles nor loses.

In the job of several processes each stream has a process of its own. `kill -9` of the run worker
leaves them running and writing; the lake's optimistic commit is the fence.
"""

import os
import select
from collections.abc import Callable
from pathlib import Path

import pytest

from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.processes import ChildProcess, fork_parallel_sync

EVENTS = "/api/events"

pytestmark = [
    pytest.mark.usefixtures("fast_retries"),
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="watches processes by pidfd"),
]


def wait_for(claim: Callable[[], bool], child: ChildProcess) -> None:
    """Wait until something holds, while a process lives that makes it so."""
    while not claim():
        assert not child.has_ended(within=0.02)


def step_pid(home: Home) -> int | None:
    """Return the process of the step that reads events, as the event log has it."""
    with open_instance(home.dagster_home) as instance:
        for run in instance.get_runs(limit=1):
            for entry in instance.all_logs(run.run_id):
                event = entry.dagster_event
                if event is not None and event.is_step_start:
                    return event.pid
    return None


def orphan_of(home: Home, *, pages: int) -> int:
    """Start the job of several processes, kill its run worker after some pages; return the step."""
    child = fork_parallel_sync(home, "events")
    wait_for(lambda: home.account.request_counts()[EVENTS] >= pages, child)
    found = step_pid(home)
    assert found is not None
    assert found != child.pid
    child.kill()
    return found


def outlive(pid: int) -> None:
    """Wait for the end of a process that is no child of ours; end it if it does not come."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([watched], [], [], 300)
        if not ready:
            os.kill(pid, 9)
        assert ready, "the orphan did not come to its end"
    finally:
        os.close(watched)


def is_alive(pid: int) -> bool:
    """Tell whether a process is there."""
    return Path(f"/proc/{pid}").exists()


def test_an_orphan_finishes_what_it_began(open_home: StartHome) -> None:
    """The step of a killed run worker commits all the same; the next run reads only the new."""
    home = open_home(events=12_000, latency_ms=40, future_events=0)
    orphan = orphan_of(home, pages=3)
    assert is_alive(orphan)
    outlive(orphan)
    assert sorted(map(str, home.lake_ids("events"))) == sorted(home.account.true_ids("events"))
    home.account.clear_journal()
    assert home.sync("events").success
    assert home.account.shown_record_counts(EVENTS).total() < 200
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))


def test_an_orphan_and_the_next_run_keep_apart(open_home: StartHome) -> None:
    """Of a run and an orphan that still writes, one loses its commit, and no row is lost."""
    home = open_home(events=12_000, latency_ms=40, future_events=0)
    orphan = orphan_of(home, pages=3)
    assert is_alive(orphan)
    beside = home.sync("events")
    outlive(orphan)
    if not beside.success:
        assert "another run committed" in beside.failures["events"]
    after = home.sync("events")
    assert after.success
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))
