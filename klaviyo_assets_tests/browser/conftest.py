"""The system's Chromium, and a Dagster to look at."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from klaviyo_assets_tests.browser.dagster_dev import run_dagster_dev
from klaviyo_assets_tests.browser.screen import BrowserWindow, open_browser_window
from klaviyo_assets_tests.e2e.conftest import StartHome, dagster_template, open_home
from klaviyo_assets_tests.e2e.daemon_turns import fork_runs
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import report_metrics

__all__ = ["dagster_template", "open_home"]

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIME_ZONE = "America/New_York"
REPORT_DAYS = 8
STREAMS = (
    "accounts,campaigns,campaign_values_reports,events,events_detailed,flow_series_reports,flows,"
    "lists,lists_detailed,metrics,profiles"
)
"""What is pressed and looked at, and what that needs."""


@pytest.fixture(scope="session")
def chromium() -> str:
    """Give the path of the system's Chromium."""
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if found is None:
        pytest.skip(f"no Chromium: none of {', '.join(CHROMIUM_NAMES)} is on the PATH")
    return found


@pytest.fixture
def new_york(open_home: StartHome) -> Home:
    """Give a home for an account in New York whose clock stands at this machine's time.

    It stands, because opens of the last weeks come in every hour: figures stored at one minute
    would differ from the truth of a later one.

    Its reports are of some days and three metrics, the last of which Klaviyo refuses. Its runs are
    forked: that Dagster starts a process for a run is shown by `test_automation.py`.
    """
    home = open_home(now=datetime.now(UTC), frozen=True, timezone=TIME_ZONE, days=60)
    store = home.account.sandbox.store
    accepted = report_metrics(home)
    listed = [store.metrics.id_of(number) for number in store.metrics.sorted_ordinals("id")]
    refused = next(each for each in listed if each not in accepted)
    home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = ",".join([*accepted[:2], refused])
    home.settings["KLAVIYO_STREAMS"] = STREAMS
    fork_runs(home)
    # What runs is what is pressed.
    home.settings["KLAVIYO_AUTOMATION"] = "off"
    # Two days ago: the test may run across midnight in New York.
    last = datetime.now(ZoneInfo(TIME_ZONE)).date() - timedelta(days=2)
    home.settings["KLAVIYO_REPORT_START_DATE"] = f"{last - timedelta(days=REPORT_DAYS - 1)}"
    return home


@pytest.fixture
def screen(new_york: Home, chromium: str, tmp_path: Path) -> Iterator[BrowserWindow]:
    """Give a browser window on the UI of that home; pictures lie in the test's folder."""
    with (
        run_dagster_dev(new_york) as url,
        open_browser_window(url, chromium, tmp_path / "pictures") as window,
    ):
        yield window
