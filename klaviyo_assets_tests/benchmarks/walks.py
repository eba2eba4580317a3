"""Counts what one piece of work passes through; `python -m klaviyo_assets_tests.benchmarks.walks`.

A profiler hook counts the calls of every function while Dagster materializes an asset in this
process, against the sandbox. From them come the product's files that were entered, and how often
the Delta log was opened and listed. No time is measured.
"""

import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import CodeType, FrameType

from deltalake import DeltaTable

import klaviyo_assets
from klaviyo_assets.lake.delta.log import handed_on_snapshots, list_commit_versions
from klaviyo_assets.lake.read.views import cached_tables
from klaviyo_assets_tests.benchmarks.report import markdown_table
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import Home, create_dagster_home
from klaviyo_assets_tests.e2e.report_runs import (
    FLOW_REPORT,
    report_metrics,
    run_partitions,
    set_metrics,
)
from klaviyo_assets_tests.e2e.sandbox_account import NOON, open_sandbox_account

PACKAGE_FOLDER = Path(klaviyo_assets.__file__).parent
PRODUCT_PREFIX = f"{PACKAGE_FOLDER}/"
SANDBOX_PREFIX = f"{PACKAGE_FOLDER / 'sandbox'}/"

FEW_EVENTS, MANY_EVENTS = 5_000, 15_000
EVENTS_PER_PAGE = 1_000

Calls = Counter[CodeType]


@contextmanager
def count_calls() -> Generator[Calls]:
    """Count the calls of every Python function, in this thread and in those that start now."""
    calls: Calls = Counter()

    def count(frame: FrameType, kind: str, _: object) -> None:
        if kind == "call":
            calls[frame.f_code] += 1

    threading.setprofile(count)
    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def count_run(run: Callable[[], bool]) -> Calls:
    """Return the calls that a run made, without what an earlier one left in memory."""
    handed_on_snapshots.clear()
    cached_tables.clear()
    with count_calls() as calls:
        succeeded = run()
    assert succeeded, "the run failed: see Dagster's log above"
    return calls


def calls_by_file(calls: Calls) -> Counter[str]:
    """Return how often functions of each file of the product were called, the sandbox aside."""
    files: Counter[str] = Counter()
    for code, count in calls.items():
        name = code.co_filename
        if name.startswith(PRODUCT_PREFIX) and not name.startswith(SANDBOX_PREFIX):
            files[name] += count
    return files


def files_of_one_page(few: Calls, many: Calls) -> int:
    """Return how many files every further page enters: their calls grow with each page."""
    more_pages = (MANY_EVENTS - FEW_EVENTS) // EVENTS_PER_PAGE
    before, after = calls_by_file(few), calls_by_file(many)
    return sum(count - before[name] >= more_pages for name, count in after.items())


def describe_walk(name: str, calls: Calls) -> tuple[str, str, str, str]:
    """Return the line of one run: files entered, opens and listings of the Delta log."""
    return (
        name,
        str(len(calls_by_file(calls))),
        str(calls[DeltaTable.__init__.__code__]),
        str(calls[list_commit_versions.__code__]),
    )


@contextmanager
def open_home(**sizes: object) -> Generator[Home]:
    """Open an installation of its own, for a small sandbox account."""
    with tempfile.TemporaryDirectory() as place, open_sandbox_account(**sizes) as account:
        root = Path(place)
        template = root / "template"
        template.mkdir()
        create_dagster_home(template, ROOT / "deploy" / "dagster.yaml")
        yield Home(account=account, root=root / "home", dagster_template=template)


def count_first_sync(events: int) -> Calls:
    """Return the calls of a first sync of so many events."""
    with open_home(events=events) as home:
        return count_run(lambda: home.sync("events").success)


def count_second_sync() -> Calls:
    """Return the calls of a sync that adds one commit to a table that is there."""
    with open_home(events=FEW_EVENTS) as home:
        assert home.sync("events").success
        home.account.advance_clock(days=1)
        home.account.add_events({"datetime": (NOON + timedelta(hours=1)).isoformat()})
        return count_run(lambda: home.sync("events").success)


def count_report_partition() -> Calls:
    """Return the calls of one report partition, into a table that holds another one."""
    with open_home(report_page=5_000, days=60, timezone="UTC") as home:
        home.settings |= {"KLAVIYO_TIMEZONE": "UTC", "KLAVIYO_REPORT_START_DATE": "2026-08-01"}
        assert home.sync("metrics", "campaigns", "flows").success
        set_metrics(home, report_metrics(home))
        metric, day = report_metrics(home)[0], NOON.date() - timedelta(days=5)
        first, second = (metric, day - timedelta(days=40)), (metric, day)
        assert run_partitions(home, FLOW_REPORT, first).run.success
        return count_run(lambda: run_partitions(home, FLOW_REPORT, second).run.success)


def main() -> None:
    """Count all, and print a table."""
    few, many = count_first_sync(FEW_EVENTS), count_first_sync(MANY_EVENTS)
    lines = [
        ("one page of events", str(files_of_one_page(few, many)), "", ""),
        describe_walk("first sync of events", few),
        describe_walk("second sync of events, one commit", count_second_sync()),
        describe_walk("one report partition, one commit", count_report_partition()),
    ]
    headings = ("work", "files entered", "opens of the Delta log", "listings of the Delta log")
    print(markdown_table(headings, lines))


if __name__ == "__main__":
    main()
