"""The ledger: one rate budget for all processes and projects of a user on this machine.

What belongs here: bookings in Klaviyo's budgets, and facts of accounts, in the state folder. What
does not: the arithmetic (`limits.py`), the file (`ledger_file.py`), waiting (`client.py`).

A reservation takes 0.4 ms (0.35 of CPU) with four processes that make 58 a second in all, and
0.05 ms in a process that is alone; measured on two cores, a local disk.
"""

import math
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import cast

from klaviyo_assets.api.ledger_file import LedgerFile
from klaviyo_assets.api.ledger_hosts import BEAT_SECONDS, note_host, this_host
from klaviyo_assets.api.ledger_tables import (
    Numbered,
    bookings_of,
    hold_until,
    ledger_time,
    make_tables,
    note_turn,
    turn_of,
)
from klaviyo_assets.api.limits import (
    DAY_SECONDS,
    STEADY_SECONDS,
    Allowance,
    allowances,
    earliest,
)
from klaviyo_assets.api.quota import Day, Quota
from klaviyo_assets.errors import QuotaError
from klaviyo_assets.model.tiers import Budget

FILE_NAME = "ledger-1.sqlite"
"""The number is the layout's: another layout is another file, never a migration."""

LONGEST_HOLD_SECONDS = 300.0
LONGEST_BOOKING_SECONDS = 3600.0
"""A moment further away is a spent quota, not a queue: it is refused, not booked."""

FACTS_LAST_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """What Klaviyo said of a key's account: its id, its IANA time zone, and when (UTC).

    `timezone` is None where Klaviyo named none.
    """

    account_id: str
    timezone: str | None
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class RevenueMetric:
    """Which metric an account maps to revenue, None for none, and when it said so, UTC."""

    id: str | None
    asked_at: datetime


def key_hash(key: str) -> str:
    """Return the name under which a key is known here; the key cannot be had back from it."""
    return sha256(key.encode()).hexdigest()[:32]


class Ledger:
    """The budgets of one account in the file of the state folder `path`.

    `account` is the account's id, or `key_hash(key)` until that is known. `share` is the part of
    each steady limit that is ours, `reserve` the requests of each daily quota that are not; `scale`
    multiplies every published limit. Safe for threads and processes.
    """

    def __init__(  # noqa: PLR0913 - settings, and the clock for tests, all by name
        self,
        path: Path,
        account: str,
        *,
        share: float = 0.9,
        scale: float = 1.0,
        reserve: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.account = account
        self.share = share
        self.scale = scale
        self.reserved = reserve
        self.clock = clock
        self.folder = path
        self.beat_at = -math.inf
        """When this ledger last wrote that its host uses the folder, by its clock."""
        self.file = LedgerFile(path / FILE_NAME, self.prepare)

    def reserve(self, budgets: tuple[Budget, ...]) -> float:
        """Book the next request in every budget; return how long to wait for it, in seconds.

        It is booked at one moment, the earliest that all budgets allow. However many processes ask,
        no second holds more than a burst and no minute more than our share of the steady limit.

        Raises:
            QuotaError: a day's quota is spent, or a budget for more than an hour; nothing is
                booked.
            SettingError: another host uses the state folder, or it has no locks.
            StorageError: the file cannot be used.
        """
        is_dear = any(budget.tier.daily is not None for budget in budgets)
        return self.file.transact(
            lambda connection: self.booked(connection, budgets), is_dear=is_dear
        )

    def booked(self, connection: sqlite3.Connection, budgets: tuple[Budget, ...]) -> float:
        """Book within a transaction; return the seconds until then."""
        self.beat(connection)
        now, moment = ledger_time(connection, self.clock())
        bookings: list[tuple[Numbered, float]] = []
        for budget in dict.fromkeys(budgets):
            row, held_until = bookings_of(connection, self.account, budget.name)
            limits = self.limits(budget)
            free = earliest(limits[:2], row, now)
            for allowance in limits[2:]:
                day = Day(allowance, row, now, self.clock())
                day.refuse_spent(budget.name)
                free = max(free, day.free)
            moment = max(moment, held_until, free)
            bookings.append((row, now - max(limit.seconds for limit in limits)))
        wait = moment - now
        if wait > LONGEST_BOOKING_SECONDS:
            raise spent(budgets, wait)
        for row, horizon in bookings:
            row.add(moment, horizon)
        return wait

    def limits(self, budget: Budget) -> tuple[Allowance, ...]:
        """Return what may be spent of a budget: a second's, a minute's and, if limited, a day's."""
        return allowances(budget.tier, share=self.share, scale=self.scale, reserve=self.reserved)

    def quota(self, budget: Budget) -> Quota:
        """Return what is left of a budget's day; books nothing.

        Raises:
            ValueError: the budget has no daily quota.
            StorageError: the file cannot be used.
        """
        if budget.tier.daily is None:
            raise ValueError(f"{budget.name} has no daily quota")
        allowance = self.limits(budget)[2]

        def read(connection: sqlite3.Connection) -> Quota:
            now, _ = ledger_time(connection, self.clock())
            row, _ = bookings_of(connection, self.account, budget.name)
            return Day(allowance, row, now, self.clock()).quota()

        return self.file.transact(read)

    def held(self, budgets: tuple[Budget, ...]) -> float:
        """Return for how many seconds Klaviyo has told us to leave these budgets alone."""

        def seconds(connection: sqlite3.Connection) -> float:
            now, _ = ledger_time(connection, self.clock())
            until = [now]
            for budget in dict.fromkeys(budgets):
                row, held_until = bookings_of(connection, self.account, budget.name)
                until += [held_until, turn_of(connection, row.budget)]
            return max(until) - now

        return self.file.transact(seconds)

    def note_retry_after(self, budgets: tuple[Budget, ...], seconds: float) -> None:
        """Keep every process out of these budgets for `seconds`, up to five minutes."""
        self.note(budgets, min(max(seconds, 0.0), LONGEST_HOLD_SECONDS), hold_until)

    def note_spent_day(self, budgets: tuple[Budget, ...], seconds: float) -> None:
        """Keep every process out of those budgets that have a daily quota, up to a day.

        When the `seconds` are over, Klaviyo's day has turned: what was booked before is no longer
        counted.
        """
        dear = tuple(budget for budget in budgets if budget.tier.daily is not None)
        # Whole seconds are told, and may be rounded down.
        self.note(dear, min(max(seconds, 0.0), DAY_SECONDS) + 1, note_turn, is_dear=True)

    def note(
        self,
        budgets: tuple[Budget, ...],
        seconds: float,
        keep: Callable[[sqlite3.Connection, int, float], None],
        *,
        is_dear: bool = False,
    ) -> None:
        """Let `keep` write a moment in `seconds` from now for each of the budgets."""

        def write(connection: sqlite3.Connection) -> None:
            now, _ = ledger_time(connection, self.clock())
            for budget in dict.fromkeys(budgets):
                row, _ = bookings_of(connection, self.account, budget.name)
                keep(connection, row.budget, now + seconds)

        self.file.transact(write, is_dear=is_dear)

    def account_facts(self, key_hash: str) -> AccountFacts | None:
        """Return what Klaviyo said of a key's account, where it was asked within a day."""

        def read(connection: sqlite3.Connection) -> AccountFacts | None:
            row = connection.execute(
                "SELECT account_id, timezone, asked_at FROM account WHERE key_hash = ?", (key_hash,)
            ).fetchone()
            if row is None or not 0 <= self.clock() - row[2] < FACTS_LAST_SECONDS:
                return None
            return AccountFacts(row[0], row[1] or None, datetime.fromtimestamp(row[2], UTC))

        return self.file.transact(read)

    def remember_account(self, key_hash: str, *, account_id: str, timezone: str | None) -> None:
        """Keep what Klaviyo just said of a key's account: its id for a day, its zone for good."""
        # The column takes no NULL, and another layout would be another file.
        facts = (key_hash, account_id, timezone or "", self.clock())

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO account VALUES (?, ?, ?, ?)", facts)

        self.file.transact(write)

    def revenue_metric(self) -> RevenueMetric | None:
        """Return which metric the account maps to revenue; None where it was never asked."""

        def read(connection: sqlite3.Connection) -> RevenueMetric | None:
            row = connection.execute(
                "SELECT metric_id, asked_at FROM revenue WHERE account = ?", (self.account,)
            ).fetchone()
            return RevenueMetric(row[0], datetime.fromtimestamp(row[1], UTC)) if row else None

        return self.file.transact(read)

    def remember_revenue_metric(self, metric_id: str | None) -> None:
        """Keep which metric the account maps to revenue, None where it maps none."""
        fact = (self.account, metric_id, self.clock())

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO revenue VALUES (?, ?, ?)", fact)

        self.file.transact(write)

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        self.file.close()

    def prepare(self, connection: sqlite3.Connection, *, was_broken: bool) -> None:
        """Make the tables; after a broken file, hold all budgets for a minute.

        What the broken one held is unknown: it may all have been spent. Of the day, Klaviyo's own
        refusal will tell; to hold reports for a day would cost more than that one request.
        """
        wall = self.clock()
        held_until = wall + STEADY_SECONDS if was_broken else wall
        make_tables(connection, wall=wall, held_until=held_until)
        connection.execute("BEGIN IMMEDIATE")
        self.beat_at = -math.inf
        self.beat(connection)
        connection.execute("COMMIT")

    def beat(self, connection: sqlite3.Connection) -> None:
        """Write down from time to time that this host uses the folder, within a transaction.

        Raises:
            SettingError: another host does as well.
        """
        wall = self.clock()
        if abs(wall - self.beat_at) < BEAT_SECONDS:
            return
        note_host(connection, this_host(), wall=wall, folder=self.folder)
        self.beat_at = wall


def last_said_zone(folder: Path, account: str) -> str | None:
    """Return the time zone that Klaviyo last named for an account, however long ago; else None.

    Reads the file of the state folder and nothing else: it makes none, waits for no writer, and
    takes a file that cannot be read for none. So a program may call it while it is loaded.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0)
        ) as connection:
            row = connection.execute(
                "SELECT timezone FROM account WHERE account_id = ? ORDER BY asked_at DESC LIMIT 1",
                (account,),
            ).fetchone()
    except sqlite3.Error:
        return None
    return cast("tuple[str]", row)[0] or None if row is not None else None


def spent(budgets: tuple[Budget, ...], wait: float) -> QuotaError:
    """Return the error for a budget that is spent for longer than anybody should queue."""
    names = " and ".join(budget.name for budget in budgets)
    return QuotaError(
        f"{names}: nothing of Klaviyo's limit is left for {wait / 3600:.1f} hours. Run it again "
        "after that.",
        retry_after_seconds=wait,
    )
