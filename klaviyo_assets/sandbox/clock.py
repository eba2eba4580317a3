"""The sandbox's clock, and times as whole microseconds in the text forms that Klaviyo uses.

Every sort key and filter bound of a time is such an integer, so that strict and inclusive bounds
are exact. Parsing, formatting and nothing else.

The one place that reads the machine's clock for what is visible. The rate windows do not use it:
they run on real time, as the caller's patience does.
"""

import threading
import time
from datetime import UTC, datetime, timedelta

SECOND_MICROS = 1_000_000
SECONDS_PER_DAY = 86_400
UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_micros(text: str) -> int:
    """Microseconds of an ISO 8601 text; no offset means UTC; `ValueError` if unreadable."""
    parsed = datetime.fromisoformat(text)
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return (parsed - UNIX_EPOCH) // timedelta(microseconds=1)


def format_iso_seconds(seconds: int) -> str:
    """`2026-01-31T00:00:00+00:00` for whole seconds."""
    return (UNIX_EPOCH + timedelta(seconds=seconds)).isoformat()


def format_iso_micros(micros: int) -> str:
    """As `format_iso_seconds`, with the six digits that campaigns carry."""
    return (UNIX_EPOCH + timedelta(microseconds=micros)).isoformat(timespec="microseconds")


def format_spaced_seconds(seconds: int) -> str:
    """The form with a blank instead of `T`, as subscriptions carry it."""
    return format_iso_seconds(seconds).replace("T", " ")


class SandboxClock:
    """Sandbox time in seconds since 1970, UTC."""

    def __init__(self, base: float, *, frozen: bool = False) -> None:
        """Start at `base`; a frozen clock moves only by `advance` and `set_to`."""
        self.is_frozen = frozen
        self.base = base
        self.started_at = time.monotonic()
        self.lock = threading.Lock()

    def now(self) -> float:
        """Sandbox seconds since 1970, UTC."""
        if self.is_frozen:
            return self.base
        return self.base + (time.monotonic() - self.started_at)

    def advance(self, seconds: float) -> float:
        """Move on (or back, when negative) by seconds; return the new time."""
        with self.lock:
            self.base += seconds
        return self.now()

    def set_to(self, seconds: float) -> float:
        """Make it that time now."""
        with self.lock:
            self.base += seconds - self.now()
        return self.now()

    def http_date(self, *, ahead: float = 0) -> str:
        """The time as the `Date` header carries it, so many seconds ahead."""
        return datetime.fromtimestamp(self.now() + ahead, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
