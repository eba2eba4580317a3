"""What a sandbox account is made of: the numbers a user chooses, and the keys.

Values only. How records follow from them is in the other modules here, what a key may read in
`facts`.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

DEFAULT_KEY: Final = "pk_sandbox_0123456789abcdef0123456789abcdef"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateApiKey:
    """A private key; `scopes` None means all."""

    value: str
    scopes: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """Records spread evenly over some `seconds`, as imports and sends bring them.

    `start` is in seconds from the sandbox's first moment on, negative before it. What lies after it
    appears as the clock moves on.
    """

    records: int
    start: int
    seconds: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountConfig:
    """An account by its numbers. The same values give the same bytes on every machine.

    `objects` is the number of records of each type that has no number of its own: forms, images,
    coupons, catalog items and so on.

    Where `event_bursts` or `profile_bursts` are given, they are all the events or profiles that
    there are, instead of `events` or `profiles` over `days`. The newest `slow_campaigns` of those
    that say they went out at once took three days. With `omni_campaigns` revisions since 2026-10-15
    list campaigns that no older one could: WhatsApp ones, and one of several channels.
    """

    seed: int = 1
    events: int = 20_000
    profiles: int = 2_000
    lists: int = 12
    segments: int = 8
    campaigns: int = 60
    templates: int = 25
    flows: int = 12
    objects: int = 50
    days: int = 365
    now: datetime | None = None
    frozen: bool = False
    timezone: str = "America/New_York"
    rate_limit_scale: float = 1.0
    latency_ms: float = 0.0
    gzip: bool = True
    spread_share: float = 0.3
    slow_campaigns: int = 0
    omni_campaigns: bool = False
    report_page: int = 200
    future_events: int = 3
    event_bursts: tuple[Burst, ...] = ()
    profile_bursts: tuple[Burst, ...] = ()
    keys: tuple[PrivateApiKey, ...] = field(default=(PrivateApiKey(value=DEFAULT_KEY),))


ACCOUNT_SIZES: Final[dict[str, dict[str, int]]] = {
    "empty": {
        "events": 0,
        "profiles": 0,
        "lists": 0,
        "segments": 0,
        "campaigns": 0,
        "templates": 0,
        "flows": 0,
        "objects": 0,
        "future_events": 0,
    },
    "tiny": {
        "events": 500,
        "profiles": 60,
        "lists": 3,
        "segments": 2,
        "campaigns": 12,
        "templates": 5,
        "flows": 4,
        "objects": 8,
    },
    "demo": {},
    "model": {
        "events": 2_000_000,
        "profiles": 100_000,
        "lists": 40,
        "segments": 25,
        "campaigns": 800,
        "templates": 200,
        "flows": 40,
        "objects": 200,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstPreset:
    """Bursts of a kind that real accounts have."""

    events: tuple[Burst, ...] = ()
    profiles: tuple[Burst, ...] = ()


_DAY_SECONDS: Final = 86_400

BURST_PRESETS: Final[dict[str, BurstPreset]] = {
    # Each night for a month 500 profiles within 20 seconds.
    "imports": BurstPreset(
        profiles=tuple(
            Burst(records=500, start=-night * _DAY_SECONDS, seconds=20)
            for night in range(30, 0, -1)
        )
    ),
    # Each week 2,500 events within ten minutes.
    "sends": BurstPreset(
        events=tuple(
            Burst(records=2_500, start=-week * 7 * _DAY_SECONDS, seconds=600)
            for week in range(13, 3, -1)
        )
    ),
    # A first record, ten years of nothing, then a hundred days of data.
    "decade": BurstPreset(
        events=(
            Burst(records=1, start=-3_650 * _DAY_SECONDS),
            Burst(records=20_000, start=-120 * _DAY_SECONDS, seconds=100 * _DAY_SECONDS),
        ),
        profiles=(
            Burst(records=1, start=-3_650 * _DAY_SECONDS),
            Burst(records=2_000, start=-120 * _DAY_SECONDS, seconds=100 * _DAY_SECONDS),
        ),
    ),
    # 3,000 records of one second, and a few before and after it.
    "second": BurstPreset(
        events=(
            Burst(records=3_000, start=-60 * _DAY_SECONDS),
            Burst(records=500, start=-120 * _DAY_SECONDS, seconds=100 * _DAY_SECONDS),
        ),
        profiles=(
            Burst(records=3_000, start=-60 * _DAY_SECONDS),
            Burst(records=100, start=-120 * _DAY_SECONDS, seconds=100 * _DAY_SECONDS),
        ),
    ),
}
"""What `--bursts` offers."""
