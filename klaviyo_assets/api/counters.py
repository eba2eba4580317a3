"""What a client has done so far, counted by all of its threads.

What belongs here: the numbers. What does not: what they are shown as (`defs`).
"""

from dataclasses import dataclass, replace
from threading import Lock


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Counts since the client was made; a value that does not change.

    `requests` were sent, `retries` are those among them that were tried again, `rate_limited` were
    answered with 429. `throttled_seconds` were waited for the rate limit, ours or Klaviyo's.
    `received_bytes` are bodies as they came over the wire.
    """

    requests: int = 0
    retries: int = 0
    rate_limited: int = 0
    received_bytes: int = 0
    throttled_seconds: float = 0.0


class Tally:
    """The changing side of `Counters`."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.counters = Counters()

    def add(
        self,
        *,
        requests: int = 0,
        retries: int = 0,
        rate_limited: int = 0,
        received_bytes: int = 0,
        throttled_seconds: float = 0.0,
    ) -> None:
        """Count."""
        with self.lock:
            so_far = self.counters
            self.counters = replace(
                so_far,
                requests=so_far.requests + requests,
                retries=so_far.retries + retries,
                rate_limited=so_far.rate_limited + rate_limited,
                received_bytes=so_far.received_bytes + received_bytes,
                throttled_seconds=so_far.throttled_seconds + throttled_seconds,
            )
