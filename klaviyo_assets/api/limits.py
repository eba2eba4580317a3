"""The sliding windows of a rate limit, and the earliest time at which they allow a request.

Klaviyo counts in fixed windows of a second and a minute, and we do not know when they start. A
sliding window never holds more than the limit wherever it begins, so it is safe for every start.
Source: https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import floor

from klaviyo_assets.model.stream import RateTier

BURST_WINDOW_SECONDS = 1.25
"""Klaviyo's second plus a quarter, because requests leave in order but arrive with jitter.

The first request opens a connection, which takes more round trips than the next ones need. A long
read is bounded by the steady limit (in every tier a minute of bursts is at least three times as
much), so this margin costs time only at the start.
"""

STEADY_WINDOW_SECONDS = 60.6
"""Klaviyo's minute plus 1 %, for 0.6 s of jitter between the first and last request of a minute.

This costs 1 % of the throughput. With exactly sixty seconds and the whole limit as our share, any
jitter moves a request of the next window into this one.
"""

DAILY_WINDOW_SECONDS = 86_460.0
"""Klaviyo's day plus a minute: reports take long, and a request of their daily quota is scarce."""


@dataclass(frozen=True, slots=True)
class SlidingWindowLimit:
    """At most `requests` in any half-open interval of `window_seconds`."""

    requests: int
    window_seconds: float


def tier_limits(
    tier: RateTier, *, share: float, scale: float, reserve: int = 0
) -> tuple[SlidingWindowLimit, ...]:
    """Return our part of a tier's limits: the whole burst, `share` of the steady limit, the day.

    `share` does not apply to a tier with a daily limit: there `reserve` requests of the day are
    left to others instead. `scale` multiplies each published limit first. Each limit allows at
    least one request.
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
    """Return `limit * factor` in whole requests: rounded down, but at least one."""
    # 0.29 * 100 is 28.999999999999996, which must count as 29.
    return max(1, floor(limit * factor + 1e-6))


def earliest_allowed_time(
    limits: tuple[SlidingWindowLimit, ...], nth_last: Callable[[int], float | None], now: float
) -> float:
    """Return the earliest time from `now` on that keeps all limits, in seconds.

    `nth_last` returns the n-th last time reserved so far (n = 1: the last), None if there are
    fewer. Times are given out in order: the result is never before the last one, even if `now` is.
    If each result is reserved, no window of any limit holds more than its requests, however many
    processes reserve.
    """
    last = nth_last(1)
    earliest = now if last is None else max(now, last)
    for limit in limits:
        leaves_window = nth_last(limit.requests)
        if leaves_window is not None:
            earliest = max(earliest, leaves_window + limit.window_seconds)
    return earliest
