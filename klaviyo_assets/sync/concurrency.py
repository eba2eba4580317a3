"""Limits how much is read in parallel: enough windows to hide latency, no more bytes than fit."""

from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from statistics import median_low
from threading import Condition, Event, Lock, local
from time import monotonic, thread_time

MAX_IN_FLIGHT_BYTES = 40 * 1024 * 1024
"""Bytes of decoded pages between Klaviyo and the writer; decoding takes three times a page.

More than twice what the writer stages at a time: readers continue while it writes and commits.
"""

MAX_BACKLOG_BYTES = 20 * 1024 * 1024
"""Bytes of pages beyond those that hide the latency: what the writer stages, and a little more.

Where the writer is the bottleneck, more pages would only take memory: without this bound 200,000
and 1,000,000 events took 288 and 317 MiB, with it 278 and 293 MiB, at the same speed.
"""

_SAMPLED_PAGES = 8
"""Latest pages to judge by: enough to outweigh one slow response, few enough to adapt."""

_MIN_WAIT_RATIO = 2.0
"""Ratio of waiting time to CPU time of a page from which a second reader is useful.

Two readers wait for each other about as long as they work. That looks like latency, and seemed to
justify the second reader: with a server on the same machine, half of all runs had two or three
readers from the first pages on. Klaviyo's real latency is twenty times the CPU time.
"""

STOP_POLL_SECONDS = 0.2
"""How often a waiting worker checks whether it should stop."""


class TimedLock:
    """A lock that measures how long each thread has waited for it."""

    def __init__(self) -> None:
        """Start unlocked."""
        self._lock, self._thread_local = Lock(), local()

    @property
    def waited_seconds(self) -> float:
        """Return the seconds that the calling thread has waited so far."""
        return getattr(self._thread_local, "waited", 0.0)

    def __enter__(self) -> None:
        """Acquire the lock, and measure the wait."""
        before = monotonic()
        self._lock.acquire()
        self._thread_local.waited = self.waited_seconds + monotonic() - before

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        self._lock.release()


class PageTimer:
    """Measures one page: the seconds of CPU it took, and the seconds of waiting for Klaviyo."""

    __slots__ = ("_cpu", "_lock", "_queued", "_wall")

    def __init__(self, lock: TimedLock) -> None:
        """Start; time spent waiting for `lock` does not count as waiting for Klaviyo."""
        self._lock, self._queued = lock, lock.waited_seconds
        self._wall, self._cpu = monotonic(), thread_time()

    def elapsed(self) -> tuple[float, float]:
        """Return the seconds of CPU and of waiting so far; call it from the same thread."""
        cpu = thread_time() - self._cpu
        queued = self._lock.waited_seconds - self._queued
        return cpu, max(0.0, monotonic() - self._wall - cpu - queued)


class ConcurrencyEstimator:
    """Estimates how many windows are worth reading in parallel. Thread-safe.

    One worker uses the CPU while the others wait, so `1 + waiting / working` workers keep one
    interpreter busy: one with a server on the same machine, all of them at 150 ms a page. Where the
    rate limit is the bottleneck, more workers bring nothing and cost extra requests: two readers at
    150 ms a page use up ten requests a second.
    """

    def __init__(
        self,
        throttled_seconds: Callable[[], float] = lambda: 0.0,
        *,
        requests_per_second: float = inf,
    ) -> None:
        """`throttled_seconds` returns how long the rate limit has delayed requests so far.

        `requests_per_second` is what the rate limit allows in a burst.
        """
        self._throttled_seconds = throttled_seconds
        self._requests_per_second = requests_per_second
        self._throttled = throttled_seconds()
        self._samples: deque[tuple[float, float]] = deque(maxlen=_SAMPLED_PAGES)
        self._is_throttled = False

    def add_page(self, cpu_seconds: float, waited_seconds: float) -> None:
        """Record what one page cost its worker, in seconds."""
        throttled = self._throttled_seconds()
        self._is_throttled, self._throttled = throttled > self._throttled, throttled
        self._samples.append((cpu_seconds, waited_seconds))

    @property
    def useful_windows(self) -> int:
        """Return how many windows are worth reading in parallel; 0 while requests are throttled.

        The shortest recent wait counts: longer ones include waiting for the interpreter, and would
        justify ever more workers. The CPU time is the median: the first pages cost several times as
        much, and would delay the other windows by a second.
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
        """Return how many pages are worth reading at a time; 0: no limit, readers are throttled.

        The median wait counts: one page without latency is no reason to limit the others.
        """
        pages = list(self._samples)
        if self._is_throttled or not pages:
            return 0
        return _count_useful_readers(median_low(waited for _, waited in pages), pages)


def _count_useful_readers(wait_seconds: float, samples: Iterable[tuple[float, float]]) -> int:
    """Return how many readers fill the wait with CPU time, that of the median page."""
    times = wait_seconds / max(median_low(cpu for cpu, _ in samples), 1e-6)
    return 1 + round(times) if times >= _MIN_WAIT_RATIO else 1


class Backpressure:
    """Limits the pages in flight by memory, judged by the size of the latest pages.

    Of these, only as many are read at a time as `estimator` finds useful: each further reader makes
    all of them wait longer for the interpreter.
    """

    def __init__(
        self,
        *,
        max_pages: int,
        max_bytes: int = MAX_IN_FLIGHT_BYTES,
        max_backlog_bytes: int = MAX_BACKLOG_BYTES,
        estimator: ConcurrencyEstimator,
    ) -> None:
        """Allow at most `max_pages` pages and about `max_bytes` bytes in flight.

        `max_backlog_bytes` of these may exceed the pages that hide the latency. One page is always
        allowed.
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
        """Wait until another page is allowed; return False if `stop` was set first."""
        with self._condition:
            while self._is_full:
                if stop.is_set():
                    return False
                self._condition.wait(STOP_POLL_SECONDS)
            self._pages_in_flight += 1
            self._pages_being_read += 1
        return not stop.is_set()

    def finish_reading(self) -> None:
        """Record that a page was read and now waits for the writer: another may be read."""
        with self._condition:
            self._pages_being_read -= 1
            self._condition.notify()

    def record_page_size(self, size: int) -> None:
        """Record the bytes of a decoded page."""
        self._sizes.append(size)

    def release(self) -> None:
        """Record that a page has left memory, or never came."""
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
        # Readers blocked on the rate limit do not count as backlog: with fewer of them we could not
        # use the whole limit.
        useful = readers + self._max_backlog_bytes // largest if readers else self._max_pages
        return max(1, min(self._max_pages, self._max_bytes // largest, useful))
