"""When the shop's events happen: an endless, never falling line of times.

Event number i has one time, found without a table; inverse of the daily rhythm. Times are whole
seconds since 1970, UTC, and many share one.
"""

from bisect import bisect_right
from datetime import datetime
from zoneinfo import ZoneInfo

from klaviyo_assets.sandbox.moments import DAY_SECONDS
from klaviyo_assets.sandbox.shop.seeds import mix

# Share of a day's events by local hour: quiet nights, a morning send, a busy evening.
_HOURS = (3, 2, 1, 1, 1, 2, 5, 9, 14, 16, 13, 11, 12, 11, 9, 8, 9, 11, 13, 16, 17, 14, 9, 5)
# How many neighbours share one second; Klaviyo's sends come in such bursts.
_TIES = (1, 1, 1, 2, 4, 8, 32, 64)
_STEPS = 4096


class Rhythm:
    """Times of `count` events in the `days` before `base`, and of later ones at the same rate."""

    def __init__(self, *, seed: int, count: int, days: int, base: int, zone: str) -> None:
        """Build the inverse of the rhythm, turned so that it starts at the base's hour of day."""
        self.seed = seed
        self.count = count
        self.days = max(1, days)
        self.start = base - self.days * DAY_SECONDS
        self.quantiles = _quantiles(base, zone)
        # Neighbours are asked for one after the other: the last day and block are kept.
        self.latest_day = (-1, (0, 0))
        self.latest_block = (-1, 1)

    def time_of(self, index: int) -> int:
        """Seconds since 1970 of event `index`; never falls as the index grows."""
        day = index * self.days // self.count
        first, size = self.day(day)
        place = index - first
        place -= place % self.ties(day * 65_536 + (place >> 6))
        scaled = place * _STEPS * 16 // size
        low = self.quantiles[scaled >> 4]
        high = self.quantiles[(scaled >> 4) + 1]
        second = low + (high - low) * (scaled & 15) // 16
        return self.start + day * DAY_SECONDS + second

    def day(self, number: int) -> tuple[int, int]:
        """The first index of a day, and how many it has."""
        kept = self.latest_day
        if number != kept[0]:
            first = -(-number * self.count // self.days)
            size = -(-(number + 1) * self.count // self.days) - first
            # One assignment: other threads see the old day or the new one, never half of each.
            self.latest_day = (number, (first, size))
            return first, size
        return kept[1]

    def ties(self, block: int) -> int:
        """How many neighbours share a second in a block of 64."""
        kept = self.latest_block
        if block != kept[0]:
            self.latest_block = kept = (block, _TIES[mix(self.seed, block) & 7])
        return kept[1]

    def first_at_or_after(self, seconds: int) -> int:
        """The lowest index whose time is at or after `seconds`."""
        if self.count == 0 or seconds <= self.start:
            return 0
        day = (seconds - self.start) // DAY_SECONDS
        low = -(-day * self.count // self.days)
        high = -(-(day + 1) * self.count // self.days)
        while low < high:
            middle = (low + high) // 2
            if self.time_of(middle) < seconds:
                low = middle + 1
            else:
                high = middle
        return low


def _quantiles(base: int, zone: str) -> list[int]:
    """Second of the day by which k / 4096 of its events have happened; one value past the end."""
    local = datetime.fromtimestamp(base, ZoneInfo(zone))
    hours = [*range(local.hour, 24), *range(local.hour)]
    sums = [0.0]
    for hour in hours:
        sums.append(sums[-1] + _HOURS[hour])
    found: list[int] = []
    for step in range(_STEPS):
        wanted = sums[-1] * step / _STEPS
        slot = min(23, bisect_right(sums, wanted) - 1)
        inside = (wanted - sums[slot]) / (sums[slot + 1] - sums[slot])
        found.append(int((slot + inside) * 3600))
    return [*found, DAY_SECONDS - 1, DAY_SECONDS - 1]
