"""The ledger's file: one SQLite database that outlives crashes, rubbish and deletion.

What belongs here: opening, transactions, permissions, setting a broken file aside. What does not:
what the tables mean (`ledger.py`).

SQLite in WAL mode: one writer at a time, and a killed process rolls back by itself. Commits are not
synced to the disk one by one (`synchronous=NORMAL`), but for those that are dear: after a power
failure the last bookings may be missing, never half there. Source: https://www.sqlite.org/wal.html
"""

import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import RLock, get_ident
from typing import Protocol, TypeVar

from klaviyo_assets.errors import StorageError
from klaviyo_assets.locks import check_locks

BUSY_SECONDS = 10.0
"""How long a transaction waits for those of others; each takes well below a millisecond."""

BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
"""Result codes of a file that is not, or no longer, the database we wrote."""

FILES = ("-wal", "-shm", "")
"""What SQLite keeps under a name; the database last, as side files make no sense beside another."""

Result = TypeVar("Result")


class Prepare(Protocol):
    """Makes the tables; `was_broken` tells that a file whose content is lost was set aside."""

    def __call__(self, connection: sqlite3.Connection, *, was_broken: bool) -> None:
        """Leave the connection with all tables and no transaction."""
        ...


log = logging.getLogger(__name__)


class LedgerFile:
    """One connection for all threads of this process, opened when first needed.

    `prepare` makes the tables in a new connection.
    """

    def __init__(self, path: Path, prepare: Prepare) -> None:
        self.path = path
        self.prepare = prepare
        self.lock = RLock()
        self.connection: sqlite3.Connection | None = None
        self.inode: int | None = None
        self.is_synced: bool | None = None
        """Whether the connection waits for the disk at each commit; None before it was told."""

    def transact(
        self, work: Callable[[sqlite3.Connection], Result], *, is_dear: bool = False
    ) -> Result:
        """Return what `work` returns, run under the write lock: all of its changes, or none.

        A file found broken is renamed aside, and `work` runs again in a new one. What is dear is on
        the disk when this returns, power failures included.

        Raises:
            SettingError: the folder's file system does not lock files.
            StorageError: the file cannot be written, or stays locked for ten seconds.
        """
        with self.lock:
            try:
                return self.attempt(work, was_broken=False, is_dear=is_dear)
            except sqlite3.DatabaseError as error:
                if not is_broken(error):
                    raise self.unusable(error) from error
                self.set_aside(error)
            try:
                return self.attempt(work, was_broken=True, is_dear=is_dear)
            except sqlite3.DatabaseError as error:
                raise self.unusable(error) from error

    def attempt(
        self, work: Callable[[sqlite3.Connection], Result], *, was_broken: bool, is_dear: bool
    ) -> Result:
        """Run `work` in one transaction; SQLite's errors pass."""
        connection = self.opened(was_broken=was_broken)
        try:
            if is_dear != self.is_synced:
                connection.execute(f"PRAGMA synchronous={'FULL' if is_dear else 'NORMAL'}")
                self.is_synced = is_dear
            connection.execute("BEGIN IMMEDIATE")
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            # Also for a signal's exception between two statements: no lock may stay behind.
            with suppress(sqlite3.Error):
                connection.rollback()
            raise
        return result

    def opened(self, *, was_broken: bool) -> sqlite3.Connection:
        """Return the connection to the file that now lies at the path.

        Another process may have set the file aside, or somebody deleted it: then this opens the
        one that took its place, so that all processes book in one file.
        """
        if self.connection is not None and self.inode == inode_of(self.path):
            return self.connection
        self.close()
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_locks(self.path.parent, variable="KLAVIYO_STATE_DIR")
            if not self.path.exists():
                self.make(was_broken=was_broken)
        except OSError as error:
            raise self.unusable(error) from error
        self.inode = inode_of(self.path)
        self.is_synced = None
        self.connection = self.connected(self.path, was_broken=was_broken)
        return self.connection

    def make(self, *, was_broken: bool) -> None:
        """Put a new file at the path, complete from its first moment, unless one is there by then.

        Turning a database to WAL while others open it fails with "locked" whatever the timeout, and
        several processes do begin at once: one in a hundred failed that way.
        """
        fresh = self.path.with_name(f"{self.path.name}.{os.getpid()}-{get_ident()}")
        # Made before SQLite can make it readable to others; its side files take this mode.
        os.close(os.open(fresh, os.O_CREAT | os.O_RDWR, 0o600))
        try:
            self.connected(fresh, was_broken=was_broken).close()
            self.path.hardlink_to(fresh)
        except FileExistsError:
            pass
        except OSError:
            # A file system without links: two that begin at once may each book a first burst.
            fresh.replace(self.path)
        finally:
            fresh.unlink(missing_ok=True)

    def connected(self, path: Path, *, was_broken: bool) -> sqlite3.Connection:
        """Return a new connection to the file at `path`, with all tables made."""
        connection = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            self.prepare(connection, was_broken=was_broken)
        except BaseException:
            connection.close()
            raise
        return connection

    def set_aside(self, error: sqlite3.DatabaseError) -> None:
        """Rename the broken file, and say so; a file that another process put there stays."""
        found = self.inode
        self.close()
        if found is not None and found != inode_of(self.path):
            return
        aside = self.path.with_name(f"{self.path.name}.broken")
        for ending in FILES:
            with suppress(FileNotFoundError):
                Path(f"{self.path}{ending}").replace(f"{aside}{ending}")
        log.warning(
            "The rate ledger %s is broken (%s). It is kept as %s, and a new one begins; the first "
            "requests wait a minute, as what was spent is unknown.",
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

    def unusable(self, error: Exception) -> StorageError:
        """Return the error for a ledger that the operator must look at."""
        return StorageError(
            f"The rate ledger {self.path} cannot be used ({error}). Without it several processes "
            "would overrun Klaviyo's limits: set KLAVIYO_STATE_DIR to a folder on a local disk "
            "that may be written, or free the file."
        )


def is_broken(error: sqlite3.DatabaseError) -> bool:
    """Tell whether an error means that the file's content is no good."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    # The low byte is the primary code; a read past a cut file's end is an I/O error of its own.
    return code & 0xFF in BROKEN or code == sqlite3.SQLITE_IOERR_SHORT_READ


def inode_of(path: Path) -> int | None:
    """Return what identifies the file at a path; None where there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
