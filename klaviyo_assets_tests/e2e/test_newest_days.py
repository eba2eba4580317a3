"""Whether a report is kept up is told by its newest days, not by what was fetched last."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from klaviyo_assets.defs import newest_days
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home, key_of
from klaviyo_assets_tests.e2e.report_daemon import looked
from klaviyo_assets_tests.e2e.report_runs import CAMPAIGNS, FLOWS, PATHS, fetch, metrics_of
from klaviyo_assets_tests.e2e.report_ticks import opened
from klaviyo_assets_tests.e2e.test_report_zones import account_in, first_sync

CHECK = "newest_days_are_there"
SENSOR = "klaviyo_reports_newest_days"
NOON = datetime(2026, 11, 10, 17, tzinfo=UTC)
"""Noon of a Tuesday in New York: Sunday is due since two in the night, Monday is not."""


@pytest.fixture
def at_noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine's clock stand with the shop's."""
    monkeypatch.setattr(newest_days, "utc_now", lambda: NOON)


def verdict_of(home: Home, stream: str) -> tuple[bool, str, str]:
    """Return what Dagster has last of the check: green or not, how bad, and the sentence."""
    with opened(home) as instance:
        key = dg.AssetCheckKey(key_of(stream), CHECK)
        (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        assert record.evaluation is not None
        found = record.evaluation
        return found.passed, found.severity.value, found.description or ""


def fetched(home: Home, metric: str, first: date, last: date) -> None:
    """Fetch days of flows."""
    assert fetch(home, FLOWS, (metric, first, metric, last)).run.success


def judge(home: Home) -> None:
    """Run the checks of both reports, and nothing else, as somebody does from their page."""
    defs = home.code_location()
    keys = [dg.AssetCheckKey(key_of(stream), CHECK) for stream in (FLOWS, CAMPAIGNS)]
    with opened(home) as instance:
        done = dg.materialize(
            [*(defs.assets or ()), *(defs.asset_checks or ())],  # pyright: ignore[reportArgumentType]
            selection=dg.AssetSelection.checks(*keys),
            instance=instance,
            resources=defs.resources,
        )
    assert done.success


@pytest.mark.usefixtures("at_noon")
def test_an_old_day_makes_nothing_green(start: StartHome) -> None:
    """Red while the newest days are missing, whatever is fetched; green with the last of them."""
    home = account_in(start, "America/New_York", NOON)
    metric = first_sync(home)
    home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = metric
    judge(home)
    green, severity, said = verdict_of(home, FLOWS)
    assert (green, severity) == (False, "WARN")
    assert "was never read" in said
    for day in (date(2026, 9, 1), date(2026, 11, 8)):
        fetched(home, metric, day, day)
        judge(home)
        green, severity, said = verdict_of(home, FLOWS)
        assert (green, severity) == (False, "ERROR")
        assert "from 2026-11-02 to" in said
    fetched(home, metric, date(2026, 11, 2), date(2026, 11, 5))
    judge(home)
    # Friday should be there for three days, Saturday for two.
    assert verdict_of(home, FLOWS)[:2] == (False, "ERROR")
    fetched(home, metric, date(2026, 11, 6), date(2026, 11, 6))
    judge(home)
    assert verdict_of(home, FLOWS)[:2] == (False, "WARN")
    fetched(home, metric, date(2026, 11, 7), date(2026, 11, 7))
    home.shop.forget()
    judge(home)
    assert verdict_of(home, FLOWS)[:1] == (True,)
    assert home.shop.asked().total() == 0


@pytest.mark.usefixtures("at_noon")
def test_metrics_that_the_setting_does_not_want_are_not_judged(start: StartHome) -> None:
    """What somebody tried once, or never, makes no report red."""
    home = account_in(start, "America/New_York", NOON)
    metric = first_sync(home)
    fetched(home, metric, date(2026, 11, 2), date(2026, 11, 8))
    other = metrics_of(home)[1]
    judge(home)
    assert verdict_of(home, FLOWS)[:1] == (True,)
    fetched(home, other, date(2026, 9, 1), date(2026, 9, 2))
    judge(home)
    assert verdict_of(home, FLOWS)[:2] == (False, "ERROR")
    home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = metric
    judge(home)
    assert verdict_of(home, FLOWS)[:1] == (True,)


def test_the_sensor_tells_of_a_verdict_once(start: StartHome) -> None:
    """A daemon's look turns the check without a run; a report nobody fetched is left alone."""
    now = datetime.now(UTC)
    home = account_in(start, "America/New_York", now)
    metric = first_sync(home)
    looked(home, SENSOR)
    with opened(home) as instance:
        for stream in (FLOWS, CAMPAIGNS):
            key = dg.AssetCheckKey(key_of(stream), CHECK)
            assert not instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    day = now.date() - timedelta(days=40)
    fetched(home, metric, day, day)
    looked(home, SENSOR)
    assert verdict_of(home, FLOWS)[:2] == (False, "ERROR")
    with opened(home) as instance:
        runs = len(instance.get_runs())
    looked(home, SENSOR)
    fetched(home, metric, now.date() - timedelta(days=10), now.date() - timedelta(days=2))
    looked(home, SENSOR)
    assert verdict_of(home, FLOWS)[:1] == (True,)
    with opened(home) as instance:
        key = dg.AssetCheckKey(key_of(FLOWS), CHECK)
        told = instance.event_log_storage.get_asset_check_execution_history(key, limit=9)
        assert len(told) == 2
        assert len(instance.get_runs()) == runs + 1


@pytest.mark.usefixtures("at_noon")
def test_days_that_are_missing_because_a_report_failed_say_so(start: StartHome) -> None:
    """Beside the days the check tells of how many metrics requests failed, and who names them."""
    home = account_in(start, "America/New_York", NOON)
    metric = first_sync(home)
    home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = metric
    fetched(home, metric, date(2026, 9, 1), date(2026, 9, 1))
    with home.shop.faulty("error", match={"path": PATHS[FLOWS]}, status=400):
        assert not fetch(home, FLOWS, (metric, date(2026, 11, 8))).run.success
    judge(home)
    assert "Requests of 1 metric failed of late" in verdict_of(home, FLOWS)[2]
