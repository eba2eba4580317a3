"""What a new user presses first, pressed: every launch ends green, and the rows are there.

One test, because the presses are one story on one Dagster: the backfill's daemon looks every
thirty seconds, and in the meantime the other buttons are pressed.
"""

import re
from datetime import date, timedelta

import pytest
from playwright.sync_api import expect

from klaviyo_assets_tests.browser.conftest import REPORT_DAYS
from klaviyo_assets_tests.browser.screen import (
    BACKFILL_STATUS,
    SENSOR_RUN_STATUSES,
    BrowserWindow,
)
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    REPORT_PATHS,
    assert_rows_match,
    days_between,
    stored_rows,
)
from klaviyo_assets_tests.e2e.test_report_sensors import DRAIN

UNCHANGED = """ops:
  klaviyo__campaigns:
    config:
      confirm_shrink: false
      end: ""
      start: ""
      sync_mode: incremental_deduped
resources: {}"""


MOST_USED_PAGES = {
    "timeline": ("overview/activity/timeline", ("klaviyo_collections",)),
    "group": ("locations/klaviyo_assets/asset-groups/audience/list", ("profiles", "lists")),
    "lineage": ("locations/klaviyo_assets/asset-groups/events/lineage", ("events_detailed",)),
    "events": ("assets/klaviyo/events", ("One row per event", "klaviyo_late_events")),
    "materializations": (
        "assets/klaviyo/campaigns?view=events",
        ("klaviyo/preview", "klaviyo/records_read"),
    ),
    "report": ("assets/klaviyo/flow_series_reports?view=partitions", ("Missing",)),
    "checks": ("assets/klaviyo/events?view=checks", ("key_is_unique",)),
    "health": ("assets/klaviyo/health", ("How healthy each stream is",)),
    "overview": ("assets/klaviyo/marketing_overview", ("people who know no SQL",)),
    "runs": ("runs/{run}", ("klaviyo_collections", "Success")),
    "jobs": ("jobs", ("klaviyo_first_sync", "klaviyo_checks")),
    "automation": ("automation", ("klaviyo_collections",)),
    "backfills": ("runs/b/{backfill}", ("Succeeded",)),
}
"""The pages that people open most, each with what must be on it."""

TROUBLE = re.compile(
    r"unexpected error|went wrong|not found|could not be loaded|PythonError", re.IGNORECASE
)


@pytest.mark.takes(100)
def test_the_buttons_do_what_they_say(
    new_york: Home, screen: BrowserWindow, subtests: pytest.Subtests
) -> None:
    """A job, Materialize, the launchpad, a backfill and a sensor, on an account in New York."""
    run = backfill = ""
    with subtests.test("a job from its page"):
        run = press_a_job(new_york, screen)
    with subtests.test("a backfill is launched"):
        backfill = press_a_backfill(new_york, screen)
    with subtests.test("Materialize on an asset's page"):
        press_materialize(new_york, screen)
    with subtests.test("the launchpad"):
        press_the_launchpad(new_york, screen)
    with subtests.test("a sensor is switched on"):
        press_a_sensor(new_york, screen)
    with subtests.test("the backfill has ended"):
        check_backfill(new_york, screen, backfill)
    for name, (path, words) in MOST_USED_PAGES.items():
        with subtests.test("a page", name=name):
            look_at_page(screen, name, path.format(run=run, backfill=backfill), words)
    with subtests.test("the browser's console"):
        assert screen.complaints == []


def press_a_job(home: Home, screen: BrowserWindow) -> str:
    """Press Materialize all on the page of the hourly job: every collection is there.

    Returns the id of its run.
    """
    screen.open("locations/klaviyo_assets/jobs/klaviyo_collections")
    screen.find_button("Materialize all").click()
    run = screen.follow_notice("Launched run")
    screen.wait_for_success(run)
    screen.take_screenshot("job")
    for stream in ("accounts", "events", "metrics", "profiles"):
        assert sorted(home.ids(stream)) == sorted(home.account.true_ids(stream))
    assert home.row_count("events_detailed") == home.row_count("events")
    return run


def look_at_page(screen: BrowserWindow, name: str, path: str, words: tuple[str, ...]) -> None:
    """Open a page, and keep a picture of it once what must be there is to be seen."""
    screen.open(path)
    for text in words:
        screen.page.get_by_text(text).first.wait_for()
    screen.take_screenshot(f"page-{name}")
    assert not TROUBLE.search(screen.page.locator("body").inner_text()), name


def press_materialize(home: Home, screen: BrowserWindow) -> None:
    """Press Materialize on the page of an asset that was never read."""
    run = screen.materialize("klaviyo/lists_detailed")
    screen.wait_for_success(run)
    assert sorted(home.ids("lists_detailed")) == sorted(home.account.true_ids("lists"))
    screen.open("assets/klaviyo/lists_detailed")
    screen.take_screenshot("asset", once="Latest check results")
    expect(screen.page.get_by_text("Never materialized")).to_have_count(0)


def press_the_launchpad(home: Home, screen: BrowserWindow) -> None:
    """Launch from the launchpad: what it shows, everything again, and one window again."""
    screen.open_launchpad("klaviyo/campaigns")
    assert screen.read_editor() == UNCHANGED
    screen.take_screenshot("launchpad")
    screen.wait_for_success(screen.launch_from_launchpad())
    assert sorted(home.ids("campaigns")) == sorted(home.account.true_ids("campaigns"))

    screen.open_launchpad("klaviyo/campaigns")
    screen.set_option("sync_mode", "full_refresh_overwrite")
    screen.take_screenshot("launchpad-full-refresh")
    before = home.account.shown_record_counts("/api/campaigns")
    screen.wait_for_success(screen.launch_from_launchpad())
    assert (
        home.account.shown_record_counts("/api/campaigns") - before
    ).keys() == home.account.true_ids("campaigns")
    assert sorted(home.ids("campaigns")) == sorted(home.account.true_ids("campaigns"))

    start = home.account.now - timedelta(days=20)
    end = start + timedelta(days=10)
    screen.open_launchpad("klaviyo/events")
    screen.set_option("start", f'"{start:%Y-%m-%d}"')
    screen.set_option("end", f'"{end:%Y-%m-%d}"')
    screen.take_screenshot("launchpad-window")
    before = home.account.shown_record_counts("/api/events")
    screen.wait_for_success(screen.launch_from_launchpad())
    screen.take_screenshot("run")
    moments = home.account.true_cursors("events")
    inside = {each for each, at in moments.items() if at and start.date() <= at.date() < end.date()}
    assert inside
    assert (home.account.shown_record_counts("/api/events") - before).keys() == inside
    assert sorted(home.ids("events")) == sorted(moments)


def press_a_backfill(home: Home, screen: BrowserWindow) -> str:
    """Launch some days of three metrics from the page of a report; return the backfill's id."""
    days, metrics = report_days_and_metrics(home)
    screen.open(f"assets/klaviyo/{FLOW_REPORT}")
    screen.find_button("Materialize").click()
    screen.choose_partitions(f"[{days[0]}...{days[-1]}]", metrics)
    expect(screen.page.get_by_text(f"{3 * REPORT_DAYS} partitions")).to_be_visible()
    screen.take_screenshot("backfill-dialog")
    screen.find_button("Launch backfill").click()
    return screen.follow_notice("Created backfill")


def check_backfill(home: Home, screen: BrowserWindow, backfill: str) -> None:
    """Wait on the backfill's page; its partitions are all green, and the figures Klaviyo's."""
    days, metrics = report_days_and_metrics(home)
    screen.wait_for_end(BACKFILL_STATUS, backfill)
    screen.open(f"runs/b/{backfill}")
    status = screen.page.locator("xpath=//*[text()='Status']/following::*[1]")
    expect(status).not_to_have_text(re.compile("In progress|Requested"))
    screen.take_screenshot("backfill")
    assert status.inner_text() == "Succeeded"
    for metric in metrics[:2]:
        assert assert_rows_match(home, FLOW_REPORT, metric, days)
    refused = [
        each
        for each in home.account.request_bodies(REPORT_PATHS[FLOW_REPORT])
        if metrics[2] in str(each["data"])
    ]
    assert len(refused) == 1
    assert stored_rows(home, FLOW_REPORT, metrics[2], days) == {}
    screen.open(f"assets/klaviyo/{FLOW_REPORT}?view=partitions")
    screen.take_screenshot("partitions", once="Missing")


def press_a_sensor(home: Home, screen: BrowserWindow) -> None:
    """Switch the draining sensor on: it launches runs by itself, and they end green."""
    days, metrics = report_days_and_metrics(home)
    page = f"locations/klaviyo_assets/sensors/{DRAIN}"
    screen.open(page)
    switch = screen.page.locator("input[type=checkbox]")
    switch.locator("xpath=..").click()
    expect(switch).to_be_checked()
    assert screen.wait_for_end(SENSOR_RUN_STATUSES, DRAIN) == {"SUCCESS"}
    screen.open(page)
    screen.find_button("Runs").click()
    screen.page.get_by_text("Success", exact=True).first.wait_for()
    screen.take_screenshot("sensor")
    assert assert_rows_match(home, CAMPAIGN_REPORT, metrics[0], days[-7:])


def report_days_and_metrics(home: Home) -> tuple[list[date], list[str]]:
    """Return the days of the reports, and their metrics, of which the last is refused."""
    first = date.fromisoformat(home.settings["KLAVIYO_REPORT_START_DATE"])
    metrics = home.settings["KLAVIYO_CONVERSION_METRIC_IDS"].split(",")
    return days_between(first, first + timedelta(days=REPORT_DAYS - 1)), metrics
