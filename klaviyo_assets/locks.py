"""Locks between processes: whether the file system of a folder has them at all."""

import errno
import fcntl
import os
from pathlib import Path

from klaviyo_assets.errors import SettingError

LOCK_TEST_FILE = ".locks"
"""An empty file in each folder that was tested; it stays, so that two tests meet at one file."""

UNSUPPORTED_LOCK_ERRNOS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})


def check_lock_support(folder: Path, *, variable: str) -> None:
    """Refuse a folder whose file system has no locks, or whose locks keep nobody out.

    Two descriptions of one file stand for two processes: the kernel keeps them apart alike. A mount
    whose locks hold on this host alone is not found here.

    Raises:
        SettingError: it has none; the text names the folder and the setting.
        OSError: the folder cannot be written.
    """
    path = folder / LOCK_TEST_FILE
    ours, others = (os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for _ in range(2))
    try:
        # The other kind of lock, which SQLite takes. A process shares it with itself.
        fcntl.lockf(ours, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(ours, fcntl.LOCK_UN)
        fcntl.flock(ours, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(others, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # Ours kept the other one out, or that of another process kept us out.
        return
    except OSError as error:
        if error.errno not in UNSUPPORTED_LOCK_ERRNOS:
            raise
        raise _lock_support_error(folder, variable, f"has no locks ({error.strerror})") from None
    finally:
        os.close(ours)
        os.close(others)
    raise _lock_support_error(folder, variable, "has locks that keep nobody out")


def _lock_support_error(folder: Path, variable: str, defect: str) -> SettingError:
    """Return the error for a folder whose locks are no good."""
    return SettingError(
        f"the file system of {folder} {defect}, so two processes would not see each other there. "
        "Set "
        f"{variable} to a folder on a local disk, or mount this one with locks"
    )
