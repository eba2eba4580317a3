"""The quota is money: it is never overspent, and a kill wastes at most one request."""

import signal
from contextlib import closing
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import pytest

from klaviyo_assets.api.rate_limiter import DailyQuota, RateLimiter
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.crash_hooks import KillAt
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.killed_report_run import KilledReportRun, run_until_killed
from klaviyo_assets_tests.e2e.report_runs import (
    FLOW_REPORT,
    assert_rows_match,
    days_between,
    report_metrics,
    request_count,
    run_partitions,
)
from klaviyo_assets_tests.e2e.report_ticks import book_requests
from klaviyo_assets_tests.e2e.test_reports import NOW, report_home
from klaviyo_assets_tests.forkserver import FORKSERVER

FIRST, LAST = date(2026, 9, 8), date(2026, 11, 9)
"""63 days: two requests of flow series."""


def run_killed(home: Home, kill_at: KillAt, partition_range: tuple[str, str]) -> None:
    """Run the partitions between two keys in a process that kills itself."""
    run = KilledReportRun(
        variables=home.variables,
        dagster_home=home.dagster_home,
        stream=FLOW_REPORT,
        partition_range=partition_range,
        kill_at=kill_at,
    )
    process = FORKSERVER.Process(target=run_until_killed, args=(run,))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL


def read_quota(home: Home) -> DailyQuota:
    """Return what the ledger says of the flow series' day."""
    state = Lake(home.data_dir, clock=datetime.now).read_table_state("metrics")
    assert state is not None
    with closing(RateLimiter(Path(home.variables["KLAVIYO_STATE_DIR"]), state.account)) as ledger:
        return ledger.daily_quota(STREAMS[FLOW_REPORT].rate_limit_buckets()[0])


RESERVED = KillAt("after reserving a request", count=2, since="before requesting a report")


@pytest.mark.parametrize(
    ("kill_at", "sent", "booked"),
    [
        (KillAt("before requesting a report", count=2), 2, 2),
        (RESERVED, 2, 3),
        (KillAt("before caching a response", count=2), 3, 3),
        (KillAt("after caching a response", count=2), 2, 2),
        (KillAt("after storing partitions", count=2), 2, 2),
        (KillAt("after recording partitions", count=2), 2, 2),
    ],
    ids=lambda each: each.point if isinstance(each, KillAt) else str(each),
)
def test_a_kill_wastes_at_most_one_request(
    open_home: StartHome, kill_at: KillAt, sent: int, booked: int
) -> None:
    """A launch killed at its second request is repeated: nothing is lost, one request at most."""
    home = report_home(open_home, NOW)
    # One request each: a metric's second one would need 61 days, and a partition for each.
    metrics, days = report_metrics(home)[:2], days_between(date(2026, 11, 5), LAST)
    run_killed(home, kill_at, (f"{days[0]}|{metrics[0]}", f"{LAST}|{metrics[1]}"))
    done = run_partitions(home, FLOW_REPORT, (metrics[0], days[0], metrics[1], LAST))
    assert done.run.success, done.run.failures
    assert done.partitions == dict.fromkeys([(each, day) for each in metrics for day in days], 1)
    for metric in metrics:
        assert assert_rows_match(home, FLOW_REPORT, metric, days)
    assert (request_count(home, FLOW_REPORT), read_quota(home).used) == (sent, booked)


def test_the_last_request_of_the_day_is_made_and_no_more(open_home: StartHome) -> None:
    """At 224 one request is made; what it brought is stored, and the run ends in one sentence."""
    home = report_home(open_home, NOW)
    home.settings["KLAVIYO_RATE_LIMIT_SCALE"] = "1"
    book_requests(home, {FLOW_REPORT: 224})
    metric = report_metrics(home)[0]
    done = run_partitions(home, FLOW_REPORT, (metric, FIRST, metric, LAST))
    assert not done.run.success
    assert request_count(home, FLOW_REPORT) == 1
    message = done.run.failures[FLOW_REPORT]
    assert "60 partitions stored, 3 partitions of 1 metric left" in message
    assert "The next one can go at 20" in message
    assert "Launch the rest then; the sensor klaviyo_reports_drain" in message
    assert done.run.attempts[FLOW_REPORT] == 1
    assert len(done.partitions) == 60
    assert assert_rows_match(home, FLOW_REPORT, metric, days_between(date(2026, 9, 11), LAST))
    again = run_partitions(home, FLOW_REPORT, (metric, FIRST, metric, date(2026, 9, 10)))
    assert "0 partitions stored, 3 partitions of 1 metric left" in again.run.failures[FLOW_REPORT]
    assert request_count(home, FLOW_REPORT) == 1


def test_killed_with_the_last_request_booked(open_home: StartHome) -> None:
    """After the 225th request was booked and never sent, no process sends another that day."""
    home = report_home(open_home, NOW)
    home.settings["KLAVIYO_RATE_LIMIT_SCALE"] = "1"
    book_requests(home, {FLOW_REPORT: 224})
    metric = report_metrics(home)[0]
    run_killed(home, replace(RESERVED, count=1), (f"{FIRST}|{metric}", f"{LAST}|{metric}"))
    done = run_partitions(home, FLOW_REPORT, (metric, FIRST, metric, LAST))
    assert "0 partitions stored" in done.run.failures[FLOW_REPORT]
    assert request_count(home, FLOW_REPORT) == 0
    assert read_quota(home).remaining == 0


def test_klaviyos_own_word_ends_the_run(open_home: StartHome) -> None:
    """A 429 with a wait of hours ends the run at once; the next run knows of it."""
    home = report_home(open_home, NOW)
    metric = report_metrics(home)[0]
    match = {"path": "/api/flow-series-reports"}
    with home.account.inject_fault("throttle", match=match, retry_after="73473"):
        done = run_partitions(home, FLOW_REPORT, (metric, FIRST, metric, LAST))
    assert not done.run.success
    assert "0 partitions stored, 63 partitions of 1 metric left" in done.run.failures[FLOW_REPORT]
    assert request_count(home, FLOW_REPORT) == 1
    again = run_partitions(home, FLOW_REPORT, (metric, FIRST, metric, LAST))
    assert not again.run.success
    assert request_count(home, FLOW_REPORT) == 1
