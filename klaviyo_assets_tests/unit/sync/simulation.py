"""Windows read side by side on a virtual clock: the same walks and scheduler, but no threads."""

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

from klaviyo_assets.api.limits import SlidingWindowLimit, earliest_allowed_time
from klaviyo_assets.api.messages import Request
from klaviyo_assets.decode.decoder import DecodedPage
from klaviyo_assets.model.stream import WHOLE_COLLECTION, Slice
from klaviyo_assets.model.window import SyncProgress, Window
from klaviyo_assets.streams import STREAMS
from klaviyo_assets.sync.window_reader import PageResult, RequestContext, WindowReader
from klaviyo_assets.sync.workers import WindowScheduler

BEGIN_TIME = datetime(2015, 1, 1, tzinfo=UTC)
"""When simulated seconds begin to count."""

DAY_SECONDS = 86_400
TIMESTAMP_TYPE = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema([("id", pa.int64()), ("datetime", TIMESTAMP_TYPE)])


def simulated_time(second: float) -> datetime:
    """Return a simulated second as a moment."""
    return BEGIN_TIME + timedelta(seconds=second)


@dataclass(frozen=True, slots=True)
class Burst:
    """Records spread evenly over some seconds from a second on."""

    records: int
    start: int
    seconds: int

    def record_seconds(self) -> Iterator[int]:
        """Yield the second of each record."""
        for number in range(self.records):
            yield self.start + number * self.seconds // self.records


def merge_bursts(*bursts: Burst) -> list[int]:
    """Return the seconds of all records, in order."""
    return sorted(second for burst in bursts for second in burst.record_seconds())


@dataclass(slots=True)
class SimulatedKlaviyo:
    """Klaviyo with records at these seconds, by slice; `now` is its clock, in seconds.

    Where it `has_next_links`, a full page that is the last one has no link; else the link leads to
    an empty page, as that of events does.
    """

    slices: Mapping[str, Sequence[int]]
    page_size: int
    now: int
    has_next_links: bool = True
    requests: int = 0

    def respond(self, request: Request, slice_: Slice) -> tuple[DecodedPage, datetime]:
        """Answer one request, by keyset as Klaviyo does."""
        self.requests += 1
        seconds = self.slices[slice_.name]
        query = parse_qs(urlsplit(request.target).query)
        start, end = parse_bounds(query.get("filter", [""])[0])
        first = max(bisect_left(seconds, start), int(query.get("after", ["0"])[0]))
        stop = bisect_left(seconds, end)
        last = min(first + self.page_size, stop)
        has_more = last < stop or (not self.has_next_links and last - first == self.page_size)
        link = f"{request.target.split('&after')[0]}&after={last}" if has_more else None
        return build_page(seconds, range(first, max(first, last)), link), simulated_time(self.now)

    def min_requests(self) -> int:
        """Return how many requests one reader makes."""
        return sum(max(1, ceil(len(each) / self.page_size)) for each in self.slices.values())


def parse_bounds(text: str) -> tuple[float, float]:
    """Return the seconds `[start, end)` that a filter of events asks for."""
    start, end = float("-inf"), float("inf")
    for clause in text.split("),"):
        name, _, value = clause.rstrip(")").partition("(datetime,")
        if name == "greater-or-equal":
            start = (datetime.fromisoformat(value) - BEGIN_TIME).total_seconds()
        if name == "less-than":
            end = (datetime.fromisoformat(value) - BEGIN_TIME).total_seconds()
    return start, end


def build_page(seconds: Sequence[int], places: range, link: str | None) -> DecodedPage:
    """Return the decoded page with the records at these places."""
    found = np.array([seconds[place] for place in places], dtype="int64")
    micros = (found + int(BEGIN_TIME.timestamp())) * 1_000_000
    moments = pa.array(micros).cast(TIMESTAMP_TYPE)
    ids = pa.array(np.array(places, dtype="int64"))
    return DecodedPage(
        batch=pa.RecordBatch.from_arrays([ids, moments], schema=SCHEMA),
        next_link=link,
        record_count=len(places),
        lowest_cursor=simulated_time(int(found[0])) if places else None,
        highest_cursor=simulated_time(int(found[-1])) if places else None,
        is_ascending=True,
        quarantined=(),
        notices=(),
        is_fast=True,
    )


@dataclass(slots=True)
class BookedTimes:
    """The moments of requests, as the rate limit store books them."""

    times: list[float] = field(default_factory=list[float])

    def nth_last(self, n: int) -> float | None:
        """Return the n-th booking from the end; None where fewer are."""
        return self.times[-n] if n <= len(self.times) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationSettings:
    """What pages take: `latency_seconds`, `decode_seconds` (one page at a time), and the limits."""

    workers: int = 20
    latency_seconds: float = 0.15
    decode_seconds: float = 0.005
    limits: tuple[SlidingWindowLimit, ...] = ()


@dataclass(slots=True, kw_only=True)
class SimulationResult:
    """What a simulated sync did: how often each id of a slice came, and how long it took."""

    requests: int
    seconds: float
    ids: dict[str, list[int]]
    progress: SyncProgress


WindowEnds = tuple[int | None, int | None]
"""A window in seconds, half open; None leaves a side open."""


def simulate(
    timeline: SimulatedKlaviyo,
    settings: SimulationSettings,
    *,
    windows: Sequence[WindowEnds] = ((None, None),),
) -> SimulationResult:
    """Read windows of every slice of a timeline, as a plan has them.

    An answer is taken when it arrives, so that a window may be cut while one is under way.
    """
    ask = RequestContext(
        stream=STREAMS["events"],
        base_url="http://127.0.0.1:9",
        excluded_fields=frozenset(),
        fetch_page=timeline.respond,
    )
    planned = [
        Window(*(None if each is None else simulated_time(each) for each in ends))
        for ends in windows
    ]
    slices = [
        WHOLE_COLLECTION if name == WHOLE_COLLECTION.name else Slice(name=name, filter="")
        for name in timeline.slices
    ]
    run = _Simulation(
        WindowScheduler.from_readers(
            [WindowReader(ask, each, one) for each in slices for one in planned]
        ),
        settings,
        SimulationResult(
            requests=0,
            seconds=0.0,
            ids={each.name: [] for each in slices},
            progress=SyncProgress(planned[0].start, {}, tuple(each.name for each in slices)),
        ),
    )
    run.assign_windows()
    while run.arrivals:
        run.process_next_page()
    run.outcome.requests = timeline.requests
    return run.outcome


class _Simulation:
    """Workers with a page under way each, by the second of its arrival."""

    def __init__(
        self, scheduler: WindowScheduler, world: SimulationSettings, outcome: SimulationResult
    ) -> None:
        self.scheduler, self.world, self.outcome = scheduler, world, outcome
        self.idle = world.workers
        self.arrivals: list[tuple[float, int, WindowReader]] = []
        self.pieces: dict[WindowReader, Iterator[PageResult]] = {}
        self.booked, self.sent = BookedTimes(), 0

    def request_page(self, walk: WindowReader) -> None:
        """Ask for the walk's next page."""
        leaves = earliest_allowed_time(
            self.world.limits, self.booked.nth_last, self.outcome.seconds
        )
        self.booked.times.append(leaves)
        self.sent += 1
        heapq.heappush(self.arrivals, (leaves + self.world.latency_seconds, self.sent, walk))

    def assign_windows(self) -> None:
        """Give idle workers something to read, as far as there is something."""
        while self.idle:
            walk = self.scheduler.take_reader(idle_workers=self.idle)
            if walk is None:
                return
            self.idle -= 1
            self.pieces[walk] = walk.read_pages()
            self.request_page(walk)

    def process_next_page(self) -> None:
        """Let the next page arrive, be decoded, and its worker go on."""
        arrival, _, walk = heapq.heappop(self.arrivals)
        outcome = self.outcome
        outcome.seconds = max(outcome.seconds, arrival) + self.world.decode_seconds
        piece = next(self.pieces[walk])
        outcome.ids[piece.slice.name] += cast("list[int]", piece.batch["id"].to_pylist())
        outcome.progress.record_window(piece.slice.name, piece.completed_window, piece.max_cursor)
        self.scheduler.record_page(walk)
        if walk.is_finished:
            del self.pieces[walk]
            self.idle += 1
            if self.scheduler.finish_window(walk):
                outcome.progress.finish_slice(walk.slice.name)
        else:
            self.request_page(walk)
        self.assign_windows()
