"""The rate limiter's SQLite file: its transactions, its tables, and which hosts use it.

SQLite runs in WAL mode: one writer at a time, and the transaction of a killed process is rolled
back. Commits are not synced to the disk one by one (`synchronous=NORMAL`), except those of daily
quotas: after a power failure the last reservations may be missing, but never half written.
Source: https://www.sqlite.org/wal.html

The reservations of a bucket are numbered: the one that leaves a window of n requests is n numbers
back. Their times are in store time: the wall clock, but it never goes back. When the wall clock is
set back, the difference is added from then on, so that the distances between reservations stay:
nothing waits longer, and nothing bursts. When it jumps ahead, at most one window more than allowed
is used.

The tables are named `budget` (a bucket), `booking` (a reservation) and `day` (a daily reset).

A host is identified by its running kernel: containers of one kernel share its locks, and may share
the folder under any name. A host that was restarted, or whose container came back under another
name, continues at once, because entries from before its kernel started are its own. A host that
took over the volume of another machine continues `HOST_OVERLAP_SECONDS` after the last use there.
"""

import logging
import math
import os
import platform
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import RLock, get_ident
from typing import TypeVar, cast

from klaviyo_assets.api.limits import DAILY_WINDOW_SECONDS, STEADY_WINDOW_SECONDS
from klaviyo_assets.errors import SettingError, StorageError
from klaviyo_assets.locks import check_lock_support

BUSY_TIMEOUT_SECONDS = 10.0
"""How long a transaction waits for those of others; each takes far less than a millisecond."""

CORRUPT_RESULT_CODES = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
)
"""SQLite's result codes for a file that is not, or no longer, the database we wrote."""

SQLITE_FILE_SUFFIXES = ("-wal", "-shm", "")
"""Suffixes of the files of one database; the database is last, so that it never has others' WAL."""

_TransactionResult = TypeVar("_TransactionResult")


_log = logging.getLogger(__name__)


class RateLimitStore:
    """One connection for all threads of this process, opened when first needed.

    `clock` is the wall clock, in seconds since 1970.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self.path = path
        self.clock = clock
        self.lock = RLock()
        self.connection: sqlite3.Connection | None = None
        self.inode: int | None = None
        self.is_durable: bool | None = None
        """Whether the connection syncs each commit to the disk; None: not set yet."""
        self.replaces_corrupt_file = False
        self.last_heartbeat_at = -math.inf
        """When this process last recorded that its host uses the folder, by `clock`."""

    def run_transaction(
        self, work: Callable[[sqlite3.Connection], _TransactionResult], *, is_durable: bool = False
    ) -> _TransactionResult:
        """Run `work` under the write lock and return its result: all of its changes, or none.

        A corrupt file is renamed, and `work` runs again in a new one. With `is_durable` the changes
        survive a power failure once this returns.

        Raises:
            SettingError: the folder's file system does not lock files.
            StorageError: the file cannot be written, or stays locked for ten seconds.
        """
        with self.lock:
            try:
                return self.run_once(work, is_durable=is_durable)
            except sqlite3.DatabaseError as error:
                if not is_corrupt(error):
                    raise self.unusable_error(error) from error
                self.rename_corrupt_file(error)
            self.replaces_corrupt_file = True
            try:
                return self.run_once(work, is_durable=is_durable)
            except sqlite3.DatabaseError as error:
                raise self.unusable_error(error) from error
            finally:
                self.replaces_corrupt_file = False

    def run_once(
        self, work: Callable[[sqlite3.Connection], _TransactionResult], *, is_durable: bool
    ) -> _TransactionResult:
        """Run `work` in one transaction, without handling SQLite's errors."""
        connection = self.open_connection()
        try:
            if is_durable != self.is_durable:
                connection.execute(f"PRAGMA synchronous={'FULL' if is_durable else 'NORMAL'}")
                self.is_durable = is_durable
            connection.execute("BEGIN IMMEDIATE")
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            # Also for a signal's exception between two statements: no lock may remain.
            with suppress(sqlite3.Error):
                connection.rollback()
            raise
        return result

    def open_connection(self) -> sqlite3.Connection:
        """Return the connection to the file that is now at the path.

        If another process renamed the file, or somebody deleted it, this opens its replacement, so
        that all processes reserve in one file.
        """
        if self.connection is not None and self.inode == file_inode(self.path):
            return self.connection
        self.close()
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_lock_support(self.path.parent, variable="KLAVIYO_STATE_DIR")
            if not self.path.exists():
                self.create_file()
        except OSError as error:
            raise self.unusable_error(error) from error
        self.inode = file_inode(self.path)
        self.is_durable = None
        self.connection = self.connect(self.path)
        return self.connection

    def create_file(self) -> None:
        """Create the complete file elsewhere, and link it to the path unless one is there by then.

        Switching a database to WAL while others open it fails with "locked" whatever the timeout,
        and several processes do start together: one in a hundred failed that way.
        """
        fresh = self.path.with_name(f"{self.path.name}.{os.getpid()}-{get_ident()}")
        # SQLite would make it readable to others; its WAL files take this file's mode.
        os.close(os.open(fresh, os.O_CREAT | os.O_RDWR, 0o600))
        try:
            self.connect(fresh).close()
            self.path.hardlink_to(fresh)
        except FileExistsError:
            pass
        except OSError:
            # A file system without links: two processes that start together may each use a burst.
            fresh.replace(self.path)
        finally:
            fresh.unlink(missing_ok=True)

    def connect(self, path: Path) -> sqlite3.Connection:
        """Return a new connection to the file at `path`, with all tables created."""
        connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            self.create_tables(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def create_tables(self, connection: sqlite3.Connection) -> None:
        """Create the tables if they are missing, and delete reservations older than any window.

        The reservations in a corrupt file are unknown, and the limit may have been used up, so its
        replacement blocks all buckets for a minute. For daily quotas we rely on Klaviyo's 429:
        blocking reports for a day would cost more than that one request.
        """
        now = self.clock()
        blocked_until = now + STEADY_WINDOW_SECONDS if self.replaces_corrupt_file else now
        connection.execute("BEGIN IMMEDIATE")
        for statement in RATE_LIMIT_TABLES.split(";\n"):
            connection.execute(statement)
        connection.execute("INSERT OR IGNORE INTO clock VALUES (1, 0, ?, ?)", (now, blocked_until))
        connection.execute(
            "DELETE FROM booking WHERE moment < (SELECT seen FROM clock) - ?",
            (DAILY_WINDOW_SECONDS,),
        )
        self.last_heartbeat_at = -math.inf
        self.write_heartbeat(connection)
        connection.execute("COMMIT")

    def write_heartbeat(self, connection: sqlite3.Connection) -> None:
        """Record every `HEARTBEAT_SECONDS` that this host uses the folder, within a transaction.

        Raises:
            SettingError: another host uses it as well.
        """
        now = self.clock()
        if abs(now - self.last_heartbeat_at) < HEARTBEAT_SECONDS:
            return
        register_host(connection, current_host(), wall_time=now, folder=self.path.parent)
        self.last_heartbeat_at = now

    def advance_clock(self, connection: sqlite3.Connection) -> tuple[float, float]:
        """Return the present store time, and the earliest time that may be reserved."""
        wall_time = self.clock()
        row = connection.execute("SELECT ahead, seen, held_until FROM clock").fetchone()
        ahead, seen, blocked_until = cast("tuple[float, float, float]", row)
        now = max(wall_time + ahead, seen)
        connection.execute("UPDATE clock SET ahead = ?, seen = ?", (now - wall_time, now))
        return now, max(now, blocked_until)

    def rename_corrupt_file(self, error: sqlite3.DatabaseError) -> None:
        """Rename the corrupt file, and log it; a file that another process put there stays."""
        found = self.inode
        self.close()
        if found is not None and found != file_inode(self.path):
            return
        aside = self.path.with_name(f"{self.path.name}.broken")
        for ending in SQLITE_FILE_SUFFIXES:
            with suppress(FileNotFoundError):
                Path(f"{self.path}{ending}").replace(f"{aside}{ending}")
        _log.warning(
            "The rate limit store %s is broken (%s). It was renamed to %s, and a new one was "
            "created; the first requests wait a minute, because it is unknown how much of the "
            "limits was used.",
            self.path,
            error,
            aside.name,
        )

    def close(self) -> None:
        """Close the connection; the next transaction opens it again."""
        with self.lock:
            connection, self.connection, self.inode = self.connection, None, None
            if connection is not None:
                connection.close()

    def unusable_error(self, error: Exception) -> StorageError:
        """Return the error for a file that the operator must repair or move."""
        return StorageError(
            f"The rate limit store {self.path} cannot be used ({error}). Without it several "
            "processes would overrun Klaviyo's limits: set KLAVIYO_STATE_DIR to a folder on a "
            "local disk that may be written, or free the file."
        )


def is_corrupt(error: sqlite3.DatabaseError) -> bool:
    """Return whether an error means that the file's content is corrupt."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    # The low byte is the primary code; reading past the end of a truncated file has its own code.
    return code & 0xFF in CORRUPT_RESULT_CODES or code == sqlite3.SQLITE_IOERR_SHORT_READ


def file_inode(path: Path) -> int | None:
    """Return the inode of the file at a path; None if there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


RATE_LIMIT_TABLES = """
CREATE TABLE IF NOT EXISTS clock (
    id INTEGER PRIMARY KEY CHECK (id = 1), ahead REAL NOT NULL, seen REAL NOT NULL,
    held_until REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS budget (
    id INTEGER PRIMARY KEY, account TEXT NOT NULL, name TEXT NOT NULL, booked INTEGER NOT NULL,
    held_until REAL NOT NULL, UNIQUE (account, name)
) STRICT;
CREATE TABLE IF NOT EXISTS booking (
    budget INTEGER NOT NULL, number INTEGER NOT NULL, moment REAL NOT NULL,
    PRIMARY KEY (budget, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS day (
    budget INTEGER PRIMARY KEY, turns_at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS account (
    key_hash TEXT PRIMARY KEY, account_id TEXT NOT NULL, timezone TEXT NOT NULL,
    asked_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS revenue (
    account TEXT PRIMARY KEY, metric_id TEXT, asked_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS host (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, used_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class StoredBucket:
    """A bucket in the file; its reservations are read one at a time. Times are store times.

    It is valid within the transaction in which it was loaded. `blocked_until`: nothing is reserved
    before that; `resets_at`: the daily reset that Klaviyo announced last, minus infinity if none.
    """

    connection: sqlite3.Connection
    id: int
    last_number: int
    blocked_until: float
    resets_at: float

    def nth_last(self, n: int) -> float | None:
        """Return the time of the n-th last reservation; None if there is none (any more)."""
        row = self.connection.execute(
            "SELECT moment FROM booking WHERE budget = ? AND number = ?",
            (self.id, self.last_number - n + 1),
        ).fetchone()
        return row[0] if row else None

    def count_since(self, moment: float) -> int:
        """Return how many reservations there are for `moment` or later."""
        row = self.connection.execute(
            "SELECT count(*) FROM booking WHERE budget = ? AND moment >= ?", (self.id, moment)
        ).fetchone()
        return cast("tuple[int]", row)[0]

    def add(self, moment: float, horizon: float) -> None:
        """Reserve `moment`, and delete up to two reservations from before `horizon`."""
        number = self.last_number + 1
        self.connection.execute("INSERT INTO booking VALUES (?, ?, ?)", (self.id, number, moment))
        self.connection.execute("UPDATE budget SET booked = ? WHERE id = ?", (number, self.id))
        self.connection.execute(
            "DELETE FROM booking WHERE budget = ? AND moment < ? AND number < 2 + "
            "(SELECT min(number) FROM booking WHERE budget = ?)",
            (self.id, horizon, self.id),
        )

    def block_until(self, moment: float) -> None:
        """Allow no reservation before `moment`; an existing later block stays."""
        self.connection.execute(
            "UPDATE budget SET held_until = max(held_until, ?) WHERE id = ?", (moment, self.id)
        )

    def store_daily_reset(self, moment: float) -> None:
        """Store when Klaviyo resets the daily quota; a stored later time stays."""
        self.connection.execute(
            "INSERT INTO day VALUES (?, ?) "
            "ON CONFLICT (budget) DO UPDATE SET turns_at = max(turns_at, excluded.turns_at)",
            (self.id, moment),
        )


def load_bucket(connection: sqlite3.Connection, account: str, name: str) -> StoredBucket:
    """Return a bucket of an account; it is created if there is none."""
    query = (
        "SELECT id, booked, held_until, turns_at FROM budget LEFT JOIN day ON day.budget = id "
        "WHERE account = ? AND name = ?"
    )
    row = connection.execute(query, (account, name)).fetchone()
    if row is None:
        connection.execute("INSERT INTO budget VALUES (NULL, ?, ?, 0, 0)", (account, name))
        row = connection.execute(query, (account, name)).fetchone()
    bucket_id, last_number, held, resets_at = cast("tuple[int, int, float, float | None]", row)
    resets = -math.inf if resets_at is None else resets_at
    return StoredBucket(connection, bucket_id, last_number, held, resets)


HOST_OVERLAP_SECONDS = 120.0
"""A host that used the folder within this time may still be using it."""

HEARTBEAT_SECONDS = 30.0
"""How often a process that reserves records that its host uses the folder."""

HOST_TTL_SECONDS = 86_400.0

BOOT_ID_PATH = Path("/proc/sys/kernel/random/boot_id")
UPTIME_PATH = Path("/proc/uptime")


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """This machine: the id of its running kernel, its name, and when it was started."""

    id: str
    name: str
    booted_at: float
    """Seconds since 1970 by its present clock; 0 if unknown."""


@cache
def current_host() -> HostIdentity:
    """Return the host that this process runs on; without Linux's /proc it is identified by name."""
    name = platform.node()
    try:
        boot_id = BOOT_ID_PATH.read_text(encoding="utf-8").strip()
        seconds = float(UPTIME_PATH.read_text(encoding="utf-8").split()[0])
    except (OSError, ValueError, IndexError):
        return HostIdentity(name, name, 0.0)
    return HostIdentity(boot_id, name, time.time() - seconds)


def register_host(
    connection: sqlite3.Connection, host: HostIdentity, *, wall_time: float, folder: Path
) -> None:
    """Record that `host` uses the folder now, within a transaction.

    Raises:
        SettingError: another host uses it too, or used it by a clock that differs from ours.
    """
    since = max(wall_time - HOST_OVERLAP_SECONDS, host.booted_at)
    row = connection.execute(
        "SELECT name, used_at FROM host WHERE id <> ? AND used_at > ? ORDER BY used_at DESC",
        (host.id, since),
    ).fetchone()
    if row is not None:
        name, used_at = str(row[0]), float(row[1])
        # The same name and a future time: before its restart this host's clock was ahead.
        if used_at <= wall_time + HOST_OVERLAP_SECONDS or name != host.name:
            raise shared_folder_error(host, name, used_at - wall_time, folder)
    connection.execute("DELETE FROM host WHERE used_at < ?", (wall_time - HOST_TTL_SECONDS,))
    connection.execute(
        "INSERT OR REPLACE INTO host VALUES (?, ?, ?)", (host.id, host.name, wall_time)
    )


def shared_folder_error(
    host: HostIdentity, other_host: str, seconds_from_now: float, folder: Path
) -> SettingError:
    """Return the error for a folder that another host used, negative seconds: in the past."""
    if seconds_from_now > HOST_OVERLAP_SECONDS:
        used = (
            f"used by the host {other_host} at a time that is {seconds_from_now:.0f} s ahead "
            "of the clock here"
        )
        way_out = (
            "set both clocks right. If that host is gone, remove the rate limit store from the "
            "folder: today's bookings are lost with it"
        )
    else:
        used = f"used by the host {other_host} {abs(seconds_from_now):.0f} s ago"
        way_out = f"if that host was stopped, run it again in {HOST_OVERLAP_SECONDS:.0f} s"
    return SettingError(
        f"the state folder {folder} was {used}, and this host is {host.name}: locks do not hold "
        "between hosts, so both would overrun Klaviyo's limits. Set KLAVIYO_STATE_DIR to a folder "
        f"on a local disk of each host; {way_out}"
    )
