"""Backfills from the asset page: however Dagster cuts them, each response is requested once."""

import re
from collections import Counter
from datetime import date

import pytest

from klaviyo_assets_tests.e2e.backfills import run_backfill
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    REPORT_PATHS,
    assert_rows_match,
    days_between,
    report_metrics,
    request_count,
    run_partitions,
)
from klaviyo_assets_tests.e2e.test_reports import NOW, report_home


def test_two_metrics_and_more_than_sixty_days_cost_four(open_home: StartHome) -> None:
    """124 partitions are materialized once each, by two requests a metric."""
    home = report_home(open_home, NOW)
    metrics = report_metrics(home)[:2]
    days = days_between(date(2026, 9, 9), date(2026, 11, 9))
    wanted = [f"{day}|{metric}" for day in days for metric in metrics]
    done = run_backfill(home, FLOW_REPORT, wanted)
    assert done.status == "COMPLETED_SUCCESS", [run.status for run in done.runs]
    assert Counter(done.partitions) == dict.fromkeys(wanted, 1)
    assert request_count(home, FLOW_REPORT) == 4


def test_runs_of_a_day_each_share_the_answers(open_home: StartHome) -> None:
    """More metrics than days: a run a day for all metrics, and one request a metric."""
    home = report_home(open_home, NOW)
    metrics = report_metrics(home)[:4]
    days = days_between(date(2026, 10, 1), date(2026, 10, 3))
    done = run_backfill(
        home, FLOW_REPORT, [f"{day}|{metric}" for day in days for metric in metrics]
    )
    assert done.status == "COMPLETED_SUCCESS"
    assert len(done.runs) == 3
    assert request_count(home, FLOW_REPORT) == 4
    for metric in metrics:
        assert_rows_match(home, FLOW_REPORT, metric, days)


def questions(home: Home) -> Counter[tuple[str, ...]]:
    """Return what was asked of campaign values, a message at a time: metric, time frame, id."""
    requested = [
        each["data"]["attributes"]
        for each in home.account.request_bodies(REPORT_PATHS[CAMPAIGN_REPORT])
    ]
    return Counter(
        (each["conversion_metric_id"], *sorted(each["timeframe"].values()), message_id)
        for each in requested
        for message_id in re.findall(r'"(\w+)"', each.get("filter") or "") or [""]
    )


@pytest.mark.takes(20)
@pytest.mark.parametrize(("metric_count", "first"), [(4, 5), (2, 4)], ids=["by day", "by metric"])
def test_runs_at_once_place_totals_as_one_run_would(
    open_home: StartHome, metric_count: int, first: int
) -> None:
    """However a backfill is cut, its runs together send the requests of one run."""
    home, whole = (report_home(open_home, NOW, days=14, spread_share=0.6) for _ in range(2))
    metrics = report_metrics(home)[:metric_count]
    days = days_between(date(2026, 11, first), date(2026, 11, 7))
    wanted = [f"{day}|{metric}" for day in days for metric in metrics]
    # A slow answer, so that every run is there while the first one asks.
    with home.account.inject_fault(
        "latency", match={"path": REPORT_PATHS[CAMPAIGN_REPORT], "nth": 1}, seconds=4
    ):
        done = run_backfill(home, CAMPAIGN_REPORT, wanted)
    assert done.status == "COMPLETED_SUCCESS"
    assert len(done.runs) == min(len(metrics), len(days))
    assert set(questions(home).values()) == {1}
    for metric in metrics:
        assert assert_rows_match(home, CAMPAIGN_REPORT, metric, days)
    assert run_partitions(
        whole, CAMPAIGN_REPORT, (metrics[0], days[0], metrics[-1], days[-1])
    ).run.success
    assert len(questions(whole)) > len(metrics)
    assert questions(home).total() == questions(whole).total()
