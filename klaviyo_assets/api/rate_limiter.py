"""The rate limiter that all processes and projects of a user on this machine share.

A reservation takes 0.4 ms (0.35 of CPU) with four processes that make 58 a second in all, and
0.05 ms in a process that is alone; measured on two cores, a local disk.

Klaviyo's day is a fixed window whose turn is documented nowhere. So the last 24 hours are counted,
sliding, which is safe for every phase, until Klaviyo itself says in a `Retry-After` when its day
turns: what was booked before that moment counts no more after it.

                        Retry-After of 7 hours
    ───■■■■──■──────────────┼═══════════════════┼──■■──────▶ ledger time
       booked               │   blocked         │  only these are used
                            └─ nothing is asked └─ Klaviyo's day turned
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

from klaviyo_assets.api.limits import (
    DAILY_WINDOW_SECONDS,
    STEADY_WINDOW_SECONDS,
    Reservations,
    SlidingWindowLimit,
    earliest_allowed_time,
    tier_limits,
)
from klaviyo_assets.api.rate_limit_store import (
    HEARTBEAT_SECONDS,
    RateLimitStore,
    StoredReservations,
    advance_store_clock,
    block_until,
    create_rate_limit_tables,
    current_host,
    daily_reset_time,
    load_reservations,
    register_host,
    store_daily_reset,
)
from klaviyo_assets.errors import QuotaError
from klaviyo_assets.model.stream import RateLimitBucket

MAX_DAILY_WAIT_SECONDS = 300.0
"""As long as a `Retry-After` that is slept through; a day spent for longer ends the run instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyQuota:
    """What our part of a budget's day has left, in requests; moments are in UTC.

    `used` were booked by all processes and projects that share the ledger, `limit` is without the
    reserve. `next_free_at` is when the day allows the next request, the present where something is
    left. `blocked_until` is what Klaviyo said, None when that is over or was never said: until then
    nothing is left, whatever is used.
    """

    used: int
    remaining: int
    limit: int
    next_free_at: datetime
    blocked_until: datetime | None


@dataclass(frozen=True, slots=True)
class ReservationsSinceReset:
    """The bookings that Klaviyo still counts: those since its day turned.

    Where Klaviyo never said when, `reset_at` is minus infinity.
    """

    reservations: Reservations
    reset_at: float

    def nth_last(self, n: int) -> float | None:
        """Return the n-th booking from the end; None where it does not count."""
        moment = self.reservations.nth_last(n)
        return moment if moment is not None and moment >= self.reset_at else None


def next_daily_slot(
    limit: SlidingWindowLimit, reservations: Reservations, resets_at: float, *, now: float
) -> float:
    """Return the earliest moment from `now` on at which the day allows a request, in seconds."""
    if resets_at > now:
        return resets_at
    leaving = ReservationsSinceReset(reservations, resets_at).nth_last(limit.requests)
    return now if leaving is None else max(now, leaving + limit.window_seconds)


@dataclass(frozen=True, slots=True)
class DailyWindow:
    """The day of one budget as it is at `now` in ledger time, `wall_time` by the wall clock.

    Lives as long as the transaction that `reservations` are read in.
    """

    limit: SlidingWindowLimit
    reservations: StoredReservations
    now: float
    wall_time: float

    @property
    def resets_at(self) -> float:
        """Return when Klaviyo's day turns or turned, in ledger time."""
        return daily_reset_time(self.reservations.connection, self.reservations.bucket_id)

    @property
    def next_free(self) -> float:
        """Return the earliest moment at which the day allows a request, in ledger time."""
        return next_daily_slot(self.limit, self.reservations, self.resets_at, now=self.now)

    def summarize(self) -> DailyQuota:
        """Return what is left."""
        turn, free = self.resets_at, self.next_free
        since = math.nextafter(self.now - self.limit.window_seconds, math.inf)
        used = self.reservations.count_since(since if turn > self.now else max(since, turn))
        ahead = self.wall_time - self.now
        return DailyQuota(
            used=used,
            remaining=0 if free > self.now else self.limit.requests - used,
            limit=self.limit.requests,
            next_free_at=datetime.fromtimestamp(free + ahead, UTC),
            blocked_until=datetime.fromtimestamp(turn + ahead, UTC) if turn > self.now else None,
        )

    def raise_if_spent(self, name: str) -> None:
        """Refuse to book where the day is spent for longer than a run should sleep.

        Raises:
            QuotaError: it is.
        """
        wait = self.next_free - self.now
        if wait > MAX_DAILY_WAIT_SECONDS:
            raise daily_quota_error(name, self.summarize(), wait)


def daily_quota_error(name: str, quota: DailyQuota, wait: float) -> QuotaError:
    """Return the error for a day that is spent for another `wait` seconds; nothing was booked."""
    if quota.blocked_until is None:
        said = f"{quota.used} of our {quota.limit} requests a day are used"
    else:
        said = "Klaviyo says that the account's requests of the day are spent"
    return QuotaError(
        f"{name}: {said}. The next one can go at {quota.next_free_at:%Y-%m-%d %H:%M:%S} UTC.",
        retry_after_seconds=wait,
    )


RATE_LIMIT_STORE_FILE_NAME = "ledger-1.sqlite"
"""The number is the layout's: another layout is another file, never a migration."""

MAX_BLOCK_SECONDS = 300.0
MAX_RESERVATION_WAIT_SECONDS = 3600.0
"""A moment further away is a spent quota, not a queue: it is refused, not booked."""

ACCOUNT_FACTS_TTL_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """What Klaviyo said of a key's account: its id, its IANA time zone, and when (UTC).

    `timezone` is None where Klaviyo named none.
    """

    account_id: str
    timezone: str | None
    fetched_at: datetime


@dataclass(frozen=True, slots=True)
class RevenueMetric:
    """Which metric an account maps to revenue, None for none, and when it said so, UTC."""

    id: str | None
    fetched_at: datetime


def hash_api_key(key: str) -> str:
    """Return the name under which a key is known here; the key cannot be had back from it."""
    return sha256(key.encode()).hexdigest()[:32]


class RateLimiter:
    """The budgets of one account in the file of the state folder `folder`.

    `account` is the account's id, or `key_hash(key)` until that is known. `share` is the part of
    each steady limit that is ours, `daily_reserve` the requests of each daily quota that are not;
    `scale` multiplies every published limit. Safe for threads and processes.
    """

    def __init__(  # noqa: PLR0913 - settings, and the clock for tests, all by name
        self,
        folder: Path,
        account: str,
        *,
        share: float = 0.9,
        scale: float = 1.0,
        daily_reserve: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.account = account
        self.share = share
        self.scale = scale
        self.daily_reserve = daily_reserve
        self.clock = clock
        self.folder = folder
        self.last_heartbeat_at = -math.inf
        """When this ledger last wrote that its host uses the folder, by its clock."""
        self.store = RateLimitStore(folder / RATE_LIMIT_STORE_FILE_NAME, self.create_tables)

    def reserve(self, buckets: tuple[RateLimitBucket, ...]) -> float:
        """Book the next request in every budget; return how long to wait for it, in seconds.

        It is booked at one moment, the earliest that all budgets allow. However many processes ask,
        no second holds more than a burst and no minute more than our share of the steady limit.

        Raises:
            QuotaError: a day's quota is spent, or a budget for more than an hour; nothing is
                booked.
            SettingError: another host uses the state folder, or it has no locks.
            StorageError: the file cannot be used.
        """
        is_dear = any(budget.tier.daily is not None for budget in buckets)
        return self.store.run_transaction(
            lambda connection: self.reserve_in_transaction(connection, buckets), is_durable=is_dear
        )

    def reserve_in_transaction(
        self, connection: sqlite3.Connection, buckets: tuple[RateLimitBucket, ...]
    ) -> float:
        """Book within a transaction; return the seconds until then."""
        self.write_heartbeat(connection)
        now, moment = advance_store_clock(connection, self.clock())
        bookings: list[tuple[StoredReservations, float]] = []
        for budget in dict.fromkeys(buckets):
            row, held_until = load_reservations(connection, self.account, budget.name)
            limits = self.bucket_limits(budget)
            free = earliest_allowed_time(limits[:2], row, now)
            for allowance in limits[2:]:
                day = DailyWindow(allowance, row, now, self.clock())
                day.raise_if_spent(budget.name)
                free = max(free, day.next_free)
            moment = max(moment, held_until, free)
            bookings.append((row, now - max(limit.window_seconds for limit in limits)))
        wait = moment - now
        if wait > MAX_RESERVATION_WAIT_SECONDS:
            raise rate_limit_spent_error(buckets, wait)
        for row, horizon in bookings:
            row.add(moment, horizon)
        return wait

    def bucket_limits(self, bucket: RateLimitBucket) -> tuple[SlidingWindowLimit, ...]:
        """Return what may be spent of a budget: a second's, a minute's and, if limited, a day's."""
        return tier_limits(
            bucket.tier, share=self.share, scale=self.scale, reserve=self.daily_reserve
        )

    def daily_quota(self, bucket: RateLimitBucket) -> DailyQuota:
        """Return what is left of a budget's day; books nothing.

        Raises:
            ValueError: the budget has no daily quota.
            StorageError: the file cannot be used.
        """
        if bucket.tier.daily is None:
            raise ValueError(f"{bucket.name} has no daily quota")
        allowance = self.bucket_limits(bucket)[2]

        def read(connection: sqlite3.Connection) -> DailyQuota:
            now, _ = advance_store_clock(connection, self.clock())
            row, _ = load_reservations(connection, self.account, bucket.name)
            return DailyWindow(allowance, row, now, self.clock()).summarize()

        return self.store.run_transaction(read)

    def blocked_seconds(self, buckets: tuple[RateLimitBucket, ...]) -> float:
        """Return for how many seconds Klaviyo has told us to leave these budgets alone."""

        def seconds(connection: sqlite3.Connection) -> float:
            now, _ = advance_store_clock(connection, self.clock())
            until = [now]
            for budget in dict.fromkeys(buckets):
                row, held_until = load_reservations(connection, self.account, budget.name)
                until += [held_until, daily_reset_time(connection, row.bucket_id)]
            return max(until) - now

        return self.store.run_transaction(seconds)

    def block_for_retry_after(self, buckets: tuple[RateLimitBucket, ...], seconds: float) -> None:
        """Keep every process out of these budgets for `window_seconds`, up to five minutes."""
        self.update_buckets(buckets, min(max(seconds, 0.0), MAX_BLOCK_SECONDS), block_until)

    def block_until_daily_reset(self, buckets: tuple[RateLimitBucket, ...], seconds: float) -> None:
        """Keep every process out of those budgets that have a daily quota, up to a day.

        When the `window_seconds` are over, Klaviyo's day has turned: what was booked before is no
        longer counted.
        """
        dear = tuple(budget for budget in buckets if budget.tier.daily is not None)
        # Whole seconds are told, and may be rounded down.
        self.update_buckets(
            dear,
            min(max(seconds, 0.0), DAILY_WINDOW_SECONDS) + 1,
            store_daily_reset,
            is_durable=True,
        )

    def update_buckets(
        self,
        buckets: tuple[RateLimitBucket, ...],
        seconds: float,
        update: Callable[[sqlite3.Connection, int, float], None],
        *,
        is_durable: bool = False,
    ) -> None:
        """Let `update` write a moment in `window_seconds` from now for each of the budgets."""

        def write(connection: sqlite3.Connection) -> None:
            now, _ = advance_store_clock(connection, self.clock())
            for budget in dict.fromkeys(buckets):
                row, _ = load_reservations(connection, self.account, budget.name)
                update(connection, row.bucket_id, now + seconds)

        self.store.run_transaction(write, is_durable=is_durable)

    def account_facts(self, key_hash: str) -> AccountFacts | None:
        """Return what Klaviyo said of a key's account, where it was asked within a day."""

        def read(connection: sqlite3.Connection) -> AccountFacts | None:
            row = connection.execute(
                "SELECT account_id, timezone, asked_at FROM account WHERE key_hash = ?", (key_hash,)
            ).fetchone()
            if row is None or not 0 <= self.clock() - row[2] < ACCOUNT_FACTS_TTL_SECONDS:
                return None
            return AccountFacts(row[0], row[1] or None, datetime.fromtimestamp(row[2], UTC))

        return self.store.run_transaction(read)

    def store_account_facts(self, key_hash: str, *, account_id: str, timezone: str | None) -> None:
        """Keep what Klaviyo just said of a key's account: its id for a day, its zone for good."""
        # The column takes no NULL, and another layout would be another file.
        facts = (key_hash, account_id, timezone or "", self.clock())

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO account VALUES (?, ?, ?, ?)", facts)

        self.store.run_transaction(write)

    def revenue_metric(self) -> RevenueMetric | None:
        """Return which metric the account maps to revenue; None where it was never asked."""

        def read(connection: sqlite3.Connection) -> RevenueMetric | None:
            row = connection.execute(
                "SELECT metric_id, asked_at FROM revenue WHERE account = ?", (self.account,)
            ).fetchone()
            return RevenueMetric(row[0], datetime.fromtimestamp(row[1], UTC)) if row else None

        return self.store.run_transaction(read)

    def store_revenue_metric(self, metric_id: str | None) -> None:
        """Keep which metric the account maps to revenue, None where it maps none."""
        fact = (self.account, metric_id, self.clock())

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO revenue VALUES (?, ?, ?)", fact)

        self.store.run_transaction(write)

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        self.store.close()

    def create_tables(self, connection: sqlite3.Connection, *, was_corrupt: bool) -> None:
        """Make the tables; after a broken file, hold all budgets for a minute.

        What the broken one held is unknown: it may all have been spent. Of the day, Klaviyo's own
        refusal will tell; to hold reports for a day would cost more than that one request.
        """
        wall = self.clock()
        held_until = wall + STEADY_WINDOW_SECONDS if was_corrupt else wall
        create_rate_limit_tables(connection, wall_time=wall, blocked_until=held_until)
        connection.execute("BEGIN IMMEDIATE")
        self.last_heartbeat_at = -math.inf
        self.write_heartbeat(connection)
        connection.execute("COMMIT")

    def write_heartbeat(self, connection: sqlite3.Connection) -> None:
        """Write down from time to time that this host uses the folder, within a transaction.

        Raises:
            SettingError: another host does as well.
        """
        wall = self.clock()
        if abs(wall - self.last_heartbeat_at) < HEARTBEAT_SECONDS:
            return
        register_host(connection, current_host(), wall_time=wall, folder=self.folder)
        self.last_heartbeat_at = wall


def last_known_timezone(folder: Path, account: str) -> str | None:
    """Return the time zone that Klaviyo last named for an account, however long ago; else None.

    Reads the file of the state folder and nothing else: it makes none, waits for no writer, and
    takes a file that cannot be read for none. So a program may call it while it is loaded.
    """
    path = folder / RATE_LIMIT_STORE_FILE_NAME
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


def rate_limit_spent_error(buckets: tuple[RateLimitBucket, ...], wait: float) -> QuotaError:
    """Return the error for a budget that is spent for longer than anybody should queue."""
    names = " and ".join(budget.name for budget in buckets)
    return QuotaError(
        f"{names}: nothing of Klaviyo's limit is left for {wait / 3600:.1f} hours. Run it again "
        "after that.",
        retry_after_seconds=wait,
    )
