"""The day's quota of a report endpoint: what is left of it, and the sentence when nothing is.

What belongs here: arithmetic within a transaction, and words. What does not: the transaction
(`ledger.py`), the rows (`ledger_tables.py`).

Klaviyo's day is a fixed window whose turn is documented nowhere. So the last 24 hours are counted,
sliding, which is safe for every phase, until Klaviyo itself says in a `Retry-After` when its day
turns: what was booked before that moment counts no more after it.

                        Retry-After of 7 hours
    ───■■■■──■──────────────┼═══════════════════┼──■■──────▶ ledger time
       booked               │   blocked         │  only these are used
                            └─ nothing is asked └─ Klaviyo's day turned
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from klaviyo_assets.api.ledger_tables import Numbered, turn_of
from klaviyo_assets.api.limits import Allowance, Bookings
from klaviyo_assets.errors import QuotaError

LONGEST_DAY_WAIT_SECONDS = 300.0
"""As long as a `Retry-After` that is slept through; a day spent for longer ends the run instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What our part of a budget's day has left, in requests; moments are in UTC.

    `used` were booked by all processes and projects that share the ledger, `limit` is without the
    reserve. `next_free_at` is when the day allows the next request, the present where something is
    left. `blocked_until` is what Klaviyo said, None when that is over or was never said: until then
    nothing is left, whatever is used.
    """

    used: int
    left: int
    limit: int
    next_free_at: datetime
    blocked_until: datetime | None


@dataclass(frozen=True, slots=True)
class SinceTurn:
    """The bookings that Klaviyo still counts: those since its day turned.

    Where Klaviyo never said when, `turned_at` is minus infinity.
    """

    bookings: Bookings
    turned_at: float

    def nth_last(self, n: int) -> float | None:
        """Return the n-th booking from the end; None where it does not count."""
        moment = self.bookings.nth_last(n)
        return moment if moment is not None and moment >= self.turned_at else None


def day_free(day: Allowance, bookings: Bookings, turns_at: float, *, now: float) -> float:
    """Return the earliest moment from `now` on at which the day allows a request, in seconds."""
    if turns_at > now:
        return turns_at
    leaving = SinceTurn(bookings, turns_at).nth_last(day.requests)
    return now if leaving is None else max(now, leaving + day.seconds)


@dataclass(frozen=True, slots=True)
class Day:
    """The day of one budget as it is at `now` in ledger time, `wall` by the wall clock.

    Lives as long as the transaction that `bookings` are read in.
    """

    allowance: Allowance
    bookings: Numbered
    now: float
    wall: float

    @property
    def turns_at(self) -> float:
        """Return when Klaviyo's day turns or turned, in ledger time."""
        return turn_of(self.bookings.connection, self.bookings.budget)

    @property
    def free(self) -> float:
        """Return the earliest moment at which the day allows a request, in ledger time."""
        return day_free(self.allowance, self.bookings, self.turns_at, now=self.now)

    def quota(self) -> Quota:
        """Return what is left."""
        turn, free = self.turns_at, self.free
        since = math.nextafter(self.now - self.allowance.seconds, math.inf)
        used = self.bookings.count_from(since if turn > self.now else max(since, turn))
        ahead = self.wall - self.now
        return Quota(
            used=used,
            left=0 if free > self.now else self.allowance.requests - used,
            limit=self.allowance.requests,
            next_free_at=datetime.fromtimestamp(free + ahead, UTC),
            blocked_until=datetime.fromtimestamp(turn + ahead, UTC) if turn > self.now else None,
        )

    def refuse_spent(self, name: str) -> None:
        """Refuse to book where the day is spent for longer than a run should sleep.

        Raises:
            QuotaError: it is.
        """
        wait = self.free - self.now
        if wait > LONGEST_DAY_WAIT_SECONDS:
            raise spent_day(name, self.quota(), wait)


def spent_day(name: str, quota: Quota, wait: float) -> QuotaError:
    """Return the error for a day that is spent for another `wait` seconds; nothing was booked."""
    if quota.blocked_until is None:
        said = f"{quota.used} of our {quota.limit} requests a day are used"
    else:
        said = "Klaviyo says that the account's requests of the day are spent"
    return QuotaError(
        f"{name}: {said}. The next one can go at {quota.next_free_at:%Y-%m-%d %H:%M:%S} UTC.",
        retry_after_seconds=wait,
    )
