"""The ledger: one rate budget for all processes and projects of a user on this machine.

What belongs here: bookings in Klaviyo's budgets, and facts of accounts, in the state folder. What
does not: the arithmetic (`limits.py`), the file (`ledger_file.py`), waiting (`client.py`).

Measured with four processes, 58 reservations a second in all: FIGURE.
"""

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from klaviyo_assets.api.ledger_file import LedgerFile
from klaviyo_assets.api.ledger_tables import Numbered, bookings_of, ledger_time, make_tables
from klaviyo_assets.api.limits import STEADY_SECONDS, allowances, earliest
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
    """What Klaviyo said of a key's account: its id, its IANA time zone, and when (UTC)."""

    account_id: str
    timezone: str
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

    def __init__(
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
        self.file = LedgerFile(path / FILE_NAME, self.prepare)

    def reserve(self, budgets: tuple[Budget, ...]) -> float:
        """Book the next request in every budget; return how long to wait for it, in seconds.

        It is booked at one moment, the earliest that all budgets allow. However many processes ask,
        no second holds more than a burst and no minute more than our share of the steady limit.

        Raises:
            QuotaError: a day's quota is spent, or a budget for more than an hour; nothing is
                booked.
            StorageError: the file cannot be used.
        """
        is_dear = any(budget.tier.daily is not None for budget in budgets)
        return self.file.transact(
            lambda connection: self.booked(connection, budgets), is_dear=is_dear
        )

    def booked(self, connection: sqlite3.Connection, budgets: tuple[Budget, ...]) -> float:
        """Book within a transaction; return the seconds until then."""
        now, moment = ledger_time(connection, self.clock())
        bookings: list[tuple[Numbered, float]] = []
        for budget in dict.fromkeys(budgets):
            row, held_until = bookings_of(connection, self.account, budget.name)
            limits = self.limits(budget)
            free = max(earliest(limits[:2], row, now), self.day_free(budget, row, now))
            moment = max(moment, held_until, free)
            bookings.append((row, now - max(limit.seconds for limit in limits)))
        wait = moment - now
        if wait > LONGEST_BOOKING_SECONDS:
            raise spent(budgets, wait)
        for row, horizon in bookings:
            row.add(moment, horizon)
        return wait

    def limits(self, budget: Budget) -> tuple[Allowance, ...]:
        """Return what may be spent of a budget: a second's, a minute's, and the day's if limited."""
        return allowances(
            budget.tier, share=self.share, scale=self.scale, reserve=self.reserved
        )

    def day_free(self, budget: Budget, row: Numbered, now: float) -> float:
        """Return the moment from which the day allows another request of a budget.

        Raises:
            QuotaError: it lies further away than a run should sleep.
        """
        free = now
        for limit in self.limits(budget)[2:]:
            turn = turn_of(row.connection, row.budget)
            free = turn if turn > now else earliest((limit,), SinceTurn(row, turn), now)
            if free - now > LONGEST_DAY_WAIT_SECONDS:
                raise spent_day(budget.name, self.quota_of(budget, row, now), free - now)
        return free

    def quota(self, budget: Budget) -> Quota:
        """Return what is left of the day for a budget; books nothing.

        Raises:
            ValueError: the budget has no daily quota.
            StorageError: the file cannot be used.
        """
        if budget.tier.daily is None:
            raise ValueError(f"{budget.name} has no daily quota")

        def read(connection: sqlite3.Connection) -> Quota:
            now, _ = ledger_time(connection, self.clock())
            row, _ = bookings_of(connection, self.account, budget.name)
            return self.quota_of(budget, row, now)

        return self.file.transact(read)

    def quota_of(self, budget: Budget, row: Numbered, now: float) -> Quota:
        """Return the day's quota within a transaction; moments as the wall clock has them."""
        day = self.limits(budget)[2]
        turn = turn_of(row.connection, row.budget)
        is_blocked = turn > now
        since = now - day.seconds if is_blocked else max(now - day.seconds, turn)
        used = row.count_since(since)
        left = 0 if is_blocked else max(0, day.requests - used)
        free = turn if is_blocked else earliest((day,), SinceTurn(row, turn), now)
        wall = self.clock()
        return Quota(
            used=used,
            left=left,
            limit=day.requests,
            next_free_at=None if left else datetime.fromtimestamp(wall + free - now, UTC),
            blocked_until=datetime.fromtimestamp(wall + turn - now, UTC) if is_blocked else None,
        )

    def held(self, budgets: tuple[Budget, ...]) -> float:
        """Return for how many seconds Klaviyo has told us to leave these budgets alone."""

        def seconds(connection: sqlite3.Connection) -> float:
            now, _ = ledger_time(connection, self.clock())
            return max(
                (
                    bookings_of(connection, self.account, each.name)[1] - now
                    for each in dict.fromkeys(budgets)
                ),
                default=0.0,
            )

        return max(0.0, self.file.transact(seconds))

    def note_retry_after(self, budgets: tuple[Budget, ...], seconds: float) -> None:
        """Keep every process out of these budgets for `seconds`, up to five minutes."""

        def hold(connection: sqlite3.Connection) -> None:
            now, _ = ledger_time(connection, self.clock())
            until = now + min(max(seconds, 0.0), LONGEST_HOLD_SECONDS)
            for budget in dict.fromkeys(budgets):
                row, _ = bookings_of(connection, self.account, budget.name)
                connection.execute(
                    "UPDATE budget SET held_until = max(held_until, ?) WHERE id = ?",
                    (until, row.budget),
                )

        self.file.transact(hold)

    def account_facts(self, key_hash: str) -> AccountFacts | None:
        """Return what Klaviyo said of a key's account, where it was asked within a day."""

        def read(connection: sqlite3.Connection) -> AccountFacts | None:
            row = connection.execute(
                "SELECT account_id, timezone, asked_at FROM account WHERE key_hash = ?", (key_hash,)
            ).fetchone()
            if row is None or not 0 <= self.clock() - row[2] < FACTS_LAST_SECONDS:
                return None
            return AccountFacts(row[0], row[1], datetime.fromtimestamp(row[2], UTC))

        return self.file.transact(read)

    def remember_account(self, key_hash: str, *, account_id: str, timezone: str) -> None:
        """Keep what Klaviyo just said of a key's account, for a day."""
        facts = (key_hash, account_id, timezone, self.clock())

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO account VALUES (?, ?, ?, ?)", facts)

        self.file.transact(write)

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        self.file.close()

    def prepare(self, connection: sqlite3.Connection, *, was_broken: bool) -> None:
        """Make the tables; after a broken file, hold all budgets for a minute.

        What the broken one held is unknown: it may all have been spent.
        """
        wall = self.clock()
        held_until = wall + STEADY_SECONDS if was_broken else wall
        make_tables(connection, wall=wall, held_until=held_until)


def spent(budgets: tuple[Budget, ...], wait: float) -> QuotaError:
    """Return the error for a budget that is spent for longer than anybody should queue."""
    names = " and ".join(budget.name for budget in budgets)
    return QuotaError(
        f"{names}: nothing of Klaviyo's limit is left for {wait / 3600:.1f} hours. Run it again "
        "after that.",
        retry_after_seconds=wait,
    )
