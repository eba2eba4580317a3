"""Klaviyo's rate tiers and the budgets that a request spends.

What belongs here: the published numbers. What does not: how we keep to them (`api/limits.py`).
Source: https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling and the limits in the
OpenAPI document of revision 2026-07-15.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A published limit: `burst` requests a second, `steady` a minute, `daily` a day if limited."""

    name: str
    burst: int
    steady: int
    daily: int | None = None


XS = Tier(name="XS", burst=1, steady=15)
S = Tier(name="S", burst=3, steady=60)
M = Tier(name="M", burst=10, steady=150)
L = Tier(name="L", burst=75, steady=750)
XL = Tier(name="XL", burst=350, steady=3500)
REPORT = Tier(name="REPORT", burst=1, steady=2, daily=225)


@dataclass(frozen=True, slots=True)
class Budget:
    """What one request is counted against: an endpoint, or a parameter with a limit of its own.

    `name` is the method and path template (`GET /api/profiles`) or the parameter
    (`additional-fields[profile]=predictive_analytics`); all streams with the same name share it.
    """

    name: str
    tier: Tier
