"""DuckDB in this process: imported late, started early.

What belongs here: starting it. What does not: SQL (`sql`, `relations`) and files of ours
(`database`). DuckDB is imported by what uses it: a sync keeps the garbage collector from what is
there when it begins (`sync.memory`), and DuckDB reports what of its own that covers as leaks when
the process ends, fifty lines of them.

To import it takes 70 ms and to start it 15 to 30. One that is started in memory, while a sync waits
for its first page, writes klaviyo.duckdb in 10 ms; one started for that file alone took 40 to 80,
of a run of two seconds, and again for each of a dozen streams of the hourly job.
"""

import atexit
import os
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from klaviyo_assets.lake.sql import literal, quoted

if TYPE_CHECKING:
    import duckdb

# Nothing may be fetched from the network, whatever a path or a function is called.
OFFLINE: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}

CATALOG = "beside"
"""What a database that is being written is called; its views do not know."""

STORAGE_VERSION = "v1.0.0"
"""The format of the files that we write: every DuckDB since 1.0 reads it."""

_TURN = Lock()


def load() -> None:
    """Import and start DuckDB, 100 ms of work, for whoever has the time now."""
    _started(os.getpid())


def connection() -> "duckdb.DuckDBPyConnection":
    """Return a connection in memory of its own, in UTC, that fetches nothing."""
    made = _new()
    made.execute("SET TimeZone = 'UTC'")
    return made


@contextmanager
def database_at(path: Path) -> "Generator[duckdb.DuckDBPyConnection]":
    """Open a database file as `CATALOG` to write in it; it is whole when the block has ended.

    Raises:
        duckdb.Error: it cannot be written.
    """
    with _TURN, _started(os.getpid()).cursor() as cursor:
        options = f"STORAGE_VERSION {literal(STORAGE_VERSION)}"
        cursor.execute(f"ATTACH {literal(str(path))} AS {quoted(CATALOG)} ({options})")
        try:
            yield cursor
        finally:
            cursor.execute(f"DETACH {quoted(CATALOG)}")


@cache
def _started(process: int) -> "duckdb.DuckDBPyConnection":  # noqa: ARG001 - what it is cached by
    """Return this process's DuckDB: one that a fork brought along has lost its threads."""
    # What lives longer than that, in a module that the collector leaves alone, counts as a leak.
    atexit.register(_started.cache_clear)
    return _new()


def _new() -> "duckdb.DuckDBPyConnection":
    import duckdb  # noqa: PLC0415 - late, as the head of this file says

    return duckdb.connect(":memory:", config=OFFLINE)
