"""The drain goes on where it was when the daemon is killed and started again."""

import json
from collections import Counter
from collections.abc import Iterable
from datetime import date

import dagster as dg
import pytest

from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.report_daemon import (
    launched_runs,
    read_sensor_cursor,
    run_sensor_daemon,
)
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    days_between,
    report_metrics,
)
from klaviyo_assets_tests.e2e.report_ticks import RANGE_TAGS, book_requests
from klaviyo_assets_tests.e2e.test_report_sensors import DRAIN
from klaviyo_assets_tests.e2e.test_reports import NOW, report_home

LEFT = {FLOW_REPORT: 15, CAMPAIGN_REPORT: 100}
"""Requests that the day still has: enough for a run of each report, not for all there is to do."""


def partitions(runs: Iterable[dg.DagsterRun]) -> Counter[tuple[str, str, str]]:
    """Return how often each partition was launched: report, metric, day; of one metric or two."""
    found: Counter[tuple[str, str, str]] = Counter()
    for run in runs:
        (first, _, one), (last, _, other) = (run.tags[name].partition("|") for name in RANGE_TAGS)
        days = days_between(date.fromisoformat(first), date.fromisoformat(last))
        for metric in {one, other}:
            found.update((run.tags["klaviyo/drain"], metric, str(day)) for day in days)
    return found


def given(runs: Iterable[dg.DagsterRun]) -> Counter[str]:
    """Return how many requests the runs of each report may make."""
    found: Counter[str] = Counter()
    for run in runs:
        found[run.tags["klaviyo/drain"]] += int(run.tags["klaviyo/requests_at_most"])
    return found


def draining_home(open_home: StartHome) -> Home:
    """Return a home with two metrics to drain."""
    home = report_home(open_home, NOW)
    home.settings |= {
        "KLAVIYO_RATE_LIMIT_SCALE": "1",
        "KLAVIYO_CONVERSION_METRIC_IDS": ",".join(report_metrics(home)[:2]),
    }
    return home


def cancel(home: Home, runs: Iterable[dg.DagsterRun]) -> None:
    """Take runs out of the queue, as somebody does in the UI."""
    with open_instance(home.dagster_home) as instance:
        for run in runs:
            instance.report_run_canceled(run)


@pytest.mark.parametrize("moment", ["RUN_IDS_RESERVED", "RUN_CREATED", "RUN_LAUNCHED"])
def test_killed_in_mid_tick_it_launches_nothing_twice(open_home: StartHome, moment: str) -> None:
    """The next daemon launches the rest of the tick, no partition twice, within the quota."""
    home = draining_home(open_home)
    book_requests(home, {stream: 225 - left for stream, left in LEFT.items()})
    run_sensor_daemon(home, DRAIN, kill_point=moment)
    before = launched_runs(home, DRAIN)
    assert len(before) == (0 if moment == "RUN_IDS_RESERVED" else 1)
    run_sensor_daemon(home, DRAIN)
    runs = launched_runs(home, DRAIN)
    assert len(runs) > len(before)
    assert {run.run_id for run in before} <= {run.run_id for run in runs}
    assert {run.status for run in runs} == {dg.DagsterRunStatus.QUEUED}
    assert json.loads(read_sensor_cursor(home, DRAIN) or "") == {"ticks": 1}
    run_sensor_daemon(home, DRAIN)
    runs = launched_runs(home, DRAIN)
    assert set(partitions(runs).values()) == {1}
    assert given(runs) <= Counter(LEFT)


def test_its_counter_outlives_the_daemon(open_home: StartHome) -> None:
    """What is under way is left alone; what was cancelled is launched again, by a later tick."""
    home = draining_home(open_home)
    home.settings["KLAVIYO_REPORT_START_DATE"] = "2026-09-01"
    run_sensor_daemon(home, DRAIN)
    runs = launched_runs(home, DRAIN)
    # A run each: all days of the revenue metric come before the other metric's.
    assert Counter(report for report, _, _ in partitions(runs).elements()) == {
        FLOW_REPORT: 70,
        CAMPAIGN_REPORT: 70,
    }
    assert len(runs) == 2
    run_sensor_daemon(home, DRAIN)
    assert len(launched_runs(home, DRAIN)) == len(runs)
    assert json.loads(read_sensor_cursor(home, DRAIN) or "") == {"ticks": 1}
    cancel(home, runs)
    run_sensor_daemon(home, DRAIN)
    again = launched_runs(home, DRAIN)[len(runs) :]
    assert partitions(again) == partitions(runs)
    assert json.loads(read_sensor_cursor(home, DRAIN) or "") == {"ticks": 2}
