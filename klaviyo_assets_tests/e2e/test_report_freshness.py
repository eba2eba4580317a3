"""A report's freshness is that of its newest days, not of what was fetched last."""

from collections.abc import Generator
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from klaviyo_assets.seams import use_clock
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home, asset_key
from klaviyo_assets_tests.e2e.report_daemon import run_sensor_daemon
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    REPORT_PATHS,
    report_metrics,
    run_partitions,
    set_metrics,
)
from klaviyo_assets_tests.e2e.report_ticks import open_home_instance
from klaviyo_assets_tests.e2e.seeded_homes import sync_or_copy
from klaviyo_assets_tests.e2e.test_report_zones import NEEDED_BY_REPORTS, account_in, first_sync

CHECK = "newest_days_are_there"
SENSOR = "klaviyo_reports_newest_days"
NOON = datetime(2026, 11, 10, 17, tzinfo=UTC)
"""Noon of a Tuesday in New York: Sunday is due since two in the night, Monday is not."""


@pytest.fixture
def at_noon() -> Generator[None]:
    """Let this machine's clock stand with the account's."""
    with use_clock(lambda: NOON):
        yield


def home_at_noon(open_home: StartHome) -> tuple[Home, str]:
    """Return a home after a first sync, at noon in New York, and its revenue metric."""
    home = account_in(open_home, "America/New_York", NOON)
    sync_or_copy(home, *NEEDED_BY_REPORTS)
    set_metrics(home, report_metrics(home))
    return home, report_metrics(home)[0]


def verdict_of(home: Home, stream: str) -> tuple[bool, str, str]:
    """Return what Dagster has last of the check: green or not, how bad, and the sentence."""
    with open_home_instance(home) as instance:
        key = dg.AssetCheckKey(asset_key(stream), CHECK)
        (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        assert record.evaluation is not None
        found = record.evaluation
        return found.passed, found.severity.value, found.description or ""


def fetched(home: Home, metric: str, first: date, last: date) -> None:
    """Fetch days of flows."""
    assert run_partitions(home, FLOW_REPORT, (metric, first, metric, last)).run.success


def run_checks(home: Home) -> None:
    """Run the checks of both reports, and nothing else, as somebody does from their page."""
    defs = home.load_definitions()
    keys = [dg.AssetCheckKey(asset_key(stream), CHECK) for stream in (FLOW_REPORT, CAMPAIGN_REPORT)]
    with open_home_instance(home) as instance:
        done = dg.materialize(
            [*(defs.assets or ()), *(defs.asset_checks or ())],  # pyright: ignore[reportArgumentType]
            selection=dg.AssetSelection.checks(*keys),
            instance=instance,
            resources=defs.resources,
        )
    assert done.success


@pytest.mark.usefixtures("at_noon")
def test_an_old_day_makes_nothing_green(open_home: StartHome) -> None:
    """Red while the newest days are missing, whatever is fetched; green with the last of them."""
    home, metric = home_at_noon(open_home)
    home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = metric
    run_checks(home)
    green, severity, message = verdict_of(home, FLOW_REPORT)
    assert (green, severity) == (False, "WARN")
    assert "was never read" in message
    for day in (date(2026, 9, 1), date(2026, 11, 8)):
        fetched(home, metric, day, day)
        run_checks(home)
        green, severity, message = verdict_of(home, FLOW_REPORT)
        assert (green, severity) == (False, "ERROR")
        assert "from 2026-11-02 to" in message
    fetched(home, metric, date(2026, 11, 2), date(2026, 11, 5))
    run_checks(home)
    # Friday should be there for three days, Saturday for two.
    assert verdict_of(home, FLOW_REPORT)[:2] == (False, "ERROR")
    fetched(home, metric, date(2026, 11, 6), date(2026, 11, 6))
    run_checks(home)
    assert verdict_of(home, FLOW_REPORT)[:2] == (False, "WARN")
    fetched(home, metric, date(2026, 11, 7), date(2026, 11, 7))
    home.account.clear_journal()
    run_checks(home)
    assert verdict_of(home, FLOW_REPORT)[:1] == (True,)
    assert home.account.request_counts().total() == 0


@pytest.mark.usefixtures("at_noon")
def test_metrics_that_the_setting_does_not_want_are_not_judged(open_home: StartHome) -> None:
    """Metrics outside the setting, fetched once or never, make no report red."""
    home, metric = home_at_noon(open_home)
    fetched(home, metric, date(2026, 11, 2), date(2026, 11, 8))
    other = report_metrics(home)[1]
    run_checks(home)
    assert verdict_of(home, FLOW_REPORT)[:1] == (True,)
    fetched(home, other, date(2026, 9, 1), date(2026, 9, 2))
    run_checks(home)
    assert verdict_of(home, FLOW_REPORT)[:2] == (False, "ERROR")
    home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = metric
    run_checks(home)
    assert verdict_of(home, FLOW_REPORT)[:1] == (True,)


def test_the_sensor_tells_of_a_verdict_once(open_home: StartHome) -> None:
    """The sensor reports a changed result once, without a run; a report never fetched has none."""
    now = datetime.now(UTC)
    home = account_in(open_home, "America/New_York", now)
    metric = first_sync(home)
    run_sensor_daemon(home, SENSOR)
    with open_home_instance(home) as instance:
        for stream in (FLOW_REPORT, CAMPAIGN_REPORT):
            key = dg.AssetCheckKey(asset_key(stream), CHECK)
            assert not instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    day = now.date() - timedelta(days=40)
    fetched(home, metric, day, day)
    run_sensor_daemon(home, SENSOR)
    assert verdict_of(home, FLOW_REPORT)[:2] == (False, "ERROR")
    with open_home_instance(home) as instance:
        runs = len(instance.get_runs())
    run_sensor_daemon(home, SENSOR)
    fetched(home, metric, now.date() - timedelta(days=10), now.date() - timedelta(days=2))
    run_sensor_daemon(home, SENSOR)
    assert verdict_of(home, FLOW_REPORT)[:1] == (True,)
    with open_home_instance(home) as instance:
        key = dg.AssetCheckKey(asset_key(FLOW_REPORT), CHECK)
        executions = instance.event_log_storage.get_asset_check_execution_history(key, limit=9)
        assert len(executions) == 2
        assert len(instance.get_runs()) == runs + 1


@pytest.mark.usefixtures("at_noon")
def test_days_that_are_missing_because_a_report_failed_say_so(open_home: StartHome) -> None:
    """Beside the missing days the check counts the metrics whose requests failed lately."""
    home, metric = home_at_noon(open_home)
    home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = metric
    fetched(home, metric, date(2026, 9, 1), date(2026, 9, 1))
    with home.account.inject_fault("error", match={"path": REPORT_PATHS[FLOW_REPORT]}, status=400):
        assert not run_partitions(home, FLOW_REPORT, (metric, date(2026, 11, 8))).run.success
    run_checks(home)
    assert "Requests of 1 metric failed recently" in verdict_of(home, FLOW_REPORT)[2]
