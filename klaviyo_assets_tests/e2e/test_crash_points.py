"""Every crash point is reached by ordinary runs; none is dead code."""

from datetime import timedelta
from typing import get_args

import pytest

from klaviyo_assets.seams import CrashPoint, set_crash_hook
from klaviyo_assets.sync import sync_run
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import FLOW_REPORT, report_metrics, run_partitions
from klaviyo_assets_tests.e2e.test_cli import verb
from klaviyo_assets_tests.e2e.test_reports import NOW, report_home

REFRESH = {"sync_mode": "full_refresh_append"}


class PointRecorder:
    """Records the points that this process reaches; beside a full refresh it runs an increment."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.reached: set[CrashPoint] = set()
        self.should_sync = False

    def reach(self, point: CrashPoint) -> None:
        """Record a point; where a refresh has read everything, let another run commit first."""
        self.reached.add(point)
        if point == "before merging a partition" and self.should_sync:
            self.should_sync = False
            assert self.home.sync("profiles").success


def test_plain_runs_reach_every_crash_point(
    open_home: StartHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two syncs, a refresh beside one of them, a report and an erasure reach all of them."""
    monkeypatch.setattr(sync_run, "COMMIT_BYTES", 200_000)
    home = report_home(open_home, NOW, events=3_000)
    recorder = PointRecorder(home)
    set_crash_hook(recorder.reach)
    try:
        with home.account.inject_fault("null_id", match={"path": "/api/profiles"}, at=0):
            assert home.sync("profiles", "events").success
        home.account.advance_clock(hours=1)
        home.account.mutate(create="profile", set={"email": "new@example.com"})
        recorder.should_sync = True
        assert home.sync("profiles", config=REFRESH).success
        metric, yesterday = report_metrics(home)[0], NOW.date() - timedelta(days=1)
        assert run_partitions(home, FLOW_REPORT, (metric, yesterday)).run.success
        assert verb(home, "erase", min(home.account.true_ids("profiles"))) == 0
    finally:
        set_crash_hook(None)
    assert set(get_args(CrashPoint)) - recorder.reached == set()
