"""What reports cost, measured: `python -m klaviyo_assets_tests.e2e.report_figures`.

What belongs here: the figures that are promised, each from real runs against the sandbox, as a
table on the screen. What does not: judging (the tests). Some minutes; a word chooses some cases.
"""

import argparse
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.backfills import backfill
from klaviyo_assets_tests.e2e.home import Home, blank_home
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGNS,
    FLOWS,
    days_between,
    fetch,
    metrics_of,
    requests,
    set_metrics,
)
from klaviyo_assets_tests.e2e.shop import open_shop
from klaviyo_assets_tests.e2e.test_reports import NOW

LAST = date(2026, 11, 9)
METRICS, YEAR = 20, 365
QUERY = """
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
def home_of(first: date, **numbers: object) -> Generator[Home]:
    """Give a home whose reports begin at `first`, with twenty metrics that reports accept."""
    with TemporaryDirectory() as folder, open_shop(now=NOW, timezone="UTC", **numbers) as shop:
        root = Path(folder)
        (root / "blank").mkdir()
        blank = blank_home(root / "blank", ROOT / "deploy" / "dagster.yaml")
        home = Home(shop=shop, root=root / "home", blank=blank)
        home.settings["KLAVIYO_REPORT_START_DATE"] = first.isoformat()
        while len(metrics_of(home)) < METRICS:
            shop.mutate(create="custom-metric", set={"name": "One of many"})
        assert home.sync("metrics", "campaigns").success
        set_metrics(home, metrics_of(home)[:METRICS])
        shop.forget()
        yield home


def launched(stream: str, metrics: int, length: int) -> str:
    """Launch the newest days of some metrics as the asset page does; tell what they cost."""
    days = days_between(LAST - timedelta(days=length - 1), LAST)
    with home_of(days[0], days=length + 10, campaigns=40, flows=24, report_page=5000) as home:
        wanted = [f"{day}|{each}" for day in days for each in metrics_of(home)[:metrics]]
        done = backfill(home, stream, wanted)
        return (
            f"{requests(home, stream)} requests, {len(set(done.partitions))} partitions, "
            f"{len(done.runs)} runs, {done.status}"
        )


def asked_for(home: Home, stream: str, metrics: Sequence[str], first: date) -> int:
    """Fetch all days of some metrics in one run; return the requests."""
    home.shop.forget()
    done = fetch(home, stream, (metrics[0], first, metrics[-1], LAST))
    assert done.run.success, done.run.failed
    assert len(done.partitions) == len(metrics) * YEAR
    return requests(home, stream)


def year() -> Iterator[tuple[str, str]]:
    """Yield what a year of twenty metrics costs, and how quickly it is read."""
    first = LAST - timedelta(days=YEAR - 1)
    sizes = {"days": YEAR + 15, "campaigns": 1000, "flows": 24, "report_page": 5000}
    with home_of(first, spread_share=0.02, **sizes) as home:
        metrics = metrics_of(home)[:METRICS]
        name = f"{METRICS} metrics x {YEAR} days"
        yield f"flow series, {name}", f"{asked_for(home, FLOWS, metrics, first)} requests"
        one = asked_for(home, CAMPAIGNS, metrics[:1], first)
        others = asked_for(home, CAMPAIGNS, metrics[1:], first)
        told = f"{one + others} requests: {one} for the first metric, {others} for {METRICS - 1}"
        yield f"campaign values, {name}, 1,000 campaigns, 2 % spread", told
        rows = home.count(FLOWS) + home.count(CAMPAIGNS)
        seconds: list[float] = []
        for _ in range(3):
            began = time.perf_counter()
            assert home.query(QUERY)
            seconds.append(time.perf_counter() - began)
        yield f"DuckDB, both reports, {rows:,} rows", f"{min(seconds):.2f} to {max(seconds):.2f} s"


def figures(only: str) -> Iterator[tuple[str, str]]:
    """Yield each figure with what it is about."""
    if only in "backfill":
        yield "flow series, backfill of 3 metrics x 90 days", launched(FLOWS, 3, 90)
        for stream in (FLOWS, CAMPAIGNS):
            yield f"{stream}, backfill of 20 metrics x 7 days", launched(stream, METRICS, 7)
    if only in "year":
        yield from year()


def main() -> int:
    """Measure, and print a line a figure."""
    found = argparse.ArgumentParser(description=__doc__)
    found.add_argument("--only", default="", choices=("", "backfill", "year"))
    for name, told in figures(found.parse_args().only):
        sys.stdout.write(f"{name:<62} {told}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
