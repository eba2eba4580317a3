"""A backfill of reports leaves a place in the run queue: the hourly sync starts at once."""

import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import dagster as dg

from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.daemon_turns import (
    fork_runs,
    kill_runs,
    open_workspace,
    read_ticks,
    start_an_hour_ago,
    turn_queue,
    turn_schedules,
    turn_sensors,
)
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    report_metrics,
    set_metrics,
)
from klaviyo_assets_tests.e2e.test_report_sensors import DRAIN

COLLECTIONS = ("accounts", "campaigns", "metrics")
REPORTS = (FLOW_REPORT, CAMPAIGN_REPORT)
HOURLY_JOB = "klaviyo_collections"
HOURLY_TAG, DRAIN_TAG = "dagster/schedule_name", "klaviyo/drain"
Status = dg.DagsterRunStatus
TIMEOUT_SECONDS = 300


def busy_home(open_home: StartHome) -> Home:
    """Return a home with minutes of reports to fetch, at Klaviyo's two requests a minute."""
    home = open_home(now=datetime.now(UTC), timezone="America/New_York", days=60, report_page=5000)
    home.settings["KLAVIYO_REPORT_START_DATE"] = f"{datetime.now(UTC) - timedelta(days=240):%F}"
    home.settings["KLAVIYO_STREAMS"] = ",".join((*COLLECTIONS, *REPORTS))
    run = home.sync(*COLLECTIONS)
    assert run.success, run.failures
    set_metrics(home, report_metrics(home))
    home.settings["KLAVIYO_RATE_LIMIT_SCALE"] = "1"
    fork_runs(home)
    return home


def wait_for(claim: Callable[[], bool]) -> None:
    """Wait until something has happened."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not claim():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)


def runs_by_status(instance: dg.DagsterInstance, tag: str) -> Counter[dg.DagsterRunStatus]:
    """Count the runs with a tag by their status."""
    return Counter(run.status for run in instance.get_runs() if tag in run.tags)


def test_the_hourly_job_does_not_wait(open_home: StartHome) -> None:
    """One run of each report is under way, and the next turn of the queue launches collections."""
    home = busy_home(open_home)
    with open_workspace(home) as workspace:
        instance = workspace.instance
        try:
            turn_sensors(workspace)
            turn_queue(workspace)
            wait_for(lambda: runs_by_status(instance, DRAIN_TAG) == {Status.STARTED: 2})
            start_an_hour_ago(workspace, HOURLY_JOB)
            turn_schedules(workspace)
            assert runs_by_status(instance, HOURLY_TAG) == {Status.QUEUED: 1}
            turn_queue(workspace)
            assert not runs_by_status(instance, HOURLY_TAG)[Status.QUEUED]
            wait_for(lambda: runs_by_status(instance, HOURLY_TAG) == {Status.SUCCESS: 1})
            assert runs_by_status(instance, DRAIN_TAG) == {Status.STARTED: 2}
            assert {run.tags.get(DRAIN_TAG) for run in instance.get_runs()} == {None, *REPORTS}
            # A further look launches nothing, and asks Klaviyo nothing.
            home.account.clear_journal()
            looks = len(read_ticks(instance, DRAIN))
            turn_sensors(workspace)
            look, *before = read_ticks(instance, DRAIN)
            assert len(before) == looks
            assert not look.run_ids
            assert "under way" in str(look.skip_reason)
            assert home.account.request_counts()["/api/accounts"] <= 1
        finally:
            kill_runs(instance)
