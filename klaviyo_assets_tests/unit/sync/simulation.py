"""Windows read side by side on a virtual clock: the same walks and scheduler, but no threads.

What belongs here: a Klaviyo of sorted moments, and workers whose pages take the time that latency,
decoding and Klaviyo's published limits make them take. The outcome follows from the records alone,
so that a policy can be judged in any mixture of them.
"""

import heapq
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import cast
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa

from klaviyo_assets.api.limits import Allowance, earliest
from klaviyo_assets.api.protocol import Request
from klaviyo_assets.model.stream import WHOLE, Slice
from klaviyo_assets.model.window import Window
from klaviyo_assets.streams import STREAMS
from klaviyo_assets.sync.progress import Progress
from klaviyo_assets.sync.scheduler import WindowScheduler
from klaviyo_assets.sync.walk import Ask, Piece, Walk
from klaviyo_assets.tables.decode import Page

BEGIN = datetime(2015, 1, 1, tzinfo=UTC)
"""When simulated seconds begin to count."""

DAY = 86_400
MOMENT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema([("id", pa.int64()), ("datetime", MOMENT)])


def moment_of(second: float) -> datetime:
    """Return a simulated second as a moment."""
    return BEGIN + timedelta(seconds=second)


@dataclass(frozen=True, slots=True)
class Burst:
    """Records spread evenly over some seconds from a second on."""

    records: int
    start: int
    seconds: int

    def moments(self) -> Iterator[int]:
        """Yield the second of each record."""
        for number in range(self.records):
            yield self.start + number * self.seconds // self.records


def mixture(*bursts: Burst) -> list[int]:
    """Return the seconds of all records, in order."""
    return sorted(second for burst in bursts for second in burst.moments())


@dataclass(slots=True)
class Timeline:
    """Klaviyo with records at these seconds, by slice; `now` is its clock, in seconds.

    Where it `looks_ahead`, a full page that is the last one has no link; else the link leads to an
    empty page, as that of events does.
    """

    slices: Mapping[str, Sequence[int]]
    page_size: int
    now: int
    looks_ahead: bool = True
    requests: int = 0

    def read(self, request: Request, slice_: Slice) -> tuple[Page, datetime]:
        """Answer one request, by keyset as Klaviyo does."""
        self.requests += 1
        seconds = self.slices[slice_.name]
        query = parse_qs(urlsplit(request.url).query)
        start, end = bounds(query.get("filter", [""])[0])
        first = max(bisect_left(seconds, start), int(query.get("after", ["0"])[0]))
        stop = bisect_left(seconds, end)
        last = min(first + self.page_size, stop)
        has_more = last < stop or (not self.looks_ahead and last - first == self.page_size)
        link = f"{request.url.split('&after')[0]}&after={last}" if has_more else None
        return page_of(seconds, range(first, max(first, last)), link), moment_of(self.now)

    def least_requests(self) -> int:
        """Return how many requests one reader makes."""
        return sum(max(1, ceil(len(each) / self.page_size)) for each in self.slices.values())


def bounds(text: str) -> tuple[float, float]:
    """Return the seconds `[start, end)` that a filter of events asks for."""
    start, end = float("-inf"), float("inf")
    for clause in text.split("),"):
        name, _, value = clause.rstrip(")").partition("(datetime,")
        if name == "greater-or-equal":
            start = (datetime.fromisoformat(value) - BEGIN).total_seconds()
        if name == "less-than":
            end = (datetime.fromisoformat(value) - BEGIN).total_seconds()
    return start, end


def page_of(seconds: Sequence[int], places: range, link: str | None) -> Page:
    """Return the decoded page with the records at these places."""
    found = np.array([seconds[place] for place in places], dtype="int64")
    micros = (found + int(BEGIN.timestamp())) * 1_000_000
    moments = pa.array(micros).cast(MOMENT)
    ids = pa.array(np.array(places, dtype="int64"))
    return Page(
        batch=pa.RecordBatch.from_arrays([ids, moments], schema=SCHEMA),
        next_link=link,
        records=len(places),
        lowest=moment_of(int(found[0])) if places else None,
        highest=moment_of(int(found[-1])) if places else None,
        is_ascending=True,
        quarantined=(),
        notices=(),
        is_fast=True,
    )


@dataclass(slots=True)
class Booked:
    """The moments of requests, as the ledger books them."""

    moments: list[float] = field(default_factory=list[float])

    def nth_last(self, n: int) -> float | None:
        """Return the n-th booking from the end; None where fewer are."""
        return self.moments[-n] if n <= len(self.moments) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What pages take: `latency` and `work` (one page at a time) in seconds, and the limits.

    `windows` are worth reading at once.
    """

    workers: int = 20
    windows: int = 20
    latency: float = 0.15
    work: float = 0.005
    limits: tuple[Allowance, ...] = ()


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a simulated sync did: how often each id of a slice came, and how long it took."""

    requests: int
    seconds: float
    most_windows: int
    ids: dict[str, list[int]]
    progress: Progress


Ends = tuple[int | None, int | None]
"""A window in seconds, half open; None leaves a side open."""


def simulate(
    timeline: Timeline, world: World, *, windows: Sequence[Ends] = ((None, None),)
) -> Outcome:
    """Read windows of every slice of a timeline, as a plan has them.

    An answer is taken when it arrives, so that a window may be cut while one is under way.
    """
    ask = Ask(
        stream=STREAMS["events"],
        base_url="http://127.0.0.1:9",
        left_out=frozenset(),
        read=timeline.read,
    )
    planned = [
        Window(*(None if each is None else moment_of(each) for each in ends)) for ends in windows
    ]
    slices = [
        WHOLE if name == WHOLE.name else Slice(name=name, filter="") for name in timeline.slices
    ]
    run = _Run(
        WindowScheduler.of([Walk(ask, each, one) for each in slices for one in planned]),
        world,
        Outcome(
            requests=0,
            seconds=0.0,
            most_windows=0,
            ids={each.name: [] for each in slices},
            progress=Progress(planned[0].start, {}, tuple(each.name for each in slices)),
        ),
    )
    run.hand_out()
    while run.arrivals:
        run.step()
    run.outcome.requests = timeline.requests
    return run.outcome


class _Run:
    """Workers with a page under way each, by the second of its arrival."""

    def __init__(self, scheduler: WindowScheduler, world: World, outcome: Outcome) -> None:
        self.scheduler, self.world, self.outcome = scheduler, world, outcome
        self.idle = world.workers
        self.arrivals: list[tuple[float, int, Walk]] = []
        self.pieces: dict[Walk, Iterator[Piece]] = {}
        self.booked, self.sent = Booked(), 0
        self.has_read = False

    def send(self, walk: Walk) -> None:
        """Ask for the walk's next page."""
        leaves = earliest(self.world.limits, self.booked, self.outcome.seconds)
        self.booked.moments.append(leaves)
        self.sent += 1
        heapq.heappush(self.arrivals, (leaves + self.world.latency, self.sent, walk))

    def hand_out(self) -> None:
        """Give idle workers something to read, as far as there is something."""
        windows = self.world.windows if self.has_read else 0
        while self.idle:
            walk = self.scheduler.next_walk(idle=self.idle, windows=windows)
            if walk is None:
                return
            self.idle -= 1
            self.pieces[walk] = walk.pieces()
            self.send(walk)
            reading = len(self.pieces)
            self.outcome.most_windows = max(self.outcome.most_windows, reading)

    def step(self) -> None:
        """Let the next page arrive, be decoded, and its worker go on."""
        arrival, _, walk = heapq.heappop(self.arrivals)
        outcome = self.outcome
        outcome.seconds = max(outcome.seconds, arrival) + self.world.work
        self.has_read = True
        piece = next(self.pieces[walk])
        outcome.ids[piece.slice.name] += cast("list[int]", piece.batch["id"].to_pylist())
        outcome.progress.note(piece.slice.name, piece.read, piece.highest)
        self.scheduler.note(walk)
        if walk.is_at_end:
            del self.pieces[walk]
            self.idle += 1
            if self.scheduler.finish(walk):
                outcome.progress.finish(walk.slice.name)
        else:
            self.send(walk)
        self.hand_out()
