"""How fast one budget may be spent: its sliding windows, and the earliest moment for a request.

Klaviyo counts in fixed windows of a second and a minute whose phase we do not know. A window that
slides holds no more than the limit wherever it lies, so it is safe for every phase.
Source: https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling
"""

from dataclasses import dataclass
from math import floor
from typing import Protocol

from klaviyo_assets.model.stream import RateTier

BURST_WINDOW_SECONDS = 1.25
"""Klaviyo's second and a quarter: requests leave in order and arrive with jitter.

The first one opens a connection, which takes some round trips more than the next ones need. A long
read is bounded by the steady limit (a minute's bursts are at least three times as much in every
tier), so this margin costs nothing but at the start.
"""

STEADY_WINDOW_SECONDS = 60.6
"""Klaviyo's minute and 1 %: 0.6 s of jitter between the first and the last request of a minute.

Costs 1 % of the throughput. With sixty seconds flat and the whole limit as our share, any jitter at
all puts a request of the next window into this one.
"""

DAILY_WINDOW_SECONDS = 86_460.0
"""Klaviyo's day and a minute: reports are slow, and their daily quota is dear."""


@dataclass(frozen=True, slots=True)
class SlidingWindowLimit:
    """At most `requests` in any half-open stretch of `window_seconds`."""

    requests: int
    window_seconds: float


class Reservations(Protocol):
    """The moments already booked in one budget, in seconds on one clock, in ascending order."""

    def nth_last(self, n: int) -> float | None:
        """Return the n-th booking from the end, the last one being n = 1; None where fewer are."""
        ...


def tier_limits(
    tier: RateTier, *, share: float, scale: float, reserve: int = 0
) -> tuple[SlidingWindowLimit, ...]:
    """Return what may be spent of a tier: the whole burst, `share` of the steady limit, the day.

    A tier with a day's limit has no share: others are left `reserve` requests of the day instead.
    `scale` multiplies each published limit first. At least one request of each stays ours.
    """
    if tier.daily is not None:
        share = 1.0
    limits = [
        SlidingWindowLimit(scale_limit(tier.burst, scale), BURST_WINDOW_SECONDS),
        SlidingWindowLimit(scale_limit(tier.steady, share * scale), STEADY_WINDOW_SECONDS),
    ]
    if tier.daily is not None:
        a_day = max(1, scale_limit(tier.daily, scale) - reserve)
        limits.append(SlidingWindowLimit(a_day, DAILY_WINDOW_SECONDS))
    return tuple(limits)


def scale_limit(limit: int, factor: float) -> int:
    """Return a part of a limit in whole requests: rounded down, but at least one."""
    # 0.29 * 100 is 28.999999999999996: what a person reads as whole must not lose one.
    return max(1, floor(limit * factor + 1e-6))


def earliest_allowed_time(
    limits: tuple[SlidingWindowLimit, ...], reservations: Reservations, now: float
) -> float:
    """Return the earliest moment from `now` on that keeps every allowance, in seconds.

    Moments are handed out in order: none is earlier than the last booking. Booked so, however often
    and by whomever, no stretch of any allowance holds more than its requests. A `now` before the
    last booking is fine: the answer is not.
    """
    last = reservations.nth_last(1)
    moment = now if last is None else max(now, last)
    for limit in limits:
        leaving = reservations.nth_last(limit.requests)
        if leaving is not None:
            moment = max(moment, leaving + limit.window_seconds)
    return moment
