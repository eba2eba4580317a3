"""The sandbox's time: a base, the real time since, and what tests advanced.

The one place that reads the machine's clock for what is visible. The rate windows do not use it:
they run on real time, as the caller's patience does.
"""

import threading
import time
from datetime import UTC, datetime


class Clock:
    """Sandbox time in seconds since 1970, UTC."""

    def __init__(self, base: float, *, frozen: bool = False) -> None:
        """Start at `base`; a frozen clock moves only by `advance` and `set_to`."""
        self.frozen = frozen
        self.base = base
        self.started = time.monotonic()
        self.lock = threading.Lock()

    def now(self) -> float:
        """Sandbox seconds since 1970, UTC."""
        if self.frozen:
            return self.base
        return self.base + (time.monotonic() - self.started)

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
