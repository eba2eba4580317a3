"""The events of an account: when they happen, what they are, which tests add or hide.

A regular event's ordinal is its index in the rhythm; written and future-dated events have ordinals
from `FIRST_WRITTEN_ORDINAL` on. Order is (second, ordinal). An event is visible from its time plus
its lag: most at once, some within six days, a few after seventeen.

What a server under load leaves out of its pages is counted by the aggregates all the same; what was
redacted is in neither.

Two million events take two megabytes, and only once they are filtered by metric.

Event number i has one time, found without a table; inverse of the daily rhythm. Times are whole
seconds since 1970, UTC, and many share one.

The other form of `rhythm`, for accounts whose records come in imports and sends. Times are whole
seconds since 1970, UTC.
"""

from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from heapq import merge
from itertools import islice
from zoneinfo import ZoneInfo

from klaviyo_assets.sandbox.account.config import Burst
from klaviyo_assets.sandbox.account.metrics import (
    CREDITED_METRICS,
    ORDER_METRICS,
    UNRESOLVED_METRIC,
    build_metric_table,
)
from klaviyo_assets.sandbox.account.seeds import event_id, event_ordinal, mix_bits
from klaviyo_assets.sandbox.clock import SECONDS_PER_DAY
from klaviyo_assets.sandbox.json_types import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenEvents:
    """Events of [start, end) in seconds: of one metric (an ordinal) or all, every n-th."""

    start: int
    end: int
    metric: int | None
    every_nth: int
    is_counted: bool

    def contains(self, *, seconds: int, metric: int | None, ordinal: int) -> bool:
        """Whether an event is among them."""
        is_of_metric = self.metric is None or metric == self.metric
        return self.start <= seconds < self.end and is_of_metric and ordinal % self.every_nth == 0


def drop_hidden(
    ordinals: Iterator[int], events: "EventStore", *, includes_counted: bool
) -> Iterator[int]:
    """Those that are not hidden from pages, or with `includes_counted` from counts."""
    if not events.hidden_events:
        return ordinals
    return filter(
        lambda ordinal: not is_hidden(ordinal, events, includes_counted=includes_counted), ordinals
    )


def is_hidden(ordinal: int, events: "EventStore", *, includes_counted: bool) -> bool:
    """Whether an event is hidden from pages, or from counts."""
    seconds, metric = events.seconds(ordinal), events.metric(ordinal)
    return any(
        each.contains(seconds=seconds, metric=metric, ordinal=ordinal)
        for each in events.hidden_events
        if not (includes_counted and each.is_counted)
    )


BLOCK_EVENTS = 1 << 15


class MetricIndex:
    """Metrics of regular events by index."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.table = build_metric_table()
        self.blocks: dict[int, bytes] = {}

    def block(self, number: int) -> bytes:
        """The metrics of `BLOCK_EVENTS` neighbouring events, one byte each."""
        cached = self.blocks.get(number)
        if cached is None:
            seed, table = self.seed, self.table
            first = number * BLOCK_EVENTS
            cached = bytes(
                [table[mix_bits(seed, k) & 1023] for k in range(first, first + BLOCK_EVENTS)]
            )
            self.blocks[number] = cached
        return cached

    def iterate_matching(
        self, metric: int, low: int, high: int, *, descending: bool
    ) -> Iterator[int]:
        """Indices of [low, high) with that metric, in order; none for a negative metric."""
        if metric < 0:
            return
        wanted = bytes([metric])
        numbers = range(low // BLOCK_EVENTS, -(-high // BLOCK_EVENTS))
        for number in reversed(numbers) if descending else numbers:
            first = number * BLOCK_EVENTS
            places = find_byte(self.block(number), wanted, max(0, low - first), high - first)
            yield from (first + position for position in (places[::-1] if descending else places))


def find_byte(block: bytes, wanted: bytes, start: int, end: int) -> list[int]:
    """Places of a byte within [start, end) of a block."""
    places: list[int] = []
    position = block.find(wanted, start, end)
    while position >= 0:
        places.append(position)
        position = block.find(wanted, position + 1, end)
    return places


# Share of a day's events by local hour: quiet nights, a morning send, a busy evening.
_HOURLY_WEIGHTS = (
    3,
    2,
    1,
    1,
    1,
    2,
    5,
    9,
    14,
    16,
    13,
    11,
    12,
    11,
    9,
    8,
    9,
    11,
    13,
    16,
    17,
    14,
    9,
    5,
)
# How many neighbours share one second; Klaviyo's sends come in such bursts.
_SHARED_SECOND_SIZES = (1, 1, 1, 2, 4, 8, 32, 64)
_QUANTILE_STEPS = 4096


class DailyTimeline:
    """Times of `count` events in the `days` before `base`, and of later ones at the same rate."""

    def __init__(self, *, seed: int, count: int, days: int, base: int, zone: str) -> None:
        """Build the inverse of the rhythm, turned so that it starts at the base's hour of day."""
        self.seed = seed
        self.count = count
        self.days = max(1, days)
        self.start = base - self.days * SECONDS_PER_DAY
        self.quantiles = _day_quantiles(base, zone)
        # Neighbours are read one after the other: the last day and block are cached.
        self.latest_day = (-1, (0, 0))
        self.latest_block = (-1, 1)

    def time_of(self, index: int) -> int:
        """Seconds since 1970 of event `index`; never falls as the index grows."""
        day = index * self.days // self.count
        first, size = self.day_range(day)
        position = index - first
        position -= position % self.shared_second_size(day * 65_536 + (position >> 6))
        scaled = position * _QUANTILE_STEPS * 16 // size
        low = self.quantiles[scaled >> 4]
        high = self.quantiles[(scaled >> 4) + 1]
        second = low + (high - low) * (scaled & 15) // 16
        return self.start + day * SECONDS_PER_DAY + second

    def day_range(self, number: int) -> tuple[int, int]:
        """The first index of a day, and how many it has."""
        cached = self.latest_day
        if number != cached[0]:
            first = -(-number * self.count // self.days)
            size = -(-(number + 1) * self.count // self.days) - first
            # One assignment: other threads see the old day or the new one, never half of each.
            self.latest_day = (number, (first, size))
            return first, size
        return cached[1]

    def shared_second_size(self, block: int) -> int:
        """How many neighbours share a second in a block of 64."""
        cached = self.latest_block
        if block != cached[0]:
            self.latest_block = cached = (
                block,
                _SHARED_SECOND_SIZES[mix_bits(self.seed, block) & 7],
            )
        return cached[1]

    def first_at_or_after(self, seconds: int) -> int:
        """The lowest index whose time is at or after `seconds`."""
        if self.count == 0 or seconds <= self.start:
            return 0
        day = (seconds - self.start) // SECONDS_PER_DAY
        low = -(-day * self.count // self.days)
        high = -(-(day + 1) * self.count // self.days)
        while low < high:
            middle = (low + high) // 2
            if self.time_of(middle) < seconds:
                low = middle + 1
            else:
                high = middle
        return low


@lru_cache(maxsize=32)
def _day_quantiles(base: int, zone: str) -> Sequence[int]:
    """Second of the day by which k / 4096 of its events have happened; one value past the end."""
    local = datetime.fromtimestamp(base, ZoneInfo(zone))
    hours = [*range(local.hour, 24), *range(local.hour)]
    sums = [0.0]
    for hour in hours:
        sums.append(sums[-1] + _HOURLY_WEIGHTS[hour])
    found: list[int] = []
    for step in range(_QUANTILE_STEPS):
        wanted = sums[-1] * step / _QUANTILE_STEPS
        slot = min(23, bisect_right(sums, wanted) - 1)
        inside = (wanted - sums[slot]) / (sums[slot + 1] - sums[slot])
        found.append(int((slot + inside) * 3600))
    return [*found, SECONDS_PER_DAY - 1, SECONDS_PER_DAY - 1]


def burst_times(bursts: Iterable[Burst], *, base: int) -> "array[int]":
    """The second of every record in order; `base` is the sandbox's first moment."""
    moments = [
        base + burst.start + number * burst.seconds // burst.records
        for burst in bursts
        for number in range(burst.records)
    ]
    return array("q", sorted(moments))


class BurstTimeline:
    """Times of events that come in bursts; there are no others, however long time goes on."""

    def __init__(self, bursts: Iterable[Burst], *, base: int) -> None:
        """Keep the moments of all bursts."""
        self.times = burst_times(bursts, base=base)

    @property
    def count(self) -> int:
        """How many events there are, those that are still to come included."""
        return len(self.times)

    def time_of(self, index: int) -> int:
        """Seconds since 1970 of event `index`; never falls as the index grows."""
        return self.times[index]

    def first_at_or_after(self, seconds: int) -> int:
        """The lowest index whose time is at or after `seconds`."""
        return bisect_left(self.times, seconds)


FIRST_WRITTEN_ORDINAL = 10**12
_LATE_PER_1024 = 10
LONGEST_LAG_SECONDS = 17 * SECONDS_PER_DAY
_METRIC_TABLE = build_metric_table()
# Three orders in ten are credited to a message.
_ATTRIBUTED_TENTHS = frozenset({0, 1, 2})
# Four events in ten can earn a credit: one among so many is as good as certain.
_SEARCHED_EVENTS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenEvent:
    """An event given from outside: `metric`, `profile` are ordinals or None, times in seconds."""

    seconds: int
    visible_at: float
    metric: int | None
    profile: int | None
    properties: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSelection:
    """Which events: seconds in [start, end), a metric, a profile, both relations present or not.

    `includes_counted` also takes those that pages leave out and aggregates count.
    """

    start: int
    end: int
    metric: int | None = None
    profile: int | None = None
    has_profile: bool = False
    has_metric: bool = False
    includes_counted: bool = False


class EventStore:
    """All events; time is an argument of every question."""

    def __init__(
        self, *, seed: int, rhythm: DailyTimeline | BurstTimeline, profile_count: int
    ) -> None:
        """Events of `profile_count` profiles at the times of the rhythm."""
        self.seed = seed
        self.timeline = rhythm
        self.profile_count = profile_count
        self.written: list[WrittenEvent] = []
        self.written_order: list[tuple[int, int]] = []
        # Where a profile's events went: another profile after a merge, None after a deletion.
        self.moved_profiles: dict[int, int | None] = {}
        self.metric_index = MetricIndex(seed)
        self.hidden_events: list[HiddenEvents] = []

    def add(self, event: WrittenEvent) -> int:
        """Add an event; its ordinal."""
        self.written.append(event)
        ordinal = FIRST_WRITTEN_ORDINAL + len(self.written) - 1
        insort(self.written_order, (event.seconds, ordinal))
        return ordinal

    def change_time(self, ordinal: int, seconds: int) -> None:
        """Give a written event another time; its id stays."""
        event = self.written[ordinal - FIRST_WRITTEN_ORDINAL]
        self.written_order.remove((event.seconds, ordinal))
        self.written[ordinal - FIRST_WRITTEN_ORDINAL] = replace(event, seconds=seconds)
        insort(self.written_order, (seconds, ordinal))

    def random_bits(self, ordinal: int) -> int:
        """The 64 random bits a regular event is made of."""
        return mix_bits(self.seed, ordinal)

    def seconds(self, ordinal: int) -> int:
        """The event's own time."""
        if ordinal >= FIRST_WRITTEN_ORDINAL:
            return self.written[ordinal - FIRST_WRITTEN_ORDINAL].seconds
        return self.timeline.time_of(ordinal)

    def visible_at(self, ordinal: int) -> float:
        """From when it can be read: 1 % come up to six days late, 0.1 % seventeen."""
        if ordinal >= FIRST_WRITTEN_ORDINAL:
            return self.written[ordinal - FIRST_WRITTEN_ORDINAL].visible_at
        bits = self.random_bits(ordinal)
        chance = bits >> 54
        lag = 0
        if chance < _LATE_PER_1024:
            lag = 60 + (bits >> 20) % (6 * SECONDS_PER_DAY - 60)
        elif chance == _LATE_PER_1024:
            lag = LONGEST_LAG_SECONDS
        return self.timeline.time_of(ordinal) + lag

    def metric(self, ordinal: int) -> int | None:
        """The ordinal of its metric; None for the few whose metric cannot be resolved."""
        if ordinal >= FIRST_WRITTEN_ORDINAL:
            return self.written[ordinal - FIRST_WRITTEN_ORDINAL].metric
        found = _METRIC_TABLE[self.random_bits(ordinal) & 1023]
        return None if found == UNRESOLVED_METRIC else found

    def profile(self, ordinal: int) -> int | None:
        """The ordinal of its profile after merges; None when the profile was deleted."""
        if ordinal >= FIRST_WRITTEN_ORDINAL:
            found = self.written[ordinal - FIRST_WRITTEN_ORDINAL].profile
        else:
            earlier = self.attributed_ordinal(ordinal)
            bits = self.random_bits(ordinal if earlier is None else earlier)
            found = (bits >> 10) % self.profile_count if self.profile_count else None
        while found in self.moved_profiles:
            found = self.moved_profiles[found]
        return found

    def read_core(self, ordinal: int) -> tuple[int, int | None, int | None, int]:
        """Second, metric, profile and bits of an event, at the cost of one look."""
        if ordinal >= FIRST_WRITTEN_ORDINAL or self.moved_profiles or not self.profile_count:
            bits = self.random_bits(ordinal)
            return self.seconds(ordinal), self.metric(ordinal), self.profile(ordinal), bits
        bits = mix_bits(self.seed, ordinal)
        metric = _METRIC_TABLE[bits & 1023]
        seconds = self.timeline.time_of(ordinal)
        earlier = self.attributed_ordinal(ordinal) if metric in ORDER_METRICS else None
        owner = bits if earlier is None else self.random_bits(earlier)
        return (
            seconds,
            None if metric == UNRESOLVED_METRIC else metric,
            (owner >> 10) % self.profile_count,
            bits,
        )

    def attributed_ordinal(self, ordinal: int) -> int | None:
        """The email received, opened or clicked that three orders in ten are credited to.

        It is an earlier event that could be read at once, and the order is its profile's.
        """
        if ordinal >= FIRST_WRITTEN_ORDINAL:
            return None
        if _METRIC_TABLE[self.random_bits(ordinal) & 1023] not in ORDER_METRICS:
            return None
        chance = mix_bits(self.seed ^ 0xA77, ordinal)
        if chance % 10 not in _ATTRIBUTED_TENTHS:
            return None
        last = ordinal - 1 - chance // 10 % 50
        for earlier in range(last, max(-1, last - _SEARCHED_EVENTS), -1):
            bits = self.random_bits(earlier)
            if _METRIC_TABLE[bits & 1023] in CREDITED_METRICS and bits >> 54 > _LATE_PER_1024:
                return earlier
        return None

    def has_original_profile(self, ordinal: int) -> bool:
        """Whether the event came with a profile."""
        if ordinal >= FIRST_WRITTEN_ORDINAL:
            return self.written[ordinal - FIRST_WRITTEN_ORDINAL].profile is not None
        return self.profile_count > 0

    def id_of(self, ordinal: int) -> str:
        """Its id."""
        return event_id(self.seed, ordinal).decode()

    def ordinal_of(self, record_id: str) -> int | None:
        """The ordinal of an id that may exist, visible or not; None for any other."""
        ordinal = event_ordinal(self.seed, record_id)
        if ordinal is None:
            return None
        if ordinal >= FIRST_WRITTEN_ORDINAL:
            return ordinal if ordinal - FIRST_WRITTEN_ORDINAL < len(self.written) else None
        return ordinal if self.timeline.count else None

    def is_visible(self, ordinal: int, now: float) -> bool:
        """Whether the event can be read at `now`."""
        return self.visible_at(ordinal) <= now

    def iterate(
        self,
        selection: EventSelection,
        now: float,
        *,
        after: tuple[int, int] | None,
        descending: bool,
    ) -> Iterator[int]:
        """Ordinals of visible events in order, from beyond `after` (second, ordinal) on."""
        regular = self.iterate_regular(selection, now, after=after, descending=descending)
        written = self.select_written(selection, now, after=after, descending=descending)
        keeps = self.build_predicate(selection)
        if written:
            sign = -1 if descending else 1
            mixed = merge(
                regular,
                written,
                key=lambda k: (sign * self.seconds(k), sign * k),
            )
            regular = mixed
        matching = filter(keeps, regular) if keeps else iter(regular)
        return drop_hidden(matching, self, includes_counted=selection.includes_counted)

    def iterate_regular(
        self,
        selection: EventSelection,
        now: float,
        *,
        after: tuple[int, int] | None,
        descending: bool,
    ) -> Iterator[int]:
        """The regular events of a selection; those that may be late are checked one by one."""
        if self.timeline.count == 0:
            return iter(())
        end = min(selection.end, int(now) + 1)
        low = self.timeline.first_at_or_after(selection.start)
        high = self.timeline.first_at_or_after(end)
        if after is not None:
            after_index = self.index_after(after)
            low, high = (
                (low, min(high, after_index)) if descending else (max(low, after_index), high)
            )
            if descending and after[1] < FIRST_WRITTEN_ORDINAL:
                high = min(high, after[1])
            elif after[1] < FIRST_WRITTEN_ORDINAL:
                low = max(low, after[1] + 1)
        doubtful = self.timeline.first_at_or_after(int(now) - LONGEST_LAG_SECONDS - 1)
        if selection.metric is None:
            return self.iterate_range(
                low, high, first_doubtful=doubtful, now=now, descending=descending
            )
        found = self.metric_index.iterate_matching(
            selection.metric, low, high, descending=descending
        )
        return self.filter_visible(found, first_doubtful=doubtful, now=now)

    def index_after(self, after: tuple[int, int]) -> int:
        """The regular index right after a shown event; written ones close their second."""
        seconds, ordinal = after
        return (
            ordinal
            if ordinal < FIRST_WRITTEN_ORDINAL
            else self.timeline.first_at_or_after(seconds + 1)
        )

    def iterate_range(
        self, low: int, high: int, *, first_doubtful: int, now: float, descending: bool
    ) -> Iterator[int]:
        """Indices of [low, high) in order, without those not visible yet."""
        indices = range(high - 1, low - 1, -1) if descending else range(low, high)
        return self.filter_visible(indices, first_doubtful=first_doubtful, now=now)

    def filter_visible(
        self, indices: Iterable[int], *, first_doubtful: int, now: float
    ) -> Iterator[int]:
        """Those of the indices that can be read at `now`; before `first_doubtful` all can."""
        for index in indices:
            if index < first_doubtful or self.visible_at(index) <= now:
                yield index

    def select_written(
        self,
        selection: EventSelection,
        now: float,
        *,
        after: tuple[int, int] | None,
        descending: bool,
    ) -> list[int]:
        """The written events of a selection, in order."""
        low = bisect_left(self.written_order, (selection.start, 0))
        high = bisect_left(self.written_order, (selection.end, 0))
        chosen = self.written_order[low:high]
        if after is not None:
            chosen = [key for key in chosen if (key < after if descending else key > after)]
        found = [ordinal for _, ordinal in chosen if self.is_visible(ordinal, now)]
        return found[::-1] if descending else found

    def build_predicate(self, selection: EventSelection) -> Callable[[int], bool] | None:
        """The test of everything but time; None when all pass."""
        if (selection.metric, selection.profile, selection.has_profile, selection.has_metric) == (
            None,
            None,
            False,
            False,
        ):
            return None

        def keeps(ordinal: int) -> bool:
            if selection.metric is not None or selection.has_metric:
                metric = self.metric(ordinal)
                if metric is None or selection.metric not in {None, metric}:
                    return False
            if selection.profile is not None or selection.has_profile:
                profile = self.profile(ordinal)
                return profile is not None and selection.profile in {None, profile}
            return True

        return keeps


def take_first(ordinals: Iterator[int], size: int) -> list[int]:
    """At most `size` ordinals of a selection."""
    return list(islice(ordinals, size))
