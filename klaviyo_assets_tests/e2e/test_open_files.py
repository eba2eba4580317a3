"""A run closes every file it opens: a daemon or notebook of weeks leaks none."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from klaviyo_assets.cli.command import main
from klaviyo_assets.defs.resources import KlaviyoResource
from klaviyo_assets_tests.e2e.check_runs import run_completeness_check
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import CAMPAIGN_REPORT, report_metrics, run_partitions
from klaviyo_assets_tests.e2e.report_ticks import evaluate_sensor
from klaviyo_assets_tests.e2e.test_reports import NOW, report_home

DESCRIPTORS = Path("/proc/self/fd")

pytestmark = pytest.mark.skipif(
    not DESCRIPTORS.is_dir(), reason="this system does not list a process's open files in /proc"
)


def open_files(below: Path) -> list[str]:
    """Return the files below a folder that this process has open."""
    return sorted(name for name in open_names() if name.startswith(f"{below}/"))


def open_names() -> Iterator[str]:
    """Yield the names of all that this process has open."""
    for each in DESCRIPTORS.iterdir():
        # One of them is what lists them, and gone by now.
        with suppress(FileNotFoundError):
            yield str(each.readlink())


def test_five_hundred_connections_leave_nothing_open(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is closed at the end of its block: as many files are open afterwards as before."""
    assert home.sync("accounts").success
    monkeypatch.setenv("KLAVIYO_API_KEY", home.account.key)
    klaviyo = (home.load_definitions().resources or {})["klaviyo"]
    assert isinstance(klaviyo, KlaviyoResource)
    before = len(list(open_names()))
    for _ in range(500):
        with klaviyo.connect(warn=print) as connection:
            assert connection.account_connection.rate_limiter.account_facts("nobody") is None
            assert open_files(home.root / "state")
    assert len(list(open_names())) == before
    assert open_files(home.root / "state") == []


def test_every_road_closes_the_rate_limit_store(
    open_home: StartHome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Syncs, reports, checks, sensors and verbs leave no file of the state folder open."""
    home = report_home(open_home, NOW)
    state = home.root / "state"
    assert home.sync("events").success
    assert open_files(state) == []
    metric, day = report_metrics(home)[0], NOW.date().replace(day=1)
    assert run_partitions(home, CAMPAIGN_REPORT, (metric, day)).run.success
    assert open_files(state) == []
    assert run_completeness_check(home).colour != "red"
    assert open_files(state) == []
    assert evaluate_sensor(home, "klaviyo_reports_drain").runs
    evaluate_sensor(home, "klaviyo_conversion_metrics", conversion_metric_ids="auto")
    assert open_files(state) == []
    for name, value in home.variables.items():
        monkeypatch.setenv(name, value)
    for words in (["status"], ["plan", "--start", "2026-11-01", "--end", "2026-11-05"]):
        assert main(words) == 0
    assert "campaign_values_reports" in capsys.readouterr().out
    assert open_files(state) == []


@pytest.mark.usefixtures("fast_retries")
@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_run_that_fails_closes_it_too(home: Home, status: int) -> None:
    """Refused at its first request: nothing stays open."""
    with home.account.inject_fault("error", match={"path": "/api/lists"}, status=status):
        assert not home.sync("lists").success
    assert open_files(home.root / "state") == []
