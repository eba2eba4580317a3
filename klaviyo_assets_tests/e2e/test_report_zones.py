"""The documented path: no time zone is set, and the account's own decides which days there are."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from klaviyo_assets.defs.report_runs import EARLIEST_TIME_ZONE
from klaviyo_assets.sandbox.account.config import DEFAULT_KEY, PrivateApiKey
from klaviyo_assets_tests.e2e.backfills import AssetPage, open_asset_page
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    assert_rows_match,
    days_between,
    report_metrics,
    request_count,
    run_partitions,
    set_metrics,
)
from klaviyo_assets_tests.e2e.report_ticks import evaluate_daily_schedules, evaluate_sensor
from klaviyo_assets_tests.e2e.seeded_homes import sync_or_copy
from klaviyo_assets_tests.e2e.test_report_plan import command, number, planned
from klaviyo_assets_tests.e2e.test_report_sensors import DRAIN

BEHIND, AHEAD = "America/New_York", "Pacific/Auckland"
"""Zones on either side of UTC."""

NOW = datetime(2026, 11, 10, 11, 15, tzinfo=UTC)
"""The tenth is over in Auckland and goes on in New York."""

NEEDED_BY_REPORTS = ("accounts", "metrics", "campaigns")


def account_in(open_home: StartHome, zone: str | None, now: datetime | None = None) -> Home:
    """Return a home without the setting, for an account in a zone; nothing is read yet."""
    home = open_home(
        now=now or datetime.now(UTC),
        timezone=zone or "UTC",
        days=75,
        # All are listed: what a search for the days of others costs, no plan can say.
        campaigns=12,
        omni_campaigns=True,
        flows=12,
        report_page=5000,
    )
    home.settings["KLAVIYO_REPORT_START_DATE"] = "2026-01-01"
    if zone is None:
        (account,) = home.account.true_ids("accounts")
        home.account.mutate(account=account, set={"timezone": None})
    return home


def first_sync(home: Home) -> str:
    """Read what reports need, as the first sync does; return the revenue metric."""
    run = home.sync(*NEEDED_BY_REPORTS)
    assert run.success, run.failures
    set_metrics(home, report_metrics(home))
    home.account.clear_journal()
    return report_metrics(home)[0]


def copied_first_sync(home: Home) -> str:
    """Do what `first_sync` does, in a home in which nothing has happened; equal ones are copied."""
    sync_or_copy(home, *NEEDED_BY_REPORTS)
    set_metrics(home, report_metrics(home))
    return report_metrics(home)[0]


def yesterday_in(zone: str) -> date:
    """Return the newest day that is over in a zone."""
    return datetime.now(ZoneInfo(zone)).date() - timedelta(days=1)


def backfill_of_62_days(
    home: Home, page: AssetPage, zone: str, metric: str, *, streams: Sequence[str]
) -> None:
    """Backfill 62 days of reports from the page; all are green, as the plan announced.

    A series of more than 60 takes a second request.
    """
    last = yesterday_in(zone)
    days = days_between(last - timedelta(days=61), last)
    plan = planned(home, days[0], days[-1] + timedelta(days=3), metric)
    for stream in streams:
        wanted = [f"{day}|{metric}" for day in days]
        assert set(days) <= set(page.partition_days(stream))
        done = page.run_backfill(stream, wanted)
        assert done.status == "COMPLETED_SUCCESS", [run.status for run in done.runs]
        assert sorted(done.partitions) == wanted
        assert number(plan[stream]["partitions wanted"]) == 62
        assert f"{days[0]} to {days[-1]}" in plan[stream]["partitions wanted"]
        assert 0 < request_count(home, stream) <= number(plan[stream]["requests"])
        assert assert_rows_match(home, stream, metric, days)
    assert request_count(home, FLOW_REPORT) == number(plan[FLOW_REPORT]["requests"]) == 2


@pytest.mark.takes(20)
@pytest.mark.parametrize(
    ("zone", "streams"),
    [(BEHIND, (FLOW_REPORT, CAMPAIGN_REPORT)), (AHEAD, (FLOW_REPORT,))],
    ids=["behind UTC", "ahead of UTC"],
)
def test_a_backfill_after_the_first_sync_is_green(
    open_home: StartHome, zone: str, streams: Sequence[str]
) -> None:
    """The page offers the days that are over in the account's zone, and each of them is stored."""
    home = account_in(open_home, zone)
    metric = first_sync(home)
    with open_asset_page(home) as page:
        assert page.partition_days(FLOW_REPORT)[-1] == yesterday_in(zone)
        backfill_of_62_days(home, page, zone, metric, streams=streams)


@pytest.mark.takes(20)
@pytest.mark.parametrize("zone", [BEHIND, AHEAD])
def test_the_first_session_needs_no_reload(open_home: StartHome, zone: str) -> None:
    """Pages opened before the first sync offer every day that is over, and a backfill is green."""
    home = account_in(open_home, zone)
    with open_asset_page(home) as page:
        assert page.partition_days(FLOW_REPORT)[-1] == yesterday_in(EARLIEST_TIME_ZONE)
        metric = first_sync(home)
        last = yesterday_in(zone)
        recent = days_between(last - timedelta(days=9), last)
        assert set(recent) <= set(page.partition_days(FLOW_REPORT))
        done = page.run_backfill(FLOW_REPORT, [f"{day}|{metric}" for day in recent])
        assert done.status == "COMPLETED_SUCCESS", [run.status for run in done.runs]
        assert sorted(done.partitions) == [f"{day}|{metric}" for day in recent]
        assert assert_rows_match(home, FLOW_REPORT, metric, recent)
        # A day that a page from before the sync offers, and that is not over in the zone.
        days = days_between(last - timedelta(days=1), yesterday_in(EARLIEST_TIME_ZONE))
        over = [day for day in days if day <= last]
        if days == over:
            # None at this hour of the day: the first backfill has shown that these are green.
            return
        done = page.run_backfill(FLOW_REPORT, [f"{day}|{metric}" for day in days])
        assert sorted(done.partitions) == [f"{day}|{metric}" for day in over]
        assert done.status != "COMPLETED_SUCCESS"


def test_days_that_are_not_over_are_refused_in_words(open_home: StartHome) -> None:
    """Days that are not over are refused with zone and days; the others of the run are stored."""
    home = account_in(open_home, BEHIND, NOW)
    metric = copied_first_sync(home)
    done = run_partitions(
        home, FLOW_REPORT, (metric, date(2026, 11, 6), metric, date(2026, 11, 10))
    )
    assert not done.run.success
    assert "2026-11-10" in done.run.failures[FLOW_REPORT]
    assert "America/New_York" in done.run.failures[FLOW_REPORT]
    assert sorted(day for _, day in done.partitions) == days_between(
        date(2026, 11, 6), date(2026, 11, 9)
    )
    for _, _, metadata in done.materializations:
        assert metadata["klaviyo/account_timezone"] == "America/New_York"


def test_the_schedule_and_the_sensor_keep_to_the_accounts_days(open_home: StartHome) -> None:
    """At 11:15 UTC the tenth is over in Auckland and goes on in New York."""
    for zone, last in [(AHEAD, "2026-11-10"), (BEHIND, "2026-11-09")]:
        home = account_in(open_home, zone, NOW)
        metric = copied_first_sync(home)
        home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = metric
        for request in [
            *evaluate_daily_schedules(home, NOW),
            *evaluate_sensor(home, DRAIN).runs[:1],
        ]:
            assert request.tags["dagster/asset_partition_range_end"] == f"{last}|{metric}"
        defs = home.load_definitions()
        schedule = defs.resolve_schedule_def(f"klaviyo_{FLOW_REPORT}")
        assert schedule.execution_timezone == zone


def test_before_the_zone_is_known_nothing_is_priced_or_launched(open_home: StartHome) -> None:
    """The plan, the status and the schedule say that it is not known, and what to do."""
    home = account_in(open_home, BEHIND, NOW)
    done = command(home, "plan", "--start", "2026-10-01", "--end", "2026-10-09", "--metrics", "M1")
    assert done.returncode == 2
    assert "materialize klaviyo/accounts first" in done.stderr
    assert "KLAVIYO_TIMEZONE" in done.stderr
    metric = copied_first_sync(home)
    assert planned(home, date(2026, 10, 1), date(2026, 10, 9), metric)
    run_partitions(home, FLOW_REPORT, (metric, date(2026, 10, 1)))
    assert "days of America/New_York" in command(home, "status").stdout


def test_a_setting_that_disagrees_is_refused_by_the_plan_too(open_home: StartHome) -> None:
    """What the run would refuse is not priced."""
    home = account_in(open_home, BEHIND, NOW)
    metric = copied_first_sync(home)
    home.settings["KLAVIYO_TIMEZONE"] = "UTC"
    words = ["--start", "2026-10-01", "--end", "2026-10-09", "--metrics", metric]
    done = command(home, "plan", *words)
    assert done.returncode == 2
    assert "KLAVIYO_TIMEZONE=America/New_York" in done.stderr
    run = run_partitions(home, FLOW_REPORT, (metric, date(2026, 10, 1))).run
    assert "KLAVIYO_TIMEZONE=America/New_York" in run.failures[FLOW_REPORT]
    assert request_count(home, FLOW_REPORT) == 0


def test_an_account_without_a_zone_syncs_and_its_reports_ask_for_one(open_home: StartHome) -> None:
    """Collections go on; reports name the setting, and are fetched in the zone that it gives."""
    home = account_in(open_home, None)
    assert home.sync("accounts", "campaigns", "events", "metrics", "profiles").success
    set_metrics(home, report_metrics(home))
    done = command(home, "plan", "--start", "2026-10-01", "--end", "2026-10-05")
    assert done.returncode == 2
    assert "names no time zone for the account: set KLAVIYO_TIMEZONE" in done.stderr
    metric, day = report_metrics(home)[0], date(2026, 10, 1)
    refused = run_partitions(home, FLOW_REPORT, (metric, day)).run
    assert "names no time zone" in refused.failures[FLOW_REPORT]
    assert "set KLAVIYO_TIMEZONE" in refused.failures[FLOW_REPORT]
    assert "set KLAVIYO_TIMEZONE" in evaluate_sensor(home, DRAIN).reason
    done = run_partitions(home, FLOW_REPORT, (metric, day), timezone="UTC")
    assert done.run.success, done.run.failures
    assert "KLAVIYO_TIMEZONE=UTC cannot be checked" in done.run.warnings
    assert assert_rows_match(home, FLOW_REPORT, metric, [day]) >= 0


def test_a_key_that_may_not_read_the_account_asks_for_the_setting(open_home: StartHome) -> None:
    """Without accounts:read and a setting the zone is unknown: the error names both remedies."""
    scopes = frozenset({"flows:read", "metrics:read", "campaigns:read"})
    # Without the account's answer this machine's clock decides which days are over.
    home = open_home(
        keys=(PrivateApiKey(value=DEFAULT_KEY, scopes=scopes),), days=40, now=datetime.now(UTC)
    )
    assert home.sync("metrics").success
    metric, day = report_metrics(home)[0], home.account.now.date() - timedelta(days=9)
    set_metrics(home, [metric])
    refused = run_partitions(home, FLOW_REPORT, (metric, day)).run
    assert "the key lacks accounts:read" in refused.failures[FLOW_REPORT]
    assert "set KLAVIYO_TIMEZONE" in refused.failures[FLOW_REPORT]
    assert run_partitions(home, FLOW_REPORT, (metric, day), timezone="America/New_York").run.success


def test_a_changed_zone_is_said_with_the_days_that_it_concerns(open_home: StartHome) -> None:
    """Days stored in the former zone are named by metric, in runs and in `status`, until redone."""
    home = account_in(open_home, BEHIND, NOW)
    metric = copied_first_sync(home)
    first, later = date(2026, 11, 2), date(2026, 11, 5)
    assert (
        "time zone was"
        not in run_partitions(home, FLOW_REPORT, (metric, first, metric, later)).run.warnings
    )
    home.account.advance_clock(days=1)
    home.account.set_time_zone("Pacific/Auckland")
    fresh = date(2026, 11, 8)
    for _ in range(2):
        message = run_partitions(home, FLOW_REPORT, (metric, fresh)).run.warnings
        assert "was America/New_York and is Pacific/Auckland now" in message
        assert "4 partitions stored before" in message
        assert f"{first} to {later} of metric {metric}" in message
    assert f"{first} to {later} of metric {metric}" in command(home, "status").stdout
    assert run_partitions(home, FLOW_REPORT, (metric, first, metric, later)).run.success
    assert "time zone was" not in run_partitions(home, FLOW_REPORT, (metric, fresh)).run.warnings
    assert "time zone was" not in command(home, "status").stdout


def test_another_name_of_the_zone_is_no_change(open_home: StartHome) -> None:
    """A newer name of the same zone changes no day and is not reported."""
    home = account_in(open_home, "Europe/Kiev", datetime(2026, 11, 10, 12, tzinfo=UTC))
    metric = first_sync(home)
    run_partitions(home, FLOW_REPORT, (metric, date(2026, 11, 2)))
    home.account.set_time_zone("Europe/Kyiv")
    assert (
        "time zone was"
        not in run_partitions(home, FLOW_REPORT, (metric, date(2026, 11, 3))).run.warnings
    )
