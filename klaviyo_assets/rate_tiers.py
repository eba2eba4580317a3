"""Klaviyo's rate tiers and the budgets that a request spends."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RateTier:
    """A published limit: `burst` requests a second, `steady` a minute, `daily` a day if limited."""

    name: str
    burst: int
    steady: int
    daily: int | None = None


TIER_XS = RateTier(name="XS", burst=1, steady=15)
TIER_S = RateTier(name="S", burst=3, steady=60)
TIER_M = RateTier(name="M", burst=10, steady=150)
TIER_L = RateTier(name="L", burst=75, steady=750)
TIER_XL = RateTier(name="XL", burst=350, steady=3500)
TIER_REPORT = RateTier(name="REPORT", burst=1, steady=2, daily=225)


@dataclass(frozen=True, slots=True)
class RateLimitBucket:
    """What one request is counted against: an endpoint, or a parameter with a limit of its own.

    `name` is the method and path template (`GET /api/profiles`) or the parameter
    (`additional-fields[profile]=predictive_analytics`); all streams with the same name share it.
    """

    name: str
    tier: RateTier
