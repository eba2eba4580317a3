"""Places: F90 and F91. What cannot work is refused as a setting; two lakes share no history."""

import errno
import shutil
from datetime import date, timedelta

import pytest

from klaviyo_assets import locks
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import FLOWS, compare, fetch, metrics_of, requests
from klaviyo_assets_tests.e2e.test_reports import NOW, report_home
from klaviyo_assets_tests.faults.judge import has_table, judge

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
    assert f"KLAVIYO_{name}=" in run.failed["lists"]
    assert "cannot be used" in run.failed["lists"]
    assert run.attempts["lists"] == 1
    assert sorted(home.root.iterdir()) == before
    assert home.shop.asked().total() == 0


@pytest.mark.parametrize(
    "value", ["rubbish", "http://", "http://proxy:port", "http://[::1", "socks5://jane:pw@p:1080"]
)
def test_f90_a_rubbish_proxy_is_a_setting_error(
    home: Home, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """The variable is named, nothing of a login is, and no connection is tried."""
    monkeypatch.setenv("HTTPS_PROXY", value)
    run = home.sync("lists", base_url="https://klaviyo.invalid")
    assert "HTTPS_PROXY" in run.failed["lists"]
    assert "Allowed is http://" in run.failed["lists"]
    assert "jane" not in run.failed["lists"]
    assert run.attempts["lists"] == 1


def test_f90_a_mount_without_locks_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder and its variable are named before any request."""

    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    run = home.sync("lists")
    assert f"the file system of {home.data} has no locks" in run.failed["lists"]
    assert "KLAVIYO_DATA_DIR" in run.failed["lists"]
    assert home.shop.asked().total() == 0


def test_f91_a_second_lake_under_one_history_is_refused(home: Home) -> None:
    """A container without its disk: both places and both ways out are named, nothing is read."""
    streams = ("events", "lists")
    assert home.sync(*streams).success
    first = home.data
    home.moved_to = home.root / "elsewhere"
    before = home.shop.asked()
    run = home.sync(*streams)
    for stream in streams:
        said = run.failed[stream]
        assert str(first) in said
        assert str(home.moved_to) in said
        assert "KLAVIYO_DATA_DIR" in said
        assert "full_refresh_overwrite" in said
        assert "dagster asset wipe" in said
        assert run.attempts[stream] == 1
        assert home.shop.asked()[f"/api/{stream}"] == before[f"/api/{stream}"]
        assert not has_table(home, stream)
    home.moved_to = None
    home.shop.move(hours=3)
    assert home.sync(*streams).warnings == ""
    judge(home, *streams)


def test_f91_both_ways_out_work(home: Home) -> None:
    """A full refresh, and a wiped history, begin the second lake; the first is refused then."""
    home.sync("events", "lists")
    home.moved_to = home.root / "elsewhere"
    assert home.sync("events", config={"sync_mode": "full_refresh_overwrite"}).success
    home.wipe("lists")
    assert home.sync("events", "lists").success
    for stream in ("events", "lists"):
        assert sorted(home.ids(stream)) == sorted(home.shop.truth(stream))
    home.moved_to = None
    assert set(home.sync("events", "lists").failed) == {"events", "lists"}


def test_f91_a_lake_that_was_moved_goes_on(home: Home) -> None:
    """Its folder may be moved and the setting with it: it is the same lake, and nothing is told."""
    home.sync("events")
    first = home.data
    home.moved_to = home.root / "elsewhere"
    shutil.move(first, home.moved_to)
    home.shop.move(hours=3)
    run = home.sync("events")
    assert run.success
    assert run.warnings == ""
    assert run.number("events", "records_read") < len(home.shop.truth("events")) / 4
    assert sorted(home.ids("events")) == sorted(home.shop.truth("events"))


def test_f91_partitions_of_a_second_lake_are_refused(start: StartHome) -> None:
    """No request of a report is spent on what another lake has; a wiped history begins anew."""
    home = report_home(start, NOW)
    metric, day = metrics_of(home)[0], date(2026, 10, 1)
    assert fetch(home, FLOWS, (metric, day)).run.success
    home.moved_to = home.root / "elsewhere"
    home.shop.forget()
    run = fetch(home, FLOWS, (metric, day)).run
    assert "dagster asset wipe" in run.failed[FLOWS]
    assert requests(home, FLOWS) == 0
    for stream in (FLOWS, "metrics", "campaigns"):
        home.wipe(stream)
    assert home.sync("metrics", "campaigns").success
    assert fetch(home, FLOWS, (metric, day)).run.success
    assert compare(home, FLOWS, metric, [day]) >= 0
