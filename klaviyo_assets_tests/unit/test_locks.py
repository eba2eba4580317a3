"""A folder without locks is refused before anything relies on them."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from klaviyo_assets import locks
from klaviyo_assets.errors import SettingError
from klaviyo_assets.locks import check_lock_support


def test_a_local_folder_passes_as_often_as_asked(tmp_path: Path) -> None:
    """The real kernel keeps the second description out; one empty file stays."""
    for _ in range(3):
        check_lock_support(tmp_path, variable="KLAVIYO_DATA_DIR")
    assert [(each.name, each.stat().st_size) for each in tmp_path.iterdir()] == [(".locks", 0)]


def test_a_lock_that_another_process_holds_is_a_good_sign(tmp_path: Path) -> None:
    """A lock held by another process shows that locks work."""
    check_lock_support(tmp_path, variable="KLAVIYO_DATA_DIR")
    with (tmp_path / ".locks").open("r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        check_lock_support(tmp_path, variable="KLAVIYO_DATA_DIR")


@pytest.mark.parametrize("kind", ["flock", "lockf"])
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_mount_without_locks_is_refused(
    tmp_path: Path, kind: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of either kind of lock is a setting error that names the folder."""

    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, kind, refuse)
    with pytest.raises(SettingError) as caught:
        check_lock_support(tmp_path, variable="KLAVIYO_DATA_DIR")
    assert str(tmp_path) in str(caught.value)
    assert "KLAVIYO_DATA_DIR" in str(caught.value)
    assert os.strerror(number) in str(caught.value)


def test_locks_that_keep_nobody_out_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that grants every lock is refused: two writers would not notice each other."""

    def grant(_descriptor: int, _operation: int) -> None:
        pass

    monkeypatch.setattr(locks.fcntl, "flock", grant)
    with pytest.raises(SettingError, match=r"locks without effect.*KLAVIYO_STATE_DIR"):
        check_lock_support(tmp_path, variable="KLAVIYO_STATE_DIR")


def test_other_refusals_of_the_disk_pass(tmp_path: Path) -> None:
    """A folder that is not there is no matter of locks."""
    with pytest.raises(FileNotFoundError):
        check_lock_support(tmp_path / "nowhere", variable="KLAVIYO_DATA_DIR")
