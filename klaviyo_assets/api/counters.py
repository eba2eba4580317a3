"""What a client has done so far, counted by all of its threads.

What belongs here: the numbers. What does not: what they are shown as (`defs`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock
from time import monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Counts since the client was made; a value that does not change.

    `requests` were sent, `retries` are those among them that were tried again, `rate_limited` were
    answered with 429. `throttled_seconds` are those in which at least one request waited for the
    rate limit, ours or Klaviyo's: never more than have passed, however many waited at once.
    `received_bytes` are bodies as they came over the wire.
    """

    requests: int = 0
    retries: int = 0
    rate_limited: int = 0
    received_bytes: int = 0
    throttled_seconds: float = 0.0


class Tally:
    """The changing side of `Counters`; `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.lock = Lock()
        self.clock = clock
        self.so_far = Counters()
        self.held_until = clock()
        """The end of the latest wait for the rate limit that has begun."""

    @property
    def counters(self) -> Counters:
        """Return what was counted so far; of a wait that has not ended, what has passed of it."""
        with self.lock:
            ahead = max(0.0, self.held_until - self.clock())
            # A value from which nothing was taken is the same one, to the last bit.
            if not ahead:
                return self.so_far
            passed = max(0.0, self.so_far.throttled_seconds - ahead)
            return replace(self.so_far, throttled_seconds=passed)

    def add(
        self,
        *,
        requests: int = 0,
        retries: int = 0,
        rate_limited: int = 0,
        received_bytes: int = 0,
    ) -> None:
        """Count."""
        with self.lock:
            so_far = self.so_far
            self.so_far = replace(
                so_far,
                requests=so_far.requests + requests,
                retries=so_far.retries + retries,
                rate_limited=so_far.rate_limited + rate_limited,
                received_bytes=so_far.received_bytes + received_bytes,
            )

    def hold(self, seconds: float) -> None:
        """Count a wait for the rate limit that begins now; what others wait already counts once."""
        with self.lock:
            now = self.clock()
            end = now + seconds
            more = end - max(now, self.held_until)
            if more > 0:
                waited = self.so_far.throttled_seconds + more
                self.so_far = replace(self.so_far, throttled_seconds=waited)
                self.held_until = end
