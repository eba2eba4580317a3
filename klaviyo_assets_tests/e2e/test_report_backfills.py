"""Backfills from the asset page: however Dagster cuts them, each answer is paid once."""

from collections import Counter
from datetime import date

from klaviyo_assets_tests.e2e.backfills import backfill
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.report_runs import (
    FLOWS,
    compare,
    days_between,
    metrics_of,
    requests,
)
from klaviyo_assets_tests.e2e.test_reports import NOW, report_home


def test_three_metrics_and_ninety_days_cost_six(start: StartHome) -> None:
    """270 partitions are materialized once each, by two requests a metric."""
    home = report_home(start, NOW)
    metrics = metrics_of(home)[:3]
    days = days_between(date(2026, 8, 12), date(2026, 11, 9))
    wanted = [f"{day}|{metric}" for day in days for metric in metrics]
    done = backfill(home, FLOWS, wanted)
    assert done.status == "COMPLETED_SUCCESS", [run.status for run in done.runs]
    assert Counter(done.partitions) == dict.fromkeys(wanted, 1)
    assert requests(home, FLOWS) == 6


def test_runs_of_a_day_each_share_the_answers(start: StartHome) -> None:
    """More metrics than days: a run a day for all metrics, and one request a metric."""
    home = report_home(start, NOW)
    metrics = metrics_of(home)[:4]
    days = days_between(date(2026, 10, 1), date(2026, 10, 3))
    done = backfill(home, FLOWS, [f"{day}|{metric}" for day in days for metric in metrics])
    assert done.status == "COMPLETED_SUCCESS"
    assert len(done.runs) == 3
    assert requests(home, FLOWS) == 4
    for metric in metrics:
        compare(home, FLOWS, metric, days)
