"""Reads windows in parallel: worker threads, and a scheduler that splits windows for idle workers.

A split may cost a request: the last page before the split point also has records from beyond it,
which the new window reads again, and the new window may turn out to be empty. How records are
distributed is known only once they are read, so two decisions are separate.

An *estimate* decides which window is split, and where. It assumes that the density of its records
so far continues (`RecordDensity`). A part with less than a quarter of the expected pages refutes
that: the records so far were a cluster, such as an import or a send. From then on the window is
expected to hold as many pages again as it has brought. The end of the cluster is searched on a
scale of doublings, with one part at a time, and after each refutation only once the window has
brought twice as many pages.

A *guarantee* decides how often windows are split. A split costs at most one request, for a last
page that is not full; as soon as a last page was read, its real cost replaces that maximum. Splits
are made only while all costs together stay within 10 requests plus 10 % of the pages read. So a
sync never sends more than `1.1 x pages + 10` requests, however its records are distributed.

`WindowScheduler` uses no clock, threads or requests: `WorkerPool` calls it under one lock.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil, floor, sqrt
from queue import Empty, SimpleQueue
from threading import Condition, Event, Thread
from time import monotonic, thread_time

from klaviyo_assets.api.client import MAX_CONNECTIONS
from klaviyo_assets.api.rate_limiter import RateLimiter
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
    StoppedError,
)
from klaviyo_assets.model.stream import Slice
from klaviyo_assets.sync.window_reader import (
    CURSOR_SAFETY_MARGIN,
    ONE_SECOND,
    PageResult,
    PageSource,
    RequestContext,
    WindowReader,
)

MAX_EXTRA_REQUESTS = 10
"""Requests beyond its pages that a sync may spend on reading windows in parallel..."""

MAX_EXTRA_REQUEST_SHARE = 0.1
"""... and this share of its pages."""

MIN_PAGES_TO_SPLIT = 3.0
"""Expected pages left in a window from which it is split for an idle worker."""

MIN_PAGES_PER_PART = 1.5
"""Expected pages that each part should have when a window is split into several at once."""

MIN_ESTIMATE_SHARE = 0.25
"""Share of its expected pages below which a part refutes the estimate."""

MAX_UNTESTED_PAGES = 2000
"""Expected pages from which one part has to confirm the estimate before more are split off.

Half a million events an hour are more likely a cluster than a steady rate. In an account of that
size, waiting for one page at the start is negligible. With fewer expected pages, several parts are
split off at once: as many as would expect this number of pages together.
"""

MAX_UNTESTED_PARTS = 10
"""Parts of one window whose first page may be outstanding at a time."""

_PAGE_ROUNDING_TOLERANCE = 1e-6
"""Rounding error of sums of fractional pages."""


@dataclass(slots=True)
class _SliceState:
    """The windows of one slice: those of the plan and all that were split off."""

    splits: int
    """Windows beyond the first one."""
    last_page_fill: float = 0.0
    """The sum of how full the last pages of its finished windows were."""

    @property
    def max_extra_requests(self) -> int:
        """Return how many requests beyond its pages the slice may need at most.

        Each window takes one request for each full page and one for its last page, which is partly
        full or empty: `full + splits + 1` in all. The pages that one reader would request are
        `full`, and the sum of the partly full ones. A slice that is never split has no extra cost.
        """
        if not self.splits:
            return 0
        return self.splits + 1 - ceil(self.last_page_fill - _PAGE_ROUNDING_TOLERANCE)


@dataclass(slots=True, eq=False)
class _WindowState:
    """A window being read, and the results of the parts that were split off it."""

    reader: WindowReader
    slice_state: _SliceState
    parent: "_WindowState | None" = None
    expected_pages: float = 0.0
    """Pages that the density of its parent lets expect."""
    counted_pages: float = 0.0
    """Its pages that the scheduler has counted."""
    split_quota: int = 0
    """Parts to split off before the first page of one is read; 0 before its own first page."""
    untested_parts: int = 0
    """Parts split off whose first page is outstanding."""
    refutations: int = 0
    """Parts in a row with far fewer pages than expected."""

    @property
    def estimated_pages(self) -> float:
        """Return the expected pages in the rest of the window."""
        if not self.split_quota:
            return self.expected_pages
        if not self.refutations:
            return self.reader.estimated_pages_left
        return min(self.reader.estimated_pages_left, self.reader.full_pages)

    @property
    def available_splits(self) -> int:
        """Return how many parts may be split off now."""
        has_waited = not self.refutations or self.reader.request_count >= 2 ** (
            self.refutations + 1
        )
        if not self.split_quota or not has_waited or self.estimated_pages < MIN_PAGES_TO_SPLIT:
            return 0
        if not self.reader.can_split:
            return 0
        return (1 if self.refutations else self.split_quota) - self.untested_parts

    def record_page(self) -> None:
        """Record a page: the first one shows whether the estimate of the parent was right."""
        expected = self.reader.estimated_pages_left
        self.split_quota = max(
            1, min(MAX_UNTESTED_PARTS, floor(MAX_UNTESTED_PAGES / max(expected, 1.0)))
        )
        parent, self.parent = self.parent, None
        if parent is None:
            return
        parent.untested_parts -= 1
        is_refuted = self.reader.full_pages + expected < MIN_ESTIMATE_SHARE * self.expected_pages
        parent.refutations = parent.refutations + 1 if is_refuted else 0


@dataclass(slots=True)
class WindowScheduler:
    """Assigns windows to workers. Not thread-safe: the caller holds a lock."""

    pending_readers: list[WindowReader]
    full_pages: float = 0.0
    """Full pages of all windows so far."""
    _active_windows: dict[WindowReader, _WindowState] = field(
        default_factory=dict[WindowReader, _WindowState]
    )
    _slice_states: dict[str, _SliceState] = field(default_factory=dict[str, _SliceState])
    """By slice name."""
    _unfinished_windows: Counter[str] = field(default_factory=Counter[str])
    """The number of windows not yet read to their end, by slice name."""
    _abandoned_slices: set[str] = field(default_factory=set[str])
    """Names of slices with a window that could not be read."""

    @classmethod
    def from_readers(cls, readers: Sequence[WindowReader]) -> "WindowScheduler":
        """Return the scheduler of the plan's windows."""
        counts = Counter(reader.slice.name for reader in readers)
        states = {name: _SliceState(count - 1) for name, count in counts.items()}
        return cls(list(readers), _slice_states=states, _unfinished_windows=counts)

    @property
    def is_done(self) -> bool:
        """Return whether no window waits or is being read."""
        return not self.pending_readers and not self._active_windows

    @property
    def active_count(self) -> int:
        """Return how many windows are being read."""
        return len(self._active_windows)

    def take_reader(self, *, idle_workers: int) -> WindowReader | None:
        """Return a window to read; None where none waits and none is worth splitting now.

        `idle_workers` counts the caller too.
        """
        if self.pending_readers:
            reader = self.pending_readers.pop(0)
            self._active_windows[reader] = _WindowState(
                reader, self._slice_states[reader.slice.name]
            )
            return reader
        # Each page makes this call, and most end here: nothing expensive may come before.
        if idle_workers <= 0:
            return None
        return self._split_busiest_window(min(idle_workers, self._affordable_splits))

    def record_page(self, reader: WindowReader) -> None:
        """Record that a reader has read a page."""
        window_state = self._active_windows[reader]
        self.full_pages += reader.full_pages - window_state.counted_pages
        window_state.counted_pages = reader.full_pages
        window_state.record_page()

    def finish_window(self, reader: WindowReader) -> bool:
        """Record the end of a window; return whether its whole slice has been read."""
        window_state = self._active_windows.pop(reader)
        window_state.slice_state.last_page_fill += reader.last_page_fill
        self._unfinished_windows[reader.slice.name] -= 1
        self._schedule_reread(reader, window_state.slice_state)
        return (
            not self._unfinished_windows[reader.slice.name]
            and reader.slice.name not in self._abandoned_slices
        )

    def _schedule_reread(self, reader: WindowReader, slice_state: _SliceState) -> None:
        """Queue a planned window that came out of order, once all its parts have ended."""
        whole = reader.reread_if_out_of_order()
        parts = (each.planned_window for each in self._active_windows)
        if (
            whole is None
            or reader.planned_window in parts
            or reader.slice.name in self._abandoned_slices
        ):
            return
        self.pending_readers.append(whole)
        self._unfinished_windows[reader.slice.name] += 1
        slice_state.splits += 1

    def abandon_slice(self, reader: WindowReader) -> None:
        """Record that a window cannot be read, so that its slice stays incomplete.

        Its waiting windows are dropped; those being read continue.
        """
        window_state = self._active_windows.pop(reader)
        if window_state.parent is not None:
            window_state.parent.untested_parts -= 1
        self._abandoned_slices.add(reader.slice.name)
        self.pending_readers = [
            each for each in self.pending_readers if each.slice.name != reader.slice.name
        ]

    def _split_busiest_window(self, wanted_splits: int) -> WindowReader | None:
        """Split off a part of the window with most pages left; None where none may be split.

        `wanted_splits` parts are wanted altogether.
        """
        splittable = (
            [each for each in self._active_windows.values() if each.available_splits > 0]
            if wanted_splits > 0
            else []
        )
        if not splittable:
            return None
        busiest = max(splittable, key=lambda each: each.estimated_pages)
        expected = busiest.estimated_pages
        share = sum(each.estimated_pages for each in self._active_windows.values()) / (
            self.active_count + wanted_splits
        )
        parts = min(
            wanted_splits,
            busiest.available_splits,
            round(expected / share) - 1,
            int(expected / MIN_PAGES_PER_PART) - 1,
        )
        return self._split_window(busiest, max(1, parts))

    @property
    def _affordable_splits(self) -> int:
        """Return how many more splits are guaranteed to stay within the limit of extra requests."""
        at_risk = sum(each.max_extra_requests for each in self._slice_states.values())
        return floor(
            MAX_EXTRA_REQUESTS
            + MAX_EXTRA_REQUEST_SHARE * self.full_pages
            - at_risk
            + _PAGE_ROUNDING_TOLERANCE
        )

    def _split_window(self, window_state: _WindowState, parts: int) -> WindowReader | None:
        """Split off the last of `parts` equal parts; the window keeps one more for itself."""
        reader, expected = window_state.reader, window_state.estimated_pages
        lower, upper = reader.position, reader.upper_bound
        if lower is None or upper is None:
            return None
        at = _split_point(
            lower, upper, remaining_span=_remaining_span(window_state, upper - lower, parts)
        )
        part = reader.split(at) if at is not None else None
        if at is None or part is None:
            return None
        expected_pages = expected * ((upper - at) / (upper - lower))
        window_state.untested_parts += 1
        window_state.slice_state.splits += 1
        self._unfinished_windows[part.slice.name] += 1
        self._active_windows[part] = _WindowState(
            part, window_state.slice_state, parent=window_state, expected_pages=expected_pages
        )
        return part


def _remaining_span(window_state: _WindowState, time_left: timedelta, parts: int) -> timedelta:
    """Return how much of the remaining time stays with the window.

    Where its records are a cluster, that is the geometric mean of the time read and of the time
    left, which is the middle if the cluster may end at any doubling with the same likelihood.
    """
    if not window_state.refutations:
        return time_left * (parts / (parts + 1))
    doublings = ONE_SECOND * sqrt(
        (window_state.reader.time_span / ONE_SECOND) * (time_left / ONE_SECOND)
    )
    return min(doublings, time_left / 2)


def _split_point(lower: datetime, upper: datetime, *, remaining_span: timedelta) -> datetime | None:
    """Return the last whole second up to `lower + remaining_span`, but after `lower`."""
    if upper - lower < 4 * ONE_SECOND:
        return None
    at = (lower + remaining_span).replace(microsecond=0)
    return at if at > lower else at + ONE_SECOND


_SLICE_ERRORS = (
    *(SettingError, PermanentError, PlanError, ContractError),
    *(ServerError, BrokenBodyError, LargeBodyError),
)
"""Errors that can concern one slice alone. A key, a limit or the network concerns them all."""

STOP_POLL_SECONDS = 0.2
"""How often a waiting worker checks whether it should stop."""

MAX_DRAIN_SECONDS = 5.0
"""How long responses in flight are waited for after an error that concerns all windows.

They are paid for, and without them a refused key would make up to 19 parents be read again.
"""

MAX_IN_FLIGHT_BYTES = 40 * 1024 * 1024
"""Bytes of pages between Klaviyo and the writer, whether requested, decoded or waiting.

More than twice what the writer stages at a time: readers continue while it writes and commits.
"""

MIN_WAIT_PER_WORK = 4.0
"""How many times longer than our own work a page must take, so that a second reader is started.

Readers share one interpreter. Where Klaviyo is faster than that, a second reader makes nothing
faster and holds a page more: with one, a million events take 373 MiB instead of 401.
"""

MIN_WAIT_SECONDS = 0.02
"""The least that a page must take for that: a busy machine delays any thread by milliseconds."""

MIN_SLOW_PAGES = 2
"""Pages in a row that must be so slow: a commit delays one page."""

MIN_PAGE_BYTES = 1024 * 1024
"""The least that a page counts, also before its size is known: so 40 pages are the most."""


class PageSemaphore:
    """Limits the pages in flight by their bytes; one page is always allowed. Thread-safe."""

    def __init__(self, max_bytes: int = MAX_IN_FLIGHT_BYTES) -> None:
        """Allow about `max_bytes`: a page is expected to be as large as the largest of 8 before."""
        self._max_bytes, self._used_bytes = max_bytes, 0
        self._sizes = deque([MIN_PAGE_BYTES], maxlen=8)
        self._condition = Condition()

    def acquire(self, stop: Event) -> int:
        """Wait until a page of the expected size fits; return that size, 0 if `stop` is set."""
        with self._condition:
            while not stop.is_set():
                expected = max(self._sizes)
                if not self._used_bytes or self._used_bytes + expected <= self._max_bytes:
                    self._used_bytes += expected
                    return expected
                self._condition.wait(STOP_POLL_SECONDS)
        return 0

    def release(self, size: int) -> None:
        """Return the bytes of a page that has left memory, or never came."""
        with self._condition:
            self._used_bytes -= size
            self._condition.notify()

    def correct(self, expected: int, actual: int) -> None:
        """Count a page that was read by its actual bytes."""
        self._sizes.append(actual)
        self.release(expected - actual)


def _page_bytes(result: PageResult) -> int:
    return max(MIN_PAGE_BYTES, result.page.batch.get_total_buffer_size())


_QueueItem = PageResult | Slice | BaseException | None
"""What workers pass to the consumer; None once the last worker has ended."""


class WorkerPool(PageSource):
    """Reads windows with up to `workers` threads; `results` yields their pages as they arrive.

    One semaphore limits the pages in flight by their bytes. So memory stays constant, and a killed
    run loses little.
    """

    def __init__(self, readers: Sequence[WindowReader], *, workers: int) -> None:
        """Start a worker for each reader at once, the others once a window is split for them."""
        self._scheduler = WindowScheduler.from_readers(readers)
        self._slices = {reader.slice.name for reader in readers}
        self._failures: dict[str, KlaviyoAssetsError] = {}
        self._error: KlaviyoAssetsError | None = None
        self._drained_at = 0.0
        self._max_workers = workers
        self._running_workers = 0
        self._idle_workers = 0
        """Running workers that wait for a window."""
        self._slow_pages = 0
        """Pages in a row, at last, that took much longer to arrive than to process."""
        self._semaphore = PageSemaphore()
        self._queue: SimpleQueue[_QueueItem] = SimpleQueue()
        self._condition = Condition()
        self._stop = Event()
        self.threads: list[Thread] = []
        with self._condition:
            for _ in range(max(1, min(workers, len(readers)))):
                self._start_worker(self._take_reader())

    def results(self) -> Iterator[PageResult | Slice]:
        """Yield the pages, and each slice once, when its last window has been read.

        A slice that cannot be read does not stop the others.

        Raises:
            KlaviyoAssetsError: the error of a worker, after the pages that were in flight with it;
                an error of one slice after the other slices were read to their end.
        """
        while (item := self._next_item()) is not None:
            if isinstance(item, PageResult):
                self._semaphore.release(_page_bytes(item))
            yield item
        if self._error is not None:
            raise self._error
        if self._failures:
            failure = next(iter(self._failures.values()))
            if len(self._failures) < len(self._slices):
                names = ", ".join(map(repr, sorted(self._failures)))
                failure.message = f"{failure.message} All but {names} was read."
            raise failure

    def _next_item(self) -> PageResult | Slice | None:
        """Return the next item; None after the last one, or some time after an error."""
        while True:
            waits = None if self._error is None else max(0.0, self._drained_at - monotonic())
            try:
                item = self._queue.get(timeout=waits)
            except Empty:
                return None
            if not isinstance(item, BaseException):
                return item
            if isinstance(item, StoppedError) or not isinstance(item, KlaviyoAssetsError):
                raise item
            if self._error is None:
                self._error, self._drained_at = item, monotonic() + MAX_DRAIN_SECONDS

    def close(self) -> None:
        """Tell the workers to stop after their page; does not wait for responses in flight."""
        self._stop.set()
        with self._condition:
            self._condition.notify_all()

    def _take_reader(self) -> WindowReader | None:
        """Return a waiting window, else a part of one being read; None where there is neither."""
        return self._scheduler.take_reader(
            idle_workers=self._max_workers - self._scheduler.active_count
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
        if self._running_workers == 1 and self._slow_pages < MIN_SLOW_PAGES:
            return
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
                if not reader.is_finished:
                    return
                self._finish_window(reader)
            reader = self._wait_for_reader()

    def _read_window(self, reader: WindowReader) -> None:
        pages = reader.read_pages()
        while expected_bytes := self._semaphore.acquire(self._stop):
            result, began, worked = None, monotonic(), thread_time()
            try:
                result = next(pages, None)
            finally:
                if result is None:
                    self._semaphore.release(expected_bytes)
            if result is None:
                return
            took, work = monotonic() - began, thread_time() - worked
            is_slow = took > max(MIN_WAIT_PER_WORK * work, MIN_WAIT_SECONDS)
            self._slow_pages = self._slow_pages + 1 if is_slow else 0
            self._semaphore.correct(expected_bytes, _page_bytes(result))
            self._queue.put(result)
            with self._condition:
                self._scheduler.record_page(reader)
                self._share_windows()

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


class TwoPassReader(PageSource):
    """Runs two pools, one after the other; slices end with the second."""

    def __init__(
        self, first_pass: WorkerPool, start_second_pass: Callable[[datetime], WorkerPool]
    ) -> None:
        """Take the first pool; `start_second_pass` starts one that reads from a time (UTC) on."""
        self._pool = first_pass
        self._start_second_pass = start_second_pass
        self._is_closed = False

    def results(self) -> Iterator[PageResult | Slice]:
        """Yield the pages of both, and each slice once.

        Raises:
            KlaviyoAssetsError: the error of a worker, after the pages that were read before it.
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


def count_workers(request_context: RequestContext, rate_limiter: RateLimiter) -> int:
    """Return how many windows are read in parallel at most: one for two requests a second.

    A response takes less than half a second as a rule, so more readers would only wait for the rate
    limit, and each window costs up to one request more.
    """
    buckets = request_context.stream.rate_limit_buckets(
        excluded_fields=request_context.excluded_fields
    )
    bursts = (rate_limiter.bucket_limits(bucket)[0].requests for bucket in buckets)
    return min(MAX_CONNECTIONS, *(ceil(burst / 2) for burst in bursts))
