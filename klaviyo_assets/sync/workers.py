"""Threads that read windows side by side, and the scheduler that splits windows for idle ones.

A split may cost a request: the last page before the seam brings records from beyond it, which the
new window brings as well, and the new window may turn out to be empty. Where records lie is known
only once they are read, so two things are kept apart.

What is *likely* decides which window is split, and where. Its records are taken to lie on as they
have lain so far (`density`). A part that then brings less than a quarter of what was expected
refutes that: the records so far were a crowd, an import or a send. From then on the window is
taken to hold as much again as it has brought, the end of the crowd is looked for on a scale of
doublings, by one part at a time, and after each refutation only once the window has brought twice
as many pages.

What is *certain* decides how often windows are split. A split costs one request at most, that of
a last page which is not full; what is known of last pages that were read already is given back. A
split is made only while all of these together stay within 10 requests and 10 % of the pages read.
So a sync never asks for more than `1.1 x pages + 10`, wherever its records lie.

No clock, no threads and no requests here: `pool` calls this under one lock.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil, floor, sqrt
from queue import SimpleQueue
from threading import Condition, Event, Thread
from types import MappingProxyType

from klaviyo_assets.errors import (
    BrokenBodyError,
    ContractError,
    KlaviyoAssetsError,
    LargeBodyError,
    PermanentError,
    PlanError,
    RevisionRetiredError,
    ServerError,
    SettingError,
)
from klaviyo_assets.model.stream import Slice
from klaviyo_assets.sync.concurrency import (
    STOP_POLL_SECONDS,
    Backpressure,
    ConcurrencyEstimator,
    PageTimer,
)
from klaviyo_assets.sync.window_reader import (
    CURSOR_SAFETY_MARGIN,
    ONE_SECOND,
    PageResult,
    WindowReader,
)

MAX_EXTRA_REQUESTS = 10
"""Requests beyond its pages that a sync may spend on reading windows side by side..."""

MAX_EXTRA_REQUEST_SHARE = 0.1
"""... and this share of its pages."""

MIN_PAGES_TO_SPLIT = 3.0
"""Pages that a window must still promise before an idle worker takes a part of it."""

MIN_PAGES_PER_PART = 1.5
"""Pages that a part should promise where a window is cut into several at once."""

MIN_ESTIMATE_SHARE = 0.25
"""Share of what a part promised below which it refutes the density that promised it."""

MAX_UNTESTED_PAGES = 2000
"""Pages from which on a promise is put to the test by one part before more are cut off.

Half a million events an hour are a crowd rather than an account. Where an account is as large as
that, one page's time at the start is nothing beside the rest; where fewer pages are promised, so
many parts are cut off at once that all of them together are about as many.
"""

MAX_UNTESTED_PARTS = 10
"""Parts of one window that may wait for their first page."""

_PAGE_ROUNDING_TOLERANCE = 1e-6
"""Sums of parts of pages may be off by as much."""


@dataclass(slots=True)
class _SliceState:
    """The windows of one slice: those of the plan and all that was cut off them."""

    splits: int
    """Windows beyond the first one."""
    last_page_fill: float = 0.0
    """How full the last pages of those were that were read to their end, in pages."""

    @property
    def max_extra_requests(self) -> int:
        """Return how many requests more than its pages it may come to.

        Each window makes a request for each full page and one for its last page, which is full in
        part, or empty: `full + splits + 1` in all. Its pages are `full` and as many as all these
        parts fill. What is never split asks for what one reader asks for.
        """
        return (
            self.splits + 1 - ceil(self.last_page_fill - _PAGE_ROUNDING_TOLERANCE)
            if self.splits
            else 0
        )


@dataclass(slots=True, eq=False)
class _WindowState:
    """A window and what became of the parts that were cut off it."""

    reader: WindowReader
    slice_state: _SliceState
    parent: "_WindowState | None" = None
    expected_pages: float = 0.0
    """Pages that its parent's density promised."""
    counted_pages: float = 0.0
    """Its pages that are counted already."""
    split_quota: int = 0
    """Parts that may be cut off it before the first of them is answered; 0 before its own page."""
    untested_parts: int = 0
    """Parts cut off it whose first page has not come."""
    refutations: int = 0
    """Parts in a row that brought far less than promised."""

    @property
    def estimated_pages(self) -> float:
        """Return how many pages the rest of the window is likely to bring."""
        if not self.split_quota:
            return self.expected_pages
        if not self.refutations:
            return self.reader.estimated_pages_left
        return min(self.reader.estimated_pages_left, self.reader.full_pages)

    @property
    def available_splits(self) -> int:
        """Return how many parts it may give up now."""
        has_waited = not self.refutations or self.reader.request_count >= 2 ** (
            self.refutations + 1
        )
        if not self.split_quota or not has_waited or self.estimated_pages < MIN_PAGES_TO_SPLIT:
            return 0
        if not self.reader.can_split:
            return 0
        return (1 if self.refutations else self.split_quota) - self.untested_parts

    def record_page(self) -> None:
        """Take in a page: the first one says whether the parent's density was right."""
        promise = self.reader.estimated_pages_left
        self.split_quota = max(
            1, min(MAX_UNTESTED_PARTS, floor(MAX_UNTESTED_PAGES / max(promise, 1.0)))
        )
        parent, self.parent = self.parent, None
        if parent is None:
            return
        parent.untested_parts -= 1
        is_refuted = self.reader.full_pages + promise < MIN_ESTIMATE_SHARE * self.expected_pages
        parent.refutations = parent.refutations + 1 if is_refuted else 0


@dataclass(slots=True)
class WindowScheduler:
    """Hands out windows; to be called by one thread at a time."""

    pending_readers: list[WindowReader]
    full_pages: float = 0.0
    """Full pages that all windows have brought."""
    _active_windows: dict[WindowReader, _WindowState] = field(
        default_factory=dict[WindowReader, _WindowState]
    )
    _slice_states: dict[str, _SliceState] = field(default_factory=dict[str, _SliceState])
    """By their slice's name."""
    _unfinished_windows: Counter[str] = field(default_factory=Counter[str])
    """Windows that are not read to their end, by their slice's name."""
    _abandoned_slices: set[str] = field(default_factory=set[str])
    """Names of slices of which a window could not be read."""

    @classmethod
    def from_readers(cls, readers: Sequence[WindowReader]) -> "WindowScheduler":
        """Return the scheduler of the plan's windows."""
        windows = Counter(reader.slice.name for reader in readers)
        families = {name: _SliceState(count - 1) for name, count in windows.items()}
        return cls(list(readers), _slice_states=families, _unfinished_windows=windows)

    @property
    def is_done(self) -> bool:
        """Return whether nothing waits and nothing is being read."""
        return not self.pending_readers and not self._active_windows

    @property
    def active_count(self) -> int:
        """Return how many windows are being read."""
        return len(self._active_windows)

    def take_reader(self, *, idle_workers: int, useful_windows: int) -> WindowReader | None:
        """Return a window to read; None where none waits and none is worth splitting now.

        `idle_workers` workers have nothing to read, this one among them; `useful_windows` are worth
        reading at once.
        """
        if self.pending_readers:
            reader = self.pending_readers.pop(0)
            self._active_windows[reader] = _WindowState(
                reader, self._slice_states[reader.slice.name]
            )
            return reader
        # Most calls end here, and each page makes one: nothing dear before it.
        room = min(idle_workers, useful_windows - self.active_count)
        return self._split_busiest_window(min(room, self._affordable_splits)) if room > 0 else None

    def record_page(self, reader: WindowReader) -> None:
        """Take in that the walk has brought a page."""
        window_state = self._active_windows[reader]
        self.full_pages += reader.full_pages - window_state.counted_pages
        window_state.counted_pages = reader.full_pages
        window_state.record_page()

    def finish_window(self, reader: WindowReader) -> bool:
        """Take in that the walk is at its end; return whether all of its slice has been read."""
        window_state = self._active_windows.pop(reader)
        window_state.slice_state.last_page_fill += reader.last_page_fill
        self._unfinished_windows[reader.slice.name] -= 1
        self._schedule_reread(reader, window_state.slice_state)
        return (
            not self._unfinished_windows[reader.slice.name]
            and reader.slice.name not in self._abandoned_slices
        )

    def _schedule_reread(self, reader: WindowReader, slice_state: _SliceState) -> None:
        """Have a window that came out of order read whole, once all of its parts have ended."""
        again = reader.reread_if_out_of_order()
        parts = (each.planned_window for each in self._active_windows)
        if (
            again is None
            or reader.planned_window in parts
            or reader.slice.name in self._abandoned_slices
        ):
            return
        self.pending_readers.append(again)
        self._unfinished_windows[reader.slice.name] += 1
        slice_state.splits += 1

    def abandon_slice(self, reader: WindowReader) -> None:
        """Take in that the walk cannot be read, so that its slice is not read to its end now.

        Its windows that wait are dropped; those being read bring what they can.
        """
        window_state = self._active_windows.pop(reader)
        if window_state.parent is not None:
            window_state.parent.untested_parts -= 1
        self._abandoned_slices.add(reader.slice.name)
        self.pending_readers = [
            each for each in self.pending_readers if each.slice.name != reader.slice.name
        ]

    def _split_busiest_window(self, wanted_splits: int) -> WindowReader | None:
        """Cut off a part of the busiest window that may give one up.

        `wanted_splits` are wanted in all.
        """
        splittable = (
            [each for each in self._active_windows.values() if each.available_splits > 0]
            if wanted_splits > 0
            else []
        )
        if not splittable:
            return None
        busiest = max(splittable, key=lambda each: each.estimated_pages)
        promise = busiest.estimated_pages
        share = sum(each.estimated_pages for each in self._active_windows.values()) / (
            self.active_count + wanted_splits
        )
        parts = min(
            wanted_splits,
            busiest.available_splits,
            round(promise / share) - 1,
            int(promise / MIN_PAGES_PER_PART) - 1,
        )
        return self._split_window(busiest, max(1, parts))

    @property
    def _affordable_splits(self) -> int:
        """Return how many more splits are certain to stay within bounds."""
        at_risk = sum(each.max_extra_requests for each in self._slice_states.values())
        return floor(
            MAX_EXTRA_REQUESTS
            + MAX_EXTRA_REQUEST_SHARE * self.full_pages
            - at_risk
            + _PAGE_ROUNDING_TOLERANCE
        )

    def _split_window(self, window_state: _WindowState, parts: int) -> WindowReader | None:
        """Cut off the last of `available_splits` equal parts, beside the one that is kept."""
        reader, promise = window_state.reader, window_state.estimated_pages
        lower, upper = reader.position, reader.upper_bound
        if lower is None or upper is None:
            return None
        at = _split_point(
            lower, upper, remaining_span=_remaining_span(window_state, upper - lower, parts)
        )
        part = reader.split(at) if at is not None else None
        if at is None or part is None:
            return None
        promised = promise * ((upper - at) / (upper - lower))
        window_state.untested_parts += 1
        window_state.slice_state.splits += 1
        self._unfinished_windows[part.slice.name] += 1
        self._active_windows[part] = _WindowState(
            part, window_state.slice_state, parent=window_state, expected_pages=promised
        )
        return part


def _remaining_span(window_state: _WindowState, time_left: timedelta, parts: int) -> timedelta:
    """Return how much of the time that is left stays with the window.

    Where its records are a crowd, the mean of how long that has lasted and of what is left, on a
    scale of doublings: halfway, if the crowd is as likely to last twice as long as ten times.
    """
    if not window_state.refutations:
        return time_left * (parts / (parts + 1))
    doublings = ONE_SECOND * sqrt(
        (window_state.reader.time_span / ONE_SECOND) * (time_left / ONE_SECOND)
    )
    return min(doublings, time_left / 2)


def _split_point(lower: datetime, upper: datetime, *, remaining_span: timedelta) -> datetime | None:
    """Return the whole second nearest below `lower + ahead` that lies between the two."""
    if upper - lower < 4 * ONE_SECOND:
        return None
    at = (lower + remaining_span).replace(microsecond=0)
    return at if at > lower else at + ONE_SECOND


_SLICE_ERRORS = (
    *(SettingError, PermanentError, PlanError, ContractError),
    *(ServerError, BrokenBodyError, LargeBodyError),
)
"""What may be wrong with one slice alone; a key, a limit or a line concerns them all."""

_QueueItem = PageResult | Slice | BaseException | None
"""What workers hand over; None once the last of them has gone home."""


class WorkerPool:
    """Reads walks with up to `workers` threads; `results` yields what they bring, as it comes.

    Half as many pages as workers wait for the writer at most, fewer where pages are large or come
    at once: memory stays flat, and what is under way when a run is killed stays little. A window is
    split for an idle worker only while `estimator` says that one more hides latency.
    """

    missing_parents = 0
    last_pass_at = None
    """There is one round."""
    unanswered_parents: Mapping[str, int] = MappingProxyType({})
    """Windows have no parent records that could be gone, or get no answer."""

    def __init__(
        self,
        readers: Sequence[WindowReader],
        *,
        workers: int,
        estimator: ConcurrencyEstimator | None = None,
    ) -> None:
        """Start a worker for each reader at once, the others once a window is split for them."""
        self._scheduler = WindowScheduler.from_readers(readers)
        self._slices = {reader.slice.name for reader in readers}
        self._failures: dict[str, KlaviyoAssetsError] = {}
        self._max_workers = workers
        self._running_workers = 0
        self._idle_workers = 0
        """Running workers that wait for a window."""
        self._estimator = estimator if estimator is not None else ConcurrencyEstimator()
        self._backpressure = Backpressure(
            max_pages=workers + max(2, workers // 2), estimator=self._estimator
        )
        self._queue: SimpleQueue[_QueueItem] = SimpleQueue()
        self._condition = Condition()
        self._stop = Event()
        self.threads: list[Thread] = []
        with self._condition:
            for _ in range(max(1, min(workers, len(readers)))):
                self._start_worker(self._take_reader())

    def results(self) -> Iterator[PageResult | Slice]:
        """Yield pieces, and each slice once when its last window has been read.

        A slice that cannot be read keeps none of the others.

        Raises:
            KlaviyoAssetsError: what a worker met, after everything that was read before it; what
                concerns a slice alone after the other slices were read to their end.
        """
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, PageResult):
                self._backpressure.release()
            yield item
        if self._failures:
            raise _combine_failures(self._failures, self._slices)

    def close(self) -> None:
        """Tell the workers to stop after their page; does not wait for an answer under way."""
        self._stop.set()
        with self._condition:
            self._condition.notify_all()

    def _take_reader(self) -> WindowReader | None:
        """Return a waiting window, else a part of one being read; None where there is neither."""
        return self._scheduler.take_reader(
            idle_workers=self._max_workers - self._scheduler.active_count,
            useful_windows=self._estimator.useful_windows,
        )

    def _start_worker(self, reader: WindowReader | None) -> None:
        """Start a worker that begins with `reader`; to be called under the condition."""
        self._running_workers += 1
        name = f"klaviyo-{len(self.threads)}"
        self.threads.append(Thread(target=self._run_worker, args=(reader,), name=name, daemon=True))
        self.threads[-1].start()

    def _share_windows(self) -> None:
        """Wake an idle worker, or start workers for what is worth reading side by side now.

        To be called under the condition. One page may be reason enough for several parts: a worker
        that is woken and finds one wakes the next.
        """
        if self._idle_workers:
            self._condition.notify()
            return
        while (
            self._running_workers < self._max_workers
            and not self._stop.is_set()
            and (reader := self._take_reader()) is not None
        ):
            self._start_worker(reader)

    def _run_worker(self, reader: WindowReader | None) -> None:
        try:
            self._read_windows(reader)
        except BaseException as error:  # noqa: BLE001 - carried to the writer, which raises it
            self._queue.put(error)
            self.close()
        with self._condition:
            self._running_workers -= 1
            is_last = self._running_workers == 0
        if is_last:
            self._queue.put(None)

    def _read_windows(self, reader: WindowReader | None) -> None:
        while reader is not None:
            try:
                self._read_window(reader)
            except _SLICE_ERRORS as error:
                if len(self._slices) == 1 or isinstance(error, RevisionRetiredError):
                    raise
                self._abandon_slice(reader, error)
            else:
                if self._stop.is_set():
                    return
                self._finish_window(reader)
            reader = self._wait_for_reader()

    def _read_window(self, reader: WindowReader) -> None:
        results = reader.read_pages()
        while self._backpressure.acquire(self._stop):
            result = self._read_next_page(results, PageTimer(reader.decode_lock))
            if result is None:
                return
            self._queue.put(result)
            with self._condition:
                self._scheduler.record_page(reader)
                self._share_windows()

    def _read_next_page(self, pages: Iterator[PageResult], timer: PageTimer) -> PageResult | None:
        """Return the next page of a walk, None after the last, and learn what it cost.

        The room that was taken for it is free again where none comes.
        """
        result = None
        try:
            result = next(pages, None)
        finally:
            self._backpressure.finish_reading()
            if result is None:
                self._backpressure.release()
        if result is not None:
            self._estimator.add_page(*timer.elapsed())
            self._backpressure.record_page_size(result.page.batch.get_total_buffer_size())
        return result

    def _wait_for_reader(self) -> WindowReader | None:
        """Return the next window to read, once there is one; None when all is read."""
        with self._condition:
            while not self._stop.is_set():
                if (reader := self._take_reader()) is not None:
                    self._share_windows()
                    return reader
                if self._scheduler.is_done:
                    self._condition.notify_all()
                    return None
                self._idle_workers += 1
                self._condition.wait(STOP_POLL_SECONDS)
                self._idle_workers -= 1
            return None

    def _abandon_slice(self, reader: WindowReader, error: KlaviyoAssetsError) -> None:
        with self._condition:
            self._failures.setdefault(reader.slice.name, error)
            self._scheduler.abandon_slice(reader)
            self._condition.notify_all()

    def _finish_window(self, reader: WindowReader) -> None:
        with self._condition:
            is_slice_read = self._scheduler.finish_window(reader)
            self._condition.notify_all()
        if is_slice_read:
            self._queue.put(reader.slice)


def _combine_failures(
    failures: Mapping[str, KlaviyoAssetsError], slices: Collection[str]
) -> KlaviyoAssetsError:
    """Return the failure of the first slice, and say which others could not be read."""
    first, names = next(iter(failures.values())), ", ".join(map(repr, sorted(failures)))
    if len(failures) < len(slices):
        first.message = f"{first.message} All but {names} was read."
    return first


class TwoPassReader:
    """Two pools, one after the other; slices end with the second."""

    missing_parents = 0
    unanswered_parents: Mapping[str, int] = MappingProxyType({})
    """Windows have no parent records that could be gone, or get no answer."""

    def __init__(
        self, first_pass: WorkerPool, start_second_pass: Callable[[datetime], WorkerPool]
    ) -> None:
        """Take the first; `start_second_pass` starts the pool that reads from a moment (UTC) on."""
        self._pool = first_pass
        self._start_second_pass = start_second_pass
        self._is_closed = False
        self.last_pass_at: datetime | None = None
        """When the second round began, by its first answer, UTC."""

    def results(self) -> Iterator[PageResult | Slice]:
        """Yield the pieces of both, and each slice once.

        Raises:
            KlaviyoAssetsError: what a worker met, after everything that was read before it.
        """
        began: datetime | None = None
        for item in self._pool.results():
            if isinstance(item, Slice):
                continue
            began = item.responded_at if began is None else min(began, item.responded_at)
            yield item
        if began is None or self._is_closed:
            return
        self._pool = self._start_second_pass(began - CURSOR_SAFETY_MARGIN)
        for item in self._pool.results():
            if self.last_pass_at is None and isinstance(item, PageResult):
                self.last_pass_at = item.responded_at
            yield item

    def close(self) -> None:
        """Tell the workers to stop after their page."""
        self._is_closed = True
        self._pool.close()
