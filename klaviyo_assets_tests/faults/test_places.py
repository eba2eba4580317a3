"""Places: F90 and F91. What cannot work is refused as a setting; two lakes share no history."""

import errno
import shutil
from datetime import date, timedelta

import pytest

from klaviyo_assets import locks
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import (
    FLOW_REPORT,
    assert_rows_match,
    report_metrics,
    request_count,
    run_partitions,
)
from klaviyo_assets_tests.e2e.test_reports import NOW, report_home
from klaviyo_assets_tests.faults.assertions import assert_complete, has_table

TOMORROW_WEEK = f"{date.today() + timedelta(days=8)}"  # noqa: DTZ011 - some day of the future

CANNOT_BE_MEANT = [
    ("DATA_DIR", "s3://bucket/lake"),
    ("DATA_DIR", "https://bucket.example/lake"),
    ("DATA_DIR", "jane@nas:/lake"),
    ("DATA_DIR", "my%20lake"),
    ("DATA_DIR", "what?"),
    ("DATA_DIR", "C:\\lake"),
    ("DATA_DIR", "two\nlines"),
    ("DATA_DIR", "$HOME/lake"),
    ("DATA_DIR", "$(pwd)/lake"),
    ("DATA_DIR", "'lake'"),
    ("DATA_DIR", "lake; rm -r x"),
    ("DATA_DIR", "lake && true"),
    ("STATE_DIR", "gs://bucket/state"),
    ("STATE_DIR", "${STATE}/x"),
    ("STATE_DIR", "`pwd`"),
    ("STATE_DIR", "two\nlines"),
    ("START_DATE", TOMORROW_WEEK),
    ("REPORT_START_DATE", TOMORROW_WEEK),
]


@pytest.mark.parametrize(("name", "value"), CANNOT_BE_MEANT)
def test_f90_a_value_that_cannot_be_meant_is_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Named with its variable, before any request, and no folder is made of it."""
    home.root.mkdir(exist_ok=True)
    monkeypatch.chdir(home.root)
    before = sorted(home.root.iterdir())
    home.settings[f"KLAVIYO_{name}"] = value
    run = home.sync("lists")
    assert f"KLAVIYO_{name}=" in run.failures["lists"]
    assert "cannot be used" in run.failures["lists"]
    assert run.attempts["lists"] == 1
    assert sorted(home.root.iterdir()) == before
    assert home.account.request_counts().total() == 0


@pytest.mark.parametrize(
    "value", ["rubbish", "http://", "http://proxy:port", "http://[::1", "socks5://jane:pw@p:1080"]
)
def test_f90_a_rubbish_proxy_is_a_setting_error(
    home: Home, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """The variable is named, nothing of a login is, and no connection is tried."""
    monkeypatch.setenv("HTTPS_PROXY", value)
    run = home.sync("lists", base_url="https://klaviyo.invalid")
    assert "HTTPS_PROXY" in run.failures["lists"]
    assert "Allowed is http://" in run.failures["lists"]
    assert "jane" not in run.failures["lists"]
    assert run.attempts["lists"] == 1


def test_f90_a_mount_without_locks_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder and its variable are named before any request."""

    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    run = home.sync("lists")
    assert f"the file system of {home.data_dir} has no locks" in run.failures["lists"]
    assert "KLAVIYO_DATA_DIR" in run.failures["lists"]
    assert home.account.request_counts().total() == 0


def test_f91_a_second_lake_under_one_history_is_refused(home: Home) -> None:
    """A container without its disk: both places and both ways out are named, nothing is read."""
    streams = ("events", "lists")
    assert home.sync(*streams).success
    first = home.data_dir
    home.other_data_dir = home.root / "elsewhere"
    before = home.account.request_counts()
    run = home.sync(*streams)
    for stream in streams:
        message = run.failures[stream]
        assert str(first) in message
        assert str(home.other_data_dir) in message
        assert "KLAVIYO_DATA_DIR" in message
        assert "full_refresh_overwrite" in message
        assert "dagster asset wipe" in message
        assert run.attempts[stream] == 1
        assert home.account.request_counts()[f"/api/{stream}"] == before[f"/api/{stream}"]
        assert not has_table(home, stream)
    home.other_data_dir = None
    home.account.advance_clock(hours=3)
    assert home.sync(*streams).warnings == ""
    assert_complete(home, *streams)


def test_f91_both_ways_out_work(home: Home) -> None:
    """A full refresh, and a wiped history, begin the second lake; the first is refused then."""
    home.sync("events", "lists")
    home.other_data_dir = home.root / "elsewhere"
    assert home.sync("events", config={"sync_mode": "full_refresh_overwrite"}).success
    home.wipe_asset("lists")
    assert home.sync("events", "lists").success
    for stream in ("events", "lists"):
        assert sorted(home.ids(stream)) == sorted(home.account.true_ids(stream))
    home.other_data_dir = None
    assert set(home.sync("events", "lists").failures) == {"events", "lists"}


def test_f91_a_lake_that_was_moved_goes_on(home: Home) -> None:
    """A lake moved together with its setting is the same lake, without a warning."""
    home.sync("events")
    first = home.data_dir
    home.other_data_dir = home.root / "elsewhere"
    shutil.move(first, home.other_data_dir)
    home.account.advance_clock(hours=3)
    run = home.sync("events")
    assert run.success
    assert run.warnings == ""
    assert run.metadata_number("events", "records_read") < len(home.account.true_ids("events")) / 4
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))


def test_f91_partitions_of_a_second_lake_are_refused(open_home: StartHome) -> None:
    """No request of a report is spent on what another lake has; a wiped history begins anew."""
    home = report_home(open_home, NOW)
    metric, day = report_metrics(home)[0], date(2026, 10, 1)
    assert run_partitions(home, FLOW_REPORT, (metric, day)).run.success
    home.other_data_dir = home.root / "elsewhere"
    home.account.clear_journal()
    run = run_partitions(home, FLOW_REPORT, (metric, day)).run
    assert "dagster asset wipe" in run.failures[FLOW_REPORT]
    assert request_count(home, FLOW_REPORT) == 0
    for stream in (FLOW_REPORT, "metrics", "campaigns", "campaign_messages"):
        home.wipe_asset(stream)
    assert home.sync("metrics", "campaigns").success
    assert run_partitions(home, FLOW_REPORT, (metric, day)).run.success
    assert assert_rows_match(home, FLOW_REPORT, metric, [day]) >= 0
