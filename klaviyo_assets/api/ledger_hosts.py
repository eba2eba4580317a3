"""Which hosts use a state folder: two at once are refused, since locks end at the kernel.

What belongs here: the table of hosts, and who this host is. What does not: bookings
(`ledger_tables.py`), the file (`ledger_file.py`).

A host is its running kernel: containers of one kernel share its locks, and may share the folder
whatever they are called. A host that was restarted, or whose container came back under another
name, goes on at once: what was written before its kernel started is no sign of another host. One
whose volume moved to another machine goes on when the last use is `OVERLAP_SECONDS` ago.
"""

import platform
import sqlite3
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from klaviyo_assets.errors import SettingError

TABLE = """
CREATE TABLE IF NOT EXISTS host (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, used_at REAL NOT NULL
) STRICT, WITHOUT ROWID
"""

OVERLAP_SECONDS = 120.0
"""A host that used the folder so short a time ago may be using it still."""

BEAT_SECONDS = 30.0
"""How often a ledger that goes on booking says that its host uses the folder."""

FORGOTTEN_SECONDS = 86_400.0

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
UPTIME = Path("/proc/uptime")


@dataclass(frozen=True, slots=True)
class Host:
    """This machine: what identifies its running kernel, its name, and how long it runs."""

    id: str
    name: str
    booted_at: float
    """Seconds since 1970 by its clock of now; 0 where the system does not say."""


@cache
def this_host() -> Host:
    """Return the host that this process runs on; without Linux's /proc its name stands for it."""
    name = platform.node()
    try:
        boot_id = BOOT_ID.read_text(encoding="utf-8").strip()
        seconds = float(UPTIME.read_text(encoding="utf-8").split()[0])
    except (OSError, ValueError, IndexError):
        return Host(name, name, 0.0)
    return Host(boot_id, name, time.time() - seconds)


def note_host(connection: sqlite3.Connection, host: Host, *, wall: float, folder: Path) -> None:
    """Write down that `host` uses the folder now, within a transaction.

    Raises:
        SettingError: another host uses it as well, or used it by a clock that disagrees.
    """
    connection.execute(TABLE)
    since = max(wall - OVERLAP_SECONDS, host.booted_at)
    row = connection.execute(
        "SELECT name, used_at FROM host WHERE id <> ? AND used_at > ? ORDER BY used_at DESC",
        (host.id, since),
    ).fetchone()
    if row is not None:
        name, used_at = str(row[0]), float(row[1])
        # By the same name and in the future: before its restart this host's clock was ahead.
        if used_at <= wall + OVERLAP_SECONDS or name != host.name:
            raise two_hosts(host, name, used_at - wall, folder)
    connection.execute("DELETE FROM host WHERE used_at < ?", (wall - FORGOTTEN_SECONDS,))
    connection.execute("INSERT OR REPLACE INTO host VALUES (?, ?, ?)", (host.id, host.name, wall))


def two_hosts(host: Host, other: str, seconds: float, folder: Path) -> SettingError:
    """Return the error for a folder that `other` used so many seconds from now by its clock."""
    if seconds > OVERLAP_SECONDS:
        used = f"used by the host {other} at a time that is {seconds:.0f} s ahead of the clock here"
        way_out = (
            "set both clocks right. If that host is gone, remove the ledger from the folder: the "
            "bookings of today go with it"
        )
    else:
        used = f"used by the host {other} {abs(seconds):.0f} s ago"
        way_out = f"if that host was stopped, run it again in {OVERLAP_SECONDS:.0f} s"
    return SettingError(
        f"the state folder {folder} was {used}, and this host is {host.name}: locks do not hold "
        "between hosts, so both would overrun Klaviyo's limits. Set KLAVIYO_STATE_DIR to a folder "
        f"on a local disk of each host; {way_out}"
    )
