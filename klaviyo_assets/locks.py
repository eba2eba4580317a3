"""Checks that the file system of a folder has locks that work between processes."""

import errno
import fcntl
import os
from pathlib import Path

from klaviyo_assets.errors import SettingError

LOCK_TEST_FILE = ".locks"
"""An empty file in each tested folder; it stays, so that two processes test the same file."""

UNSUPPORTED_LOCK_ERRNOS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})


def check_lock_support(folder: Path, *, variable: str) -> None:
    """Refuse a folder whose file system has no locks, or whose locks have no effect.

    Two open file descriptions of one file stand in for two processes: the kernel treats them alike.
    A network mount whose locks work only within this host is not detected.

    Raises:
        SettingError: it has no working locks; the text names the folder and the setting.
        OSError: the folder cannot be written.
    """
    path = folder / LOCK_TEST_FILE
    ours, others = (os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for _ in range(2))
    try:
        # SQLite uses this kind of lock, which two descriptions of one process share.
        fcntl.lockf(ours, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(ours, fcntl.LOCK_UN)
        fcntl.flock(ours, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(others, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # The first lock blocked the second, or another process's lock blocked the first.
        return
    except OSError as error:
        if error.errno not in UNSUPPORTED_LOCK_ERRNOS:
            raise
        raise _lock_support_error(folder, variable, f"has no locks ({error.strerror})") from None
    finally:
        os.close(ours)
        os.close(others)
    raise _lock_support_error(folder, variable, "has locks without effect")


def _lock_support_error(folder: Path, variable: str, defect: str) -> SettingError:
    """Return the error for a folder without working locks."""
    return SettingError(
        f"the file system of {folder} {defect}, so two processes would not see each other there. "
        "Set "
        f"{variable} to a folder on a local disk, or mount this one with locks"
    )
