"""What time it is: Klaviyo's clock and this machine's, and which of the two is believed.

What belongs here: this machine's clock, and the comparison. What does not: reading the `Date`
header (`protocol.py`), and what follows from a moment.

Either clock may be wrong, by minutes or by years, in one answer or in all. What was read counts as
complete up to a margin before now, and a report day as final once a span is over: a clock that is
ahead loses what is late, one that is behind only asks again. So the earlier of the two counts.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Lock

FAR_APART = timedelta(minutes=5)
"""A difference that no network makes; as long as the margin that marks keep."""


def utc_now() -> datetime:
    """Return the time of this machine, UTC."""
    return datetime.now(tz=UTC)


class Clocks:
    """The two clocks, as a run meets them. For any number of threads."""

    def __init__(self, now: Callable[[], datetime] | None = None) -> None:
        """Take this machine's clock, `utc_now` where none is given."""
        self.now = now if now is not None else utc_now
        self.difference = timedelta()
        """How far Klaviyo's clock was ahead of ours (negative: behind) in the worst answer."""
        self._is_said = False
        self._lock = Lock()

    @property
    def are_apart(self) -> bool:
        """Return whether an answer was dated more than five minutes beside this machine's clock."""
        return abs(self.difference) > FAR_APART

    def earlier(self, told: datetime | None, *, asked_at: datetime) -> datetime:
        """Return the moment that an answer tells the state of, UTC, in whole seconds.

        `told` is its `Date`, None where there is none to read; `asked_at` our clock as the request
        was sent: what came into being after that may be missing in the answer.
        """
        if told is None:
            return asked_at.replace(microsecond=0)
        # An honest `Date` lies between the two; what lies between them is no difference.
        ahead, behind = told - self.now(), told - asked_at
        difference = max(ahead, timedelta()) or min(behind, timedelta())
        with self._lock:
            if abs(difference) > abs(self.difference):
                self.difference = difference
        return min(told, asked_at).replace(microsecond=0)

    def cautious_now(self) -> datetime:
        """Return the time by the clock that is behind, as far as answers have told, UTC."""
        return self.now() + min(self.difference, timedelta())

    def numbers(self) -> dict[str, float]:
        """Return the difference by a name for metadata; nothing where the clocks agree."""
        if not self.are_apart:
            return {}
        return {"clock_difference_seconds": self.difference.total_seconds()}

    def remark(self) -> str | None:
        """Return what the operator should know, once; None where the clocks agree, and then."""
        if not self.are_apart or self._is_said:
            return None
        self._is_said = True
        minutes = abs(self.difference) // timedelta(minutes=1)
        side = "ahead of" if self.difference > timedelta() else "behind"
        return (
            f"Klaviyo's answers were dated up to {minutes} minutes {side} this machine's clock: "
            "the earlier of the two counts, so nothing is lost, and more is read again than needed "
            "until the clocks agree. Set this machine's clock by NTP; if it is right, look for a "
            "proxy that changes or repeats answers"
        )
