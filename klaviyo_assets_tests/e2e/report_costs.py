"""What reports cost, measured: `python -m klaviyo_assets_tests.e2e.report_costs`."""

import argparse
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.backfills import run_backfill
from klaviyo_assets_tests.e2e.home import Home, create_dagster_home
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    days_between,
    report_metrics,
    request_count,
    run_partitions,
    set_metrics,
)
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account
from klaviyo_assets_tests.e2e.test_reports import NOW

LAST_DAY = date(2026, 11, 9)
METRIC_COUNT, YEAR_DAYS = 20, 365
YEAR_QUERY = """
    SELECT f.conversion_metric_id, date_trunc('month', f.date), sum(f.conversion_value),
           sum(c.conversion_value), sum(f.recipients + c.recipients)
    FROM (SELECT conversion_metric_id, date, sum(conversion_value) AS conversion_value,
                 sum(recipients) AS recipients
          FROM klaviyo.flow_series_reports GROUP BY ALL) AS f
    JOIN (SELECT conversion_metric_id, date, sum(conversion_value) AS conversion_value,
                 sum(recipients) AS recipients
          FROM klaviyo.campaign_values_reports GROUP BY ALL) AS c USING (conversion_metric_id, date)
    GROUP BY ALL ORDER BY ALL
"""


@contextmanager
def open_report_home(first: date, **numbers: object) -> Generator[Home]:
    """Give a home whose reports begin at `first`, with twenty metrics that reports accept."""
    with (
        TemporaryDirectory() as folder,
        open_sandbox_account(now=NOW, timezone="UTC", **numbers) as account,
    ):
        root = Path(folder)
        (root / "blank").mkdir()
        dagster_template = create_dagster_home(root / "blank", ROOT / "deploy" / "dagster.yaml")
        home = Home(account=account, root=root / "home", dagster_template=dagster_template)
        home.settings["KLAVIYO_REPORT_START_DATE"] = first.isoformat()
        while len(report_metrics(home)) < METRIC_COUNT:
            account.mutate(create="custom-metric", set={"name": "One of many"})
        assert home.sync("metrics", "campaigns").success
        set_metrics(home, report_metrics(home)[:METRIC_COUNT])
        account.clear_journal()
        yield home


def measure_launch(stream: str, metrics: int, length: int) -> str:
    """Launch the newest days of some metrics as the asset page does; tell what they cost."""
    days = days_between(LAST_DAY - timedelta(days=length - 1), LAST_DAY)
    with open_report_home(
        days[0], days=length + 10, campaigns=40, flows=24, report_page=5000
    ) as home:
        wanted = [f"{day}|{each}" for day in days for each in report_metrics(home)[:metrics]]
        done = run_backfill(home, stream, wanted)
        return (
            f"{request_count(home, stream)} requests, {len(set(done.partitions))} partitions, "
            f"{len(done.runs)} runs, {done.status}"
        )


def count_requests(home: Home, stream: str, metrics: Sequence[str], first: date) -> int:
    """Fetch all days of some metrics in one run; return the requests."""
    home.account.clear_journal()
    done = run_partitions(home, stream, (metrics[0], first, metrics[-1], LAST_DAY))
    assert done.run.success, done.run.failures
    assert len(done.partitions) == len(metrics) * YEAR_DAYS
    return request_count(home, stream)


def measure_year() -> Iterator[tuple[str, str]]:
    """Yield what a year of twenty metrics costs, and how quickly it is read."""
    first = LAST_DAY - timedelta(days=YEAR_DAYS - 1)
    sizes = {"days": YEAR_DAYS + 15, "campaigns": 1000, "flows": 24, "report_page": 5000}
    with open_report_home(first, spread_share=0.02, **sizes) as home:
        metrics = report_metrics(home)[:METRIC_COUNT]
        name = f"{METRIC_COUNT} metrics x {YEAR_DAYS} days"
        yield (
            f"flow series, {name}",
            f"{count_requests(home, FLOW_REPORT, metrics, first)} requests",
        )
        one = count_requests(home, CAMPAIGN_REPORT, metrics[:1], first)
        others = count_requests(home, CAMPAIGN_REPORT, metrics[1:], first)
        figures = (
            f"{one + others} requests: {one} for the first metric, {others} for {METRIC_COUNT - 1}"
        )
        yield f"campaign values, {name}, 1,000 campaigns, 2 % spread", figures
        rows = home.row_count(FLOW_REPORT) + home.row_count(CAMPAIGN_REPORT)
        seconds: list[float] = []
        for _ in range(3):
            began = time.perf_counter()
            assert home.query(YEAR_QUERY)
            seconds.append(time.perf_counter() - began)
        yield f"DuckDB, both reports, {rows:,} rows", f"{min(seconds):.2f} to {max(seconds):.2f} s"


def measure_figures(only: str) -> Iterator[tuple[str, str]]:
    """Yield each figure with what it is about."""
    if only in "backfill":
        yield "flow series, backfill of 3 metrics x 90 days", measure_launch(FLOW_REPORT, 3, 90)
        for stream in (FLOW_REPORT, CAMPAIGN_REPORT):
            yield (
                f"{stream}, backfill of 20 metrics x 7 days",
                measure_launch(stream, METRIC_COUNT, 7),
            )
    if only in "year":
        yield from measure_year()


def main() -> int:
    """Measure, and print a line a figure."""
    found = argparse.ArgumentParser(description=__doc__)
    found.add_argument("--only", default="", choices=("", "backfill", "year"))
    for name, figures in measure_figures(found.parse_args().only):
        sys.stdout.write(f"{name:<62} {figures}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
