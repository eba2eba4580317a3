"""How much is read at once: as many windows as hide Klaviyo's latency, no more bytes than fit."""

from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from statistics import median_low
from threading import Condition, Event, Lock, local
from time import monotonic, thread_time

MAX_IN_FLIGHT_BYTES = 40 * 1024 * 1024
"""Decoded pages between Klaviyo and the writer. A page being decoded takes thrice its size.

Twice as much as the writer stages at a time, and more: readers go on while it writes and commits.
"""

MAX_BACKLOG_BYTES = 20 * 1024 * 1024
"""Pages beyond those that hide the latency: what the writer stages at a time, and a few more.

Where the writer is what is waited for, still more of them would only lie there: without this bound,
200,000 and 1,000,000 events took 288 and 317 MiB, with it 278 and 293, at the same speed.
"""

_SAMPLED_PAGES = 8
"""Pages that are looked back on: enough to see past one slow answer, few enough to follow."""

_MIN_WAIT_RATIO = 2.0
"""Times its work that a page must wait for Klaviyo before a second reader is worth anything.

Two readers wait for each other about as long as they work, which looks like a wait for Klaviyo and
kept the second one going: half of all runs beside a server on the same machine had two or three of
them from the first pages on. Klaviyo's own waits are twenty times the work.
"""

STOP_POLL_SECONDS = 0.2
"""How often a waiting worker checks whether it should stop."""


class TimedLock:
    """Lets one thread in at a time, and tells each how long it has waited for that so far."""

    def __init__(self) -> None:
        """Let the first one in."""
        self._lock, self._thread_local = Lock(), local()

    @property
    def waited_seconds(self) -> float:
        """Return for how many seconds the calling thread has waited."""
        return getattr(self._thread_local, "waited", 0.0)

    def __enter__(self) -> None:
        """Wait for the others."""
        before = monotonic()
        self._lock.acquire()
        self._thread_local.waited = self.waited_seconds + monotonic() - before

    def __exit__(self, *_: object) -> None:
        """Let the next one in."""
        self._lock.release()


class PageTimer:
    """One page: what it cost the worker in CPU, and how long it waited for Klaviyo, in seconds."""

    __slots__ = ("_cpu", "_queued", "_turn", "_wall")

    def __init__(self, lock: TimedLock) -> None:
        """Start; the time for which the thread waits for `lock` is not Klaviyo's."""
        self._turn, self._queued = lock, lock.waited_seconds
        self._wall, self._cpu = monotonic(), thread_time()

    def elapsed(self) -> tuple[float, float]:
        """Return the seconds of CPU and of waiting so far; to be called by the same thread."""
        cpu = thread_time() - self._cpu
        queued = self._turn.waited_seconds - self._queued
        return cpu, max(0.0, monotonic() - self._wall - cpu - queued)


class ConcurrencyEstimator:
    """How many windows are worth reading side by side. Safe for threads.

    A worker works while the others wait, so `1 + waiting / working` of them keep one interpreter
    busy: one beside a server on the same machine, all that there are at 150 ms a page. Where the
    rate limit is what is waited for, more of them bring nothing but requests: two readers at 150 ms
    a page use up ten requests a second.
    """

    def __init__(
        self,
        throttled_seconds: Callable[[], float] = lambda: 0.0,
        *,
        requests_per_second: float = inf,
    ) -> None:
        """`throttled_seconds` tells for how long the rate limit has held readers back so far.

        `requests_per_second` is as many as it lets through at its fastest.
        """
        self._throttled_seconds = throttled_seconds
        self._requests_per_second = requests_per_second
        self._throttled = throttled_seconds()
        self._samples: deque[tuple[float, float]] = deque(maxlen=_SAMPLED_PAGES)
        self._is_throttled = False

    def add_page(self, cpu_seconds: float, waited_seconds: float) -> None:
        """Take in what one page cost its worker, in seconds."""
        throttled = self._throttled_seconds()
        self._is_throttled, self._throttled = throttled > self._throttled, throttled
        self._samples.append((cpu_seconds, waited_seconds))

    @property
    def useful_windows(self) -> int:
        """Return how many windows are worth reading at once; 0 while the limit holds us back.

        The shortest wait of late counts: a longer one was for the interpreter as much as for
        Klaviyo, and would call for ever more workers. The work is that of the usual page: the
        first ones cost several times as much, and the other windows would be a second late.
        """
        pages = list(self._samples)
        if self._is_throttled or not pages:
            return 0
        waiting = min(waited for _, waited in pages)
        seconds = max(waiting + median_low(cpu for cpu, _ in pages), 1e-6)
        return int(
            min(_count_useful_readers(waiting, pages), 1 + self._requests_per_second * seconds)
        )

    @property
    def useful_readers(self) -> int:
        """Return how many pages are worth reading at a time; 0: any, none of them works.

        The usual wait counts: one page that came at once is no reason to wait for all others.
        """
        pages = list(self._samples)
        if self._is_throttled or not pages:
            return 0
        return _count_useful_readers(median_low(waited for _, waited in pages), pages)


def _count_useful_readers(wait_seconds: float, samples: Iterable[tuple[float, float]]) -> int:
    """Return how many readers hide a wait behind each other's work, that of a usual page."""
    times = wait_seconds / max(median_low(cpu for cpu, _ in samples), 1e-6)
    return 1 + round(times) if times >= _MIN_WAIT_RATIO else 1


class Backpressure:
    """Lets as many pages be under way as memory has room for, by the size of the latest ones.

    Of these, as many are read at a time as `estimator` finds worth it: with every reader more, all
    of them wait longer for the interpreter.
    """

    def __init__(
        self,
        *,
        max_pages: int,
        max_bytes: int = MAX_IN_FLIGHT_BYTES,
        max_backlog_bytes: int = MAX_BACKLOG_BYTES,
        estimator: ConcurrencyEstimator,
    ) -> None:
        """At most `max_pages` pages, about `max_bytes`, and `max_backlog_bytes` beyond the latency.

        There is always room for one page.
        """
        self._max_pages, self._max_bytes, self._max_backlog_bytes, self._estimator = (
            max_pages,
            max_bytes,
            max_backlog_bytes,
            estimator,
        )
        self._sizes: deque[int] = deque(maxlen=_SAMPLED_PAGES)
        self._pages_in_flight = 0
        self._pages_being_read = 0
        self._condition = Condition()

    def acquire(self, stop: Event) -> bool:
        """Wait for room for one page; False where `stop` was set first."""
        with self._condition:
            while self._is_full:
                if stop.is_set():
                    return False
                self._condition.wait(STOP_POLL_SECONDS)
            self._pages_in_flight += 1
            self._pages_being_read += 1
        return not stop.is_set()

    def finish_reading(self) -> None:
        """Have read the page, which now waits for the writer; another may be read."""
        with self._condition:
            self._pages_being_read -= 1
            self._condition.notify()

    def record_page_size(self, size: int) -> None:
        """Take in the size of a page that was decoded, in bytes."""
        self._sizes.append(size)

    def release(self) -> None:
        """Give the room of one page back."""
        with self._condition:
            self._pages_in_flight -= 1
            self._condition.notify()

    @property
    def _is_full(self) -> bool:
        return (
            self._pages_in_flight >= self._page_limit
            or 0 < self._estimator.useful_readers <= self._pages_being_read
        )

    @property
    def _page_limit(self) -> int:
        largest = max(list(self._sizes), default=0)
        if not largest:
            return self._max_pages
        readers = self._estimator.useful_readers
        # Those that wait for the rate limit are no backlog: fewer could not use it up.
        useful = readers + self._max_backlog_bytes // largest if readers else self._max_pages
        return max(1, min(self._max_pages, self._max_bytes // largest, useful))
