"""A backfill of reports leaves a place in the run queue: the hourly sync starts at once."""

from collections import Counter
from datetime import UTC, datetime

import dagster as dg
import pytest

from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.daemons import run_daemon, run_dagster_command
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    report_metrics,
    set_metrics,
)
from klaviyo_assets_tests.e2e.test_report_sensors import DRAIN
from klaviyo_assets_tests.timing import scale_to_load

COLLECTIONS = ("accounts", "campaigns", "metrics")


def busy_home(open_home: StartHome) -> Home:
    """Return a home with hours of reports to fetch, at Klaviyo's two requests a minute."""
    home = open_home(now=datetime.now(UTC), timezone="America/New_York", days=60, report_page=5000)
    home.settings["KLAVIYO_REPORT_START_DATE"] = "2025-01-01"
    home.settings["KLAVIYO_STREAMS"] = ",".join((*COLLECTIONS, FLOW_REPORT, CAMPAIGN_REPORT))
    run = home.sync(*COLLECTIONS)
    assert run.success, run.failures
    set_metrics(home, report_metrics(home))
    home.settings["KLAVIYO_RATE_LIMIT_SCALE"] = "1"
    return home


@pytest.mark.takes(70)
def test_the_hourly_job_starts_within_seconds(open_home: StartHome) -> None:
    """One run of each report is under way, and the collections find a place at once."""
    home = busy_home(open_home)
    with run_daemon(home) as daemon:
        reports = {"klaviyo__drain": FLOW_REPORT}, {"klaviyo__drain": CAMPAIGN_REPORT}
        daemon.wait_for(lambda: all(daemon.runs(**tags) for tags in reports))
        daemon.wait_for(
            lambda: all(
                run.status is dg.DagsterRunStatus.STARTED
                for tags in reports
                for run in daemon.runs(**tags)
            )
        )
        # As a schedule puts it into the queue.
        run_dagster_command("job", "launch", "-j", "klaviyo_collections")
        daemon.wait_for(lambda: daemon.seconds_in_queue("klaviyo_collections") is not None)
        waited = daemon.seconds_in_queue("klaviyo_collections")
        assert waited is not None
        assert waited < scale_to_load(30)
        drains = [run for tags in reports for run in daemon.runs(**tags)]
        assert {run.status for run in drains} == {dg.DagsterRunStatus.STARTED}
        assert Counter(run.tags["klaviyo/drain"] for run in drains) == {
            FLOW_REPORT: 1,
            CAMPAIGN_REPORT: 1,
        }
        # A further look launches nothing, and asks Klaviyo nothing.
        home.account.clear_journal()
        looks = len(daemon.ticks(DRAIN))
        daemon.wait_for(lambda: len(daemon.ticks(DRAIN)) > looks)
        (look, *_) = daemon.ticks(DRAIN)
        assert not look.run_ids
        assert "under way" in str(look.skip_reason)
        assert home.account.request_counts()["/api/accounts"] <= 1
