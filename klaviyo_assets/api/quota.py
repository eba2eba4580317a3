"""The day's quota of a report endpoint: what is left of it, and the sentence when nothing is.

What belongs here: pure arithmetic and words. What does not: where bookings are kept (`ledger.py`).

Klaviyo's day is a fixed window whose turn is documented nowhere. So the last 24 hours are counted,
sliding, which is safe for every phase, until Klaviyo itself says in a `Retry-After` when its day
turns: what was booked before that moment counts no more after it.

                        Retry-After of 7 hours
    ───■■■■──■──────────────┼═══════════════════┼──■■──────▶ ledger time
       booked               │   blocked         │  only these are used
                            └─ nothing is asked └─ Klaviyo's day turned
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from klaviyo_assets.api.limits import Bookings
from klaviyo_assets.errors import QuotaError


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What our part of a budget's day has left, in requests; moments are in UTC.

    `used` were booked by all processes and projects that share the ledger, `limit` is without the
    reserve. `next_free_at` is None while something is left; `blocked_until` is what Klaviyo said,
    None when it is over or was never said: until then nothing is left, whatever is used.
    """

    used: int
    left: int
    limit: int
    next_free_at: datetime | None
    blocked_until: datetime | None


@dataclass(frozen=True, slots=True)
class SinceTurn:
    """The bookings that Klaviyo still counts: those since its day turned, as far as that is known.

    An account that was never told has turned at minus infinity.
    """

    bookings: Bookings
    turned_at: float

    def nth_last(self, n: int) -> float | None:
        """Return the n-th booking from the end; None where it does not count."""
        moment = self.bookings.nth_last(n)
        return moment if moment is not None and moment >= self.turned_at else None


def spent_day(name: str, quota: Quota, wait: float) -> QuotaError:
    """Return the error for a day that is spent for another `wait` seconds; nothing was booked."""
    if quota.blocked_until is not None:
        said = "Klaviyo says that the account's requests of the day are spent"
        back = quota.blocked_until
    else:
        said = f"{quota.used} of our {quota.limit} requests a day are used"
        back = quota.next_free_at or datetime.now(UTC)
    return QuotaError(
        f"{name}: {said}. The next one can go at {back:%Y-%m-%d %H:%M:%S} UTC.",
        retry_after_seconds=wait,
    )
