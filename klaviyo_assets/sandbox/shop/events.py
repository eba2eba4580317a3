"""The event book: what happened, as a function of (seed, index), and what tests wrote into it.

A regular event's ordinal is its index in the rhythm; written and future-dated events have ordinals
from `WRITTEN` on. Order is (second, ordinal). An event is visible from its time plus its lag: most
at once, some within six days, a few after seventeen.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from heapq import merge
from itertools import islice

from klaviyo_assets.sandbox.json_types import JsonObject
from klaviyo_assets.sandbox.moments import DAY_SECONDS
from klaviyo_assets.sandbox.shop.bursts import BurstRhythm
from klaviyo_assets.sandbox.shop.hidden import Hidden, unhidden
from klaviyo_assets.sandbox.shop.metric_index import MetricIndex
from klaviyo_assets.sandbox.shop.metrics import UNRESOLVED, metric_table
from klaviyo_assets.sandbox.shop.rhythm import Rhythm
from klaviyo_assets.sandbox.shop.seeds import event_id, event_ordinal, mix

WRITTEN = 10**12
_LATE_OF_1024 = 10
LONGEST_LAG = 17 * DAY_SECONDS
_TABLE = metric_table()


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenEvent:
    """An event given from outside: `metric`, `profile` are ordinals or None, times in seconds."""

    seconds: int
    visible_at: float
    metric: int | None
    profile: int | None
    properties: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class EventAsk:
    """Which events: seconds in [start, end), a metric, a profile, both relations present or not.

    `counting` also takes those that pages leave out and aggregates count.
    """

    start: int
    end: int
    metric: int | None = None
    profile: int | None = None
    has_profile: bool = False
    has_metric: bool = False
    counting: bool = False


class EventBook:
    """All events; time is an argument of every question."""

    def __init__(self, *, seed: int, rhythm: Rhythm | BurstRhythm, people: int) -> None:
        """Events of `people` profiles at the times of the rhythm."""
        self.seed = seed
        self.rhythm = rhythm
        self.people = people
        self.written: list[WrittenEvent] = []
        self.written_order: list[tuple[int, int]] = []
        # Where a profile's events went: another profile after a merge, None after a deletion.
        self.moved: dict[int, int | None] = {}
        self.by_metric = MetricIndex(seed)
        self.hidden: list[Hidden] = []

    def write(self, event: WrittenEvent) -> int:
        """Add an event; its ordinal."""
        self.written.append(event)
        ordinal = WRITTEN + len(self.written) - 1
        insort(self.written_order, (event.seconds, ordinal))
        return ordinal

    def redate(self, ordinal: int, seconds: int) -> None:
        """Give a written event another time; its id stays."""
        event = self.written[ordinal - WRITTEN]
        self.written_order.remove((event.seconds, ordinal))
        self.written[ordinal - WRITTEN] = replace(event, seconds=seconds)
        insort(self.written_order, (seconds, ordinal))

    def bits(self, ordinal: int) -> int:
        """The 64 random bits a regular event is made of."""
        return mix(self.seed, ordinal)

    def seconds(self, ordinal: int) -> int:
        """The event's own time."""
        if ordinal >= WRITTEN:
            return self.written[ordinal - WRITTEN].seconds
        return self.rhythm.time_of(ordinal)

    def visible_at(self, ordinal: int) -> float:
        """From when it can be read: 1 % come up to six days late, 0.1 % seventeen."""
        if ordinal >= WRITTEN:
            return self.written[ordinal - WRITTEN].visible_at
        bits = self.bits(ordinal)
        chance = bits >> 54
        lag = 0
        if chance < _LATE_OF_1024:
            lag = 60 + (bits >> 20) % (6 * DAY_SECONDS - 60)
        elif chance == _LATE_OF_1024:
            lag = LONGEST_LAG
        return self.rhythm.time_of(ordinal) + lag

    def metric(self, ordinal: int) -> int | None:
        """The ordinal of its metric; None for the few whose metric cannot be resolved."""
        if ordinal >= WRITTEN:
            return self.written[ordinal - WRITTEN].metric
        found = _TABLE[self.bits(ordinal) & 1023]
        return None if found == UNRESOLVED else found

    def profile(self, ordinal: int) -> int | None:
        """The ordinal of its profile after merges; None when the profile was deleted."""
        if ordinal >= WRITTEN:
            found = self.written[ordinal - WRITTEN].profile
        else:
            found = (self.bits(ordinal) >> 10) % self.people if self.people else None
        while found in self.moved:
            found = self.moved[found]
        return found

    def glance(self, ordinal: int) -> tuple[int, int | None, int | None, int]:
        """Second, metric, profile and bits of an event, at the cost of one look."""
        if ordinal >= WRITTEN or self.moved or not self.people:
            bits = self.bits(ordinal)
            return self.seconds(ordinal), self.metric(ordinal), self.profile(ordinal), bits
        bits = mix(self.seed, ordinal)
        metric = _TABLE[bits & 1023]
        seconds = self.rhythm.time_of(ordinal)
        return seconds, None if metric == UNRESOLVED else metric, (bits >> 10) % self.people, bits

    def had_profile(self, ordinal: int) -> bool:
        """Whether the event came with a profile."""
        if ordinal >= WRITTEN:
            return self.written[ordinal - WRITTEN].profile is not None
        return self.people > 0

    def id_of(self, ordinal: int) -> str:
        """Its id."""
        return event_id(self.seed, ordinal).decode()

    def known(self, record_id: str) -> int | None:
        """The ordinal of an id that may exist, visible or not; None for any other."""
        ordinal = event_ordinal(self.seed, record_id)
        if ordinal is None:
            return None
        if ordinal >= WRITTEN:
            return ordinal if ordinal - WRITTEN < len(self.written) else None
        return ordinal if self.rhythm.count else None

    def visible(self, ordinal: int, now: float) -> bool:
        """Whether the event can be read at `now`."""
        return self.visible_at(ordinal) <= now

    def walk(
        self, ask: EventAsk, now: float, *, after: tuple[int, int] | None, descending: bool
    ) -> Iterator[int]:
        """Ordinals of visible events in order, from beyond `after` (second, ordinal) on."""
        regular = self.regular(ask, now, after=after, descending=descending)
        written = self.written_between(ask, now, after=after, descending=descending)
        keeps = self.condition(ask)
        if written:
            sign = -1 if descending else 1
            mixed = merge(
                regular,
                written,
                key=lambda k: (sign * self.seconds(k), sign * k),
            )
            regular = mixed
        kept = filter(keeps, regular) if keeps else iter(regular)
        return unhidden(kept, self, counting=ask.counting)

    def regular(
        self, ask: EventAsk, now: float, *, after: tuple[int, int] | None, descending: bool
    ) -> Iterator[int]:
        """The regular events of a walk; those that may be late are looked at one by one."""
        if self.rhythm.count == 0:
            return iter(())
        end = min(ask.end, int(now) + 1)
        low = self.rhythm.first_at_or_after(ask.start)
        high = self.rhythm.first_at_or_after(end)
        if after is not None:
            edge = self.edge(after)
            low, high = (low, min(high, edge)) if descending else (max(low, edge), high)
            if descending and after[1] < WRITTEN:
                high = min(high, after[1])
            elif after[1] < WRITTEN:
                low = max(low, after[1] + 1)
        doubtful = self.rhythm.first_at_or_after(int(now) - LONGEST_LAG - 1)
        if ask.metric is None:
            return self.run(low, high, doubtful=doubtful, now=now, descending=descending)
        found = self.by_metric.matching(ask.metric, low, high, descending=descending)
        return self.shown(found, doubtful=doubtful, now=now)

    def edge(self, after: tuple[int, int]) -> int:
        """The regular index right after a shown event; written ones close their second."""
        seconds, ordinal = after
        return ordinal if ordinal < WRITTEN else self.rhythm.first_at_or_after(seconds + 1)

    def run(
        self, low: int, high: int, *, doubtful: int, now: float, descending: bool
    ) -> Iterator[int]:
        """Indices of [low, high) in order, without those not visible yet."""
        indices = range(high - 1, low - 1, -1) if descending else range(low, high)
        return self.shown(indices, doubtful=doubtful, now=now)

    def shown(self, indices: Iterable[int], *, doubtful: int, now: float) -> Iterator[int]:
        """Those of the indices that can be read at `now`; before `doubtful` all can."""
        for index in indices:
            if index < doubtful or self.visible_at(index) <= now:
                yield index

    def written_between(
        self, ask: EventAsk, now: float, *, after: tuple[int, int] | None, descending: bool
    ) -> list[int]:
        """The written events of a walk, in order."""
        low = bisect_left(self.written_order, (ask.start, 0))
        high = bisect_left(self.written_order, (ask.end, 0))
        chosen = self.written_order[low:high]
        if after is not None:
            chosen = [key for key in chosen if (key < after if descending else key > after)]
        found = [ordinal for _, ordinal in chosen if self.visible(ordinal, now)]
        return found[::-1] if descending else found

    def condition(self, ask: EventAsk) -> Callable[[int], bool] | None:
        """The test of everything but time; None when all pass."""
        if (ask.metric, ask.profile, ask.has_profile, ask.has_metric) == (None, None, False, False):
            return None

        def keeps(ordinal: int) -> bool:
            if ask.metric is not None or ask.has_metric:
                metric = self.metric(ordinal)
                if metric is None or ask.metric not in {None, metric}:
                    return False
            if ask.profile is not None or ask.has_profile:
                profile = self.profile(ordinal)
                return profile is not None and ask.profile in {None, profile}
            return True

        return keeps


def first_events(walk: Iterator[int], size: int) -> list[int]:
    """At most `size` ordinals of a walk."""
    return list(islice(walk, size))
