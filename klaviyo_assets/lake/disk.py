"""The disk: folders, locks, and its refusals in words.

What belongs here: what any program must know to share a folder with others. What does not: what
the files hold. Locks are `flock`: the kernel lifts them when their process ends, however it ends,
so that a lock that can be taken proves its owner dead. They work between the processes of one
machine; the fence between writers is the commit (`delta`), not a lock.
"""

import errno
import fcntl
import os
import re
import shutil
import sys
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from uuid import uuid4

import pyarrow as pa
from deltalake.exceptions import DeltaError

from klaviyo_assets.errors import CorruptFileError, StorageError

WAYS_OUT = {
    errno.ENOSPC: "the disk is full; free some space and run again",
    errno.EDQUOT: "the disk quota is used up; free some space and run again",
    errno.EFBIG: "the file would pass the size limit of this process or file system",
    errno.EACCES: "this user may not write there; change its permissions or KLAVIYO_DATA_DIR",
    errno.EPERM: "this user may not write there; change its permissions or KLAVIYO_DATA_DIR",
    errno.EROFS: "the file system is read-only; choose another KLAVIYO_DATA_DIR",
    errno.ENOTDIR: "a file is where a folder should be; choose another KLAVIYO_DATA_DIR",
    errno.ENOENT: "nothing can be created there; choose another KLAVIYO_DATA_DIR",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
}

# deltalake gives the number of the system's error only inside its text, DuckDB its words.
OS_ERROR = re.compile(r"os error (\d+)|code: (\d+)")


def way_out(stream: str) -> str:
    """Return how a table that cannot be read comes back."""
    return (
        "Bring it back from a backup, or have the stream read again: materialize the asset once "
        "with sync_mode full_refresh_overwrite. A report or a history knows no such mode: put it "
        f"away with `klaviyo-assets set-aside {stream}`, and it begins anew"
    )


def broken(path: Path, stream: str) -> CorruptFileError:
    """Return the error for a file that cannot be read, with the way out."""
    return CorruptFileError(f"{path} is missing or damaged. {way_out(stream)}", stream=stream)


def refusal(cause: BaseException, path: Path, stream: str | None) -> StorageError:
    """Return the error for an operation that the disk refused; nothing of its text but the number.

    The text of deltalake's errors can quote rows.
    """
    number = number_of(cause)
    reason = WAYS_OUT.get(number or 0)
    if reason is None:
        known = os.strerror(number) if number else type(cause).__name__
        reason = f"the disk refused ({known})"
    return StorageError(f"{path}: {reason}. What was committed before is intact", stream=stream)


def number_of(cause: BaseException) -> int | None:
    """Return the system's number of an error, if it has one or its text tells."""
    if isinstance(cause, OSError) and cause.errno is not None:
        return cause.errno
    text = str(cause)
    found = OS_ERROR.search(text)
    if found is not None:
        return int(found[1] or found[2])
    return next((number for number in WAYS_OUT if os.strerror(number) in text), None)


def disk_errors() -> tuple[type[Exception], ...]:
    """Return what the disk's refusals are raised as: by Python, by deltalake, and by DuckDB.

    DuckDB raises nothing before it was imported, and a sync imports it late (see `database`).
    """
    duckdb = sys.modules.get("duckdb")
    return (OSError, DeltaError) if duckdb is None else (OSError, DeltaError, duckdb.Error)


@contextmanager
def told(path: Path, stream: str | None) -> Generator[None]:
    """Turn what the disk refuses in the block, to us, deltalake or DuckDB, into a StorageError."""
    try:
        yield
    except disk_errors() as cause:
        # Without the cause: deltalake's and DuckDB's texts can quote rows.
        raise refusal(cause, path, stream) from None


@contextmanager
def reading(path: Path, stream: str) -> Generator[None]:
    """Turn a missing or damaged data file that the block reads into a CorruptFileError.

    A refusal with a number of the system (no permission) stays a StorageError.
    """
    try:
        yield
    except (FileNotFoundError, pa.ArrowException):
        raise broken(path, stream) from None
    except OSError as cause:
        # Arrow raises OSError without a number for pages that cannot be decompressed.
        found = broken(path, stream) if cause.errno is None else refusal(cause, path, stream)
        raise found from None


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, open to this user alone; existing ones stay as they are."""
    with suppress(FileExistsError):
        try:
            folder.mkdir(mode=0o700)
        except FileNotFoundError:
            make_folder(folder.parent)
            folder.mkdir(mode=0o700)


def make_writable(folder: Path) -> None:
    """Create a folder where it is missing, and try to write in it.

    Raises:
        StorageError: it cannot be written.
    """
    with told(folder, None):
        make_folder(folder)
        TemporaryFile(dir=folder).close()


def without_link(path: Path) -> None:
    """Remove a symbolic link from where a file is about to be written: what it names is not ours.

    Raises:
        OSError: the disk refused.
    """
    if path.is_symlink():
        path.unlink()


def force_to_disk(paths: Sequence[Path], *, at: float, mode: int) -> None:
    """Wait until the bytes of the files, touched `at` (seconds since 1970), are on the disk itself.

    Measured with 365 new files: 0.53 s one after the other, 0.04 s by eight threads, because the
    file system writes its journal once for all that wait. To start a thread means to wait for the
    interpreter, while readers decode.
    """
    with ThreadPoolExecutor(max_workers=min(8, 1 + len(paths) // 8)) as threads:
        list(threads.map(partial(force_one_to_disk, at=at, mode=mode), paths))


def force_one_to_disk(path: Path, *, at: float | None = None, mode: int | None = None) -> None:
    """Wait until the bytes of one file are on the disk, its time and mode set where given."""
    number = os.open(path, os.O_RDONLY)
    try:
        if mode is not None:
            os.fchmod(number, mode)
        if at is not None:
            os.utime(number, (at, at))
        os.fsync(number)
    finally:
        os.close(number)


def take_lock(path: Path, *, wait: bool) -> int | None:
    """Lock a file, created if it is missing; return its descriptor, or None if another holds it.

    The lock is ours only if the name still means the file that we locked: its last owner may have
    unlinked it meanwhile.
    """
    while True:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if path.exists() and path.stat().st_ino == os.fstat(number).st_ino:
                return number
        except BlockingIOError:
            os.close(number)
            return None
        except BaseException:
            os.close(number)
            raise
        os.close(number)


@contextmanager
def exclusive(path: Path, *, seconds: float) -> Generator[None]:
    """Hold the lock file for the block; wait for it at most `seconds`.

    Raises:
        StorageError: another process kept it longer.
    """
    end = time.monotonic() + seconds
    while (number := take_lock(path, wait=False)) is None:
        if time.monotonic() > end:
            raise StorageError(
                f"{path} is held by another process for over {seconds:g} s; wait for it to end"
            )
        time.sleep(0.02)
    try:
        yield
    finally:
        os.close(number)


class Staging:
    """A folder for the files of one session, until a commit names them; locked while it lives."""

    def __init__(self, parent: Path) -> None:
        """Create and lock a folder of a new name below `parent`.

        Raises:
            OSError: the disk refused.
        """
        make_folder(parent)
        self.name = uuid4().hex
        self.folder = parent / self.name
        self.lock = parent / f"{self.name}.lock"
        self.number = take_lock(self.lock, wait=True)
        self.folder.mkdir(mode=0o700)

    def close(self) -> None:
        """Remove what was not committed, and the lock. Safe to call twice."""
        if self.number is None:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.lock.unlink(missing_ok=True)
        os.close(self.number)
        self.number = None


def clear_dead(parent: Path) -> bool:
    """Remove the staging folders below `parent` whose sessions are dead; tell if one is alive."""
    alive = False
    for lock in parent.glob("*.lock"):
        number = take_lock(lock, wait=False)
        if number is None:
            alive = True
            continue
        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        lock.unlink(missing_ok=True)
        os.close(number)
    for folder in parent.glob("*/"):
        # A session has its lock before its folder, and its folder goes before its lock.
        if not folder.with_suffix(".lock").exists():
            shutil.rmtree(folder, ignore_errors=True)
    return alive
