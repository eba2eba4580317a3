"""Compares Klaviyo's clock with this machine's, and goes by the earlier of the two.

Either clock may be wrong, by minutes or by years, in one response or in all. A window counts as
completely read up to a safety margin before now, and a report day as final after a fixed time. With
a clock that is ahead, records that arrive late would be missed; with one that is behind, data is
only read again. So the earlier clock is the safe one.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Lock

MAX_CLOCK_SKEW = timedelta(minutes=5)
"""More than network delay can explain; as long as the safety margin before the high-water mark."""

_replacements: list[Callable[[], datetime]] = []
"""Clocks in place of this machine's; the last one counts."""


def utc_now() -> datetime:
    """Return the time of this machine, UTC, or of the clock that `use_clock` put in its place."""
    return _replacements[-1]() if _replacements else datetime.now(tz=UTC)


@contextmanager
def use_clock(clock: Callable[[], datetime]) -> Generator[None]:
    """Have `utc_now` return the time of another clock, UTC, in all threads until the block ends.

    For tests: what takes weeks, or a wrong clock, is tried without waiting and without naming the
    modules that look at the clock.
    """
    _replacements.append(clock)
    try:
        yield
    finally:
        _replacements.pop()


class ClockSkewTracker:
    """Tracks how far Klaviyo's clock differs from this machine's during a run. Thread-safe."""

    def __init__(self, now: Callable[[], datetime] | None = None) -> None:
        """Use `now` as this machine's clock, `utc_now` without one."""
        self.now = now if now is not None else utc_now
        self.largest_skew = timedelta()
        """How far Klaviyo's clock was ahead of ours (negative: behind) in the worst response."""
        self._has_warned = False
        self._lock = Lock()

    @property
    def is_skewed(self) -> bool:
        """Return whether a response's date differed from this machine's clock by over 5 minutes."""
        return abs(self.largest_skew) > MAX_CLOCK_SKEW

    def resolve_response_time(self, server_time: datetime | None, *, sent_at: datetime) -> datetime:
        """Return the time whose state a response shows, in UTC, in whole seconds.

        `server_time` is its `Date` header, None if it cannot be read. `sent_at` is our clock when
        the request was sent: a record created after that may be missing from the response.
        """
        if server_time is None:
            return sent_at.replace(microsecond=0)
        # A correct `Date` lies between sending and now; then there is no difference to record.
        ahead, behind = server_time - self.now(), server_time - sent_at
        difference = max(ahead, timedelta()) or min(behind, timedelta())
        with self._lock:
            if abs(difference) > abs(self.largest_skew):
                self.largest_skew = difference
        return min(server_time, sent_at).replace(microsecond=0)

    def conservative_now(self) -> datetime:
        """Return the time by the clock that is behind, as far as responses have shown, in UTC."""
        return self.now() + min(self.largest_skew, timedelta())

    def skew_metadata(self) -> dict[str, float]:
        """Return the difference under its metadata key; empty where the clocks agree."""
        if not self.is_skewed:
            return {}
        return {"clock_difference_seconds": self.largest_skew.total_seconds()}

    def take_skew_warning(self) -> str | None:
        """Return a warning for the operator the first time the clocks differ, else None."""
        if not self.is_skewed or self._has_warned:
            return None
        self._has_warned = True
        minutes = abs(self.largest_skew) // timedelta(minutes=1)
        side = "ahead of" if self.largest_skew > timedelta() else "behind"
        return (
            f"Klaviyo's responses were dated up to {minutes} minutes {side} this machine's clock: "
            "the earlier of the two counts, so nothing is lost, and more is read again than needed "
            "until the clocks agree. Set this machine's clock by NTP; if it is right, look for a "
            "proxy that changes or repeats responses"
        )
