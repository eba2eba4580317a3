"""The system's Chromium, and a Dagster to look at."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from klaviyo_assets_tests.browser.dagster_dev import dagster_dev
from klaviyo_assets_tests.browser.screen import Screen, screen_of
from klaviyo_assets_tests.e2e.conftest import StartHome, blank, start
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import metrics_of

__all__ = ["blank", "start"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ZONE = "America/New_York"
DAYS = 30


@pytest.fixture(scope="session")
def chromium() -> str:
    """Give the path of the system's Chromium."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is on the PATH")
    return found


@pytest.fixture
def new_york(start: StartHome) -> Home:
    """Give a home for an account in New York whose clock is this machine's.

    Its reports are of 30 days and three metrics, the last of which Klaviyo refuses.
    """
    home = start(now=datetime.now(UTC), frozen=False, timezone=ZONE, days=60)
    shop = home.shop.sandbox.shop
    accepted = metrics_of(home)
    listed = [shop.metrics.id_of(number) for number in shop.metrics.order("id")]
    refused = next(each for each in listed if each not in accepted)
    home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = ",".join([*accepted[:2], refused])
    # What runs is what is pressed.
    home.settings["KLAVIYO_AUTOMATION"] = "off"
    # Two days ago: the test may run across midnight in New York.
    last = datetime.now(ZoneInfo(ZONE)).date() - timedelta(days=2)
    home.settings["KLAVIYO_REPORT_START_DATE"] = f"{last - timedelta(days=DAYS - 1)}"
    return home


@pytest.fixture
def screen(new_york: Home, chromium: str, tmp_path: Path) -> Iterator[Screen]:
    """Give a browser window on the UI of that home; pictures lie in the test's folder."""
    with dagster_dev(new_york) as url, screen_of(url, chromium, tmp_path / "pictures") as window:
        yield window
