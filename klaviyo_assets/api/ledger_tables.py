"""The ledger's tables: bookings by number, ledger time, and facts of accounts, as SQL.

What belongs here: what the rows mean, each function inside a transaction of its caller. What does
not: when to book (`ledger.py`, `limits.py`), the file itself (`ledger_file.py`).

Bookings of one budget are numbered: the one that leaves a window of n requests is n numbers back.
Their moments are in ledger time: the wall clock, but never going back. When the wall clock does,
the difference is added from then on: bookings keep their distance, so nothing waits longer and
nothing bursts. When it leaps ahead, at most one window more than allowed is spent.
"""

import math
import sqlite3
from typing import cast

from klaviyo_assets.api.limits import DAY_SECONDS

TABLES = """
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
"""


class Numbered:
    """The bookings of one budget in the file, read one at a time by number."""

    def __init__(self, connection: sqlite3.Connection, budget: int, booked: int) -> None:
        self.connection = connection
        self.budget = budget
        self.booked = booked

    def nth_last(self, n: int) -> float | None:
        """Return the moment of the n-th last booking; None where it was never made or is gone."""
        row = self.connection.execute(
            "SELECT moment FROM booking WHERE budget = ? AND number = ?",
            (self.budget, self.booked - n + 1),
        ).fetchone()
        return row[0] if row else None

    def count_from(self, moment: float) -> int:
        """Return how many are booked for `moment` or later."""
        row = self.connection.execute(
            "SELECT count(*) FROM booking WHERE budget = ? AND moment >= ?", (self.budget, moment)
        ).fetchone()
        return cast("tuple[int]", row)[0]

    def add(self, moment: float, horizon: float) -> None:
        """Book `moment`, and forget up to two bookings that lie before `horizon`."""
        self.connection.execute(
            "INSERT INTO booking VALUES (?, ?, ?)", (self.budget, self.booked + 1, moment)
        )
        self.connection.execute(
            "UPDATE budget SET booked = ? WHERE id = ?", (self.booked + 1, self.budget)
        )
        self.connection.execute(
            "DELETE FROM booking WHERE budget = ? AND moment < ? AND number < 2 + "
            "(SELECT min(number) FROM booking WHERE budget = ?)",
            (self.budget, horizon, self.budget),
        )


def make_tables(connection: sqlite3.Connection, *, wall: float, held_until: float) -> None:
    """Make the tables where they are missing, and forget what is older than any window.

    Nothing at all is booked before `held_until` when the tables are new.
    """
    connection.execute("BEGIN IMMEDIATE")
    for statement in TABLES.split(";\n"):
        connection.execute(statement)
    connection.execute("INSERT OR IGNORE INTO clock VALUES (1, 0, ?, ?)", (wall, held_until))
    connection.execute(
        "DELETE FROM booking WHERE moment < (SELECT seen FROM clock) - ?", (DAY_SECONDS,)
    )
    connection.execute("COMMIT")


def ledger_time(connection: sqlite3.Connection, wall: float) -> tuple[float, float]:
    """Return ledger time for a wall clock's time, and the earliest moment that may be booked."""
    row = connection.execute("SELECT ahead, seen, held_until FROM clock").fetchone()
    ahead, seen, held_until = cast("tuple[float, float, float]", row)
    now = max(wall + ahead, seen)
    connection.execute("UPDATE clock SET ahead = ?, seen = ?", (now - wall, now))
    return now, max(now, held_until)


def bookings_of(connection: sqlite3.Connection, account: str, name: str) -> tuple[Numbered, float]:
    """Return the bookings of a budget, and the moment until which it is held."""
    query = "SELECT id, booked, held_until FROM budget WHERE account = ? AND name = ?"
    row = connection.execute(query, (account, name)).fetchone()
    if row is None:
        connection.execute("INSERT INTO budget VALUES (NULL, ?, ?, 0, 0)", (account, name))
        row = connection.execute(query, (account, name)).fetchone()
    budget, booked, held_until = cast("tuple[int, int, float]", row)
    return Numbered(connection, budget, booked), held_until


def hold_until(connection: sqlite3.Connection, budget: int, moment: float) -> None:
    """Let nothing be booked in a budget before `moment`; an earlier one changes nothing."""
    connection.execute(
        "UPDATE budget SET held_until = max(held_until, ?) WHERE id = ?", (moment, budget)
    )


def turn_of(connection: sqlite3.Connection, budget: int) -> float:
    """Return when Klaviyo's day turns, or turned, by its own word; minus infinity if never told."""
    row = connection.execute("SELECT turns_at FROM day WHERE budget = ?", (budget,)).fetchone()
    return cast("tuple[float]", row)[0] if row else -math.inf


def note_turn(connection: sqlite3.Connection, budget: int, turns_at: float) -> None:
    """Keep when Klaviyo's day turns; the latest word counts where it is later."""
    connection.execute(
        "INSERT INTO day VALUES (?, ?) "
        "ON CONFLICT (budget) DO UPDATE SET turns_at = max(turns_at, excluded.turns_at)",
        (budget, turns_at),
    )
