"""When the records of a bursty account happen: moments in order, kept as an array.

The other form of `rhythm`, for accounts whose records come in imports and sends. Times are whole
seconds since 1970, UTC.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable

from klaviyo_assets.sandbox.account import Burst


def burst_moments(bursts: Iterable[Burst], *, base: int) -> "array[int]":
    """The second of every record in order; `base` is the sandbox's first moment."""
    moments = [
        base + burst.start + number * burst.seconds // burst.records
        for burst in bursts
        for number in range(burst.records)
    ]
    return array("q", sorted(moments))


class BurstRhythm:
    """Times of events that come in bursts; there are no others, however long time goes on."""

    def __init__(self, bursts: Iterable[Burst], *, base: int) -> None:
        """Keep the moments of all bursts."""
        self.moments = burst_moments(bursts, base=base)

    @property
    def count(self) -> int:
        """How many events there are, those that are still to come included."""
        return len(self.moments)

    def time_of(self, index: int) -> int:
        """Seconds since 1970 of event `index`; never falls as the index grows."""
        return self.moments[index]

    def first_at_or_after(self, seconds: int) -> int:
        """The lowest index whose time is at or after `seconds`."""
        return bisect_left(self.moments, seconds)
