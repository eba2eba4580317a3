"""A disk that fails during a sync loses no record: the cursor stays behind the files."""

import errno

import pytest

from klaviyo_assets.sync import sync_run
from klaviyo_assets_tests.crash_hooks import run_at_crash_point
from klaviyo_assets_tests.e2e.conftest import StartHome


def fill_disk() -> None:
    """Fail as a write does when there is no space left."""
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("at", [1, 2, 3])
def test_files_that_cannot_be_moved_are_read_again(
    open_home: StartHome, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """A full disk while a commit's files are put in place: the next run brings their rows."""
    home = open_home(events=6000)
    monkeypatch.setattr(sync_run, "COMMIT_BYTES", 200_000)
    with run_at_crash_point("after moving files", fill_disk, count=at):
        assert "disk" in home.sync("events").failures["events"]
    assert home.sync("events").success
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))


@pytest.mark.parametrize("at", [1, 2, 3])
def test_rows_that_cannot_be_staged_are_read_again(
    open_home: StartHome, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """A full disk while rows are staged: they are lost, and the cursor stays behind them."""
    home = open_home(events=6000)
    monkeypatch.setattr(sync_run, "COMMIT_BYTES", 200_000)
    with run_at_crash_point("before staging rows", fill_disk, count=at):
        assert "disk" in home.sync("events").failures["events"]
    assert home.sync("events").success
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))
