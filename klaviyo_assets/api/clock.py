"""What time it is: Klaviyo's clock and this machine's, and which of the two is believed.

Either clock may be wrong, by minutes or by years, in one answer or in all. What was read counts as
complete up to a margin before now, and a report day as final once a span is over: a clock that is
ahead loses what is late, one that is behind only asks again. So the earlier of the two counts.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Lock

MAX_CLOCK_SKEW = timedelta(minutes=5)
"""A difference that no network makes; as long as the margin that marks keep."""


def utc_now() -> datetime:
    """Return the time of this machine, UTC."""
    return datetime.now(tz=UTC)


class ClockSkewTracker:
    """The two clocks, as a run meets them. For any number of threads."""

    def __init__(self, now: Callable[[], datetime] | None = None) -> None:
        """Take this machine's clock, `utc_now` where none is given."""
        self.now = now if now is not None else utc_now
        self.largest_skew = timedelta()
        """How far Klaviyo's clock was ahead of ours (negative: behind) in the worst answer."""
        self._has_warned = False
        self._lock = Lock()

    @property
    def is_skewed(self) -> bool:
        """Return whether an answer was dated more than five minutes beside this machine's clock."""
        return abs(self.largest_skew) > MAX_CLOCK_SKEW

    def resolve_response_time(self, server_time: datetime | None, *, sent_at: datetime) -> datetime:
        """Return the moment that an answer tells the state of, UTC, in whole seconds.

        `server_time` is its `Date`, None where there is none to read; `sent_at` our clock as the
        request
        was sent: what came into being after that may be missing in the answer.
        """
        if server_time is None:
            return sent_at.replace(microsecond=0)
        # An honest `Date` lies between the two; what lies between them is no difference.
        ahead, behind = server_time - self.now(), server_time - sent_at
        difference = max(ahead, timedelta()) or min(behind, timedelta())
        with self._lock:
            if abs(difference) > abs(self.largest_skew):
                self.largest_skew = difference
        return min(server_time, sent_at).replace(microsecond=0)

    def conservative_now(self) -> datetime:
        """Return the time by the clock that is behind, as far as answers have told, UTC."""
        return self.now() + min(self.largest_skew, timedelta())

    def skew_metadata(self) -> dict[str, float]:
        """Return the difference by a name for metadata; nothing where the clocks agree."""
        if not self.is_skewed:
            return {}
        return {"clock_difference_seconds": self.largest_skew.total_seconds()}

    def take_skew_warning(self) -> str | None:
        """Return what the operator should know, once; None where the clocks agree, and then."""
        if not self.is_skewed or self._has_warned:
            return None
        self._has_warned = True
        minutes = abs(self.largest_skew) // timedelta(minutes=1)
        side = "ahead of" if self.largest_skew > timedelta() else "behind"
        return (
            f"Klaviyo's answers were dated up to {minutes} minutes {side} this machine's clock: "
            "the earlier of the two counts, so nothing is lost, and more is read again than needed "
            "until the clocks agree. Set this machine's clock by NTP; if it is right, look for a "
            "proxy that changes or repeats answers"
        )
