"""What a sandbox account is made of: the numbers a user chooses, and the keys.

Values only. How records follow from them is in `shop`, what a key may read in `facts`.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

DEFAULT_KEY: Final = "pk_sandbox_0123456789abcdef0123456789abcdef"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A private key; `scopes` None means all."""

    value: str
    scopes: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A shop by its numbers. The same values give the same bytes on every machine."""

    seed: int = 1
    events: int = 20_000
    profiles: int = 2_000
    lists: int = 12
    segments: int = 8
    campaigns: int = 60
    templates: int = 25
    flows: int = 12
    days: int = 365
    now: datetime | None = None
    frozen: bool = False
    timezone: str = "America/New_York"
    rate_limit_scale: float = 1.0
    latency_ms: float = 0.0
    gzip: bool = True
    spread_share: float = 0.3
    report_page: int = 200
    future_events: int = 3
    keys: tuple[Key, ...] = field(default=(Key(value=DEFAULT_KEY),))


SIZES: Final[dict[str, dict[str, int]]] = {
    "empty": {
        "events": 0,
        "profiles": 0,
        "lists": 0,
        "segments": 0,
        "campaigns": 0,
        "templates": 0,
        "flows": 0,
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
    },
}
