"""How much is read at once: as many windows as hide Klaviyo's latency, no more bytes than fit.

What belongs here: the two measures, and the waiting for room. What does not: whose window is split
(`pool`) and how fast a budget may be spent (`api.limits`).
"""

from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from statistics import median_low
from threading import Condition, Event, Lock, local
from time import monotonic, thread_time

IN_FLIGHT_BYTES = 40 * 1024 * 1024
"""Decoded pages between Klaviyo and the writer. A page being decoded takes thrice its size.

Twice as much as the writer stages at a time, and more: readers go on while it writes and commits.
"""

BACKLOG_BYTES = 20 * 1024 * 1024
"""Pages beyond those that hide the latency: what the writer stages at a time, and a few more.

Where the writer is what is waited for, still more of them would only lie there: without this bound,
200,000 and 1,000,000 events took 288 and 317 MiB, with it 278 and 293, at the same speed.
"""

_LATEST = 8
"""Pages that are looked back on: enough to see past one slow answer, few enough to follow."""

_WORTH_HIDING = 2.0
"""Times its work that a page must wait for Klaviyo before a second reader is worth anything.

Two readers wait for each other about as long as they work, which looks like a wait for Klaviyo and
kept the second one going: half of all runs beside a server on the same machine had two or three of
them from the first pages on. Klaviyo's own waits are twenty times the work.
"""

_LOOK_UP_SECONDS = 0.2
"""How often a worker that waits for room looks up whether it should stop."""


class Turn:
    """Lets one thread in at a time, and tells each how long it has waited for that so far."""

    def __init__(self) -> None:
        """Let the first one in."""
        self._lock, self._mine = Lock(), local()

    @property
    def waited(self) -> float:
        """Return for how many seconds the calling thread has waited."""
        return getattr(self._mine, "waited", 0.0)

    def __enter__(self) -> None:
        """Wait for the others."""
        before = monotonic()
        self._lock.acquire()
        self._mine.waited = self.waited + monotonic() - before

    def __exit__(self, *_: object) -> None:
        """Let the next one in."""
        self._lock.release()


class Stopwatch:
    """One page: what it cost the worker in CPU, and how long it waited for Klaviyo, in seconds."""

    __slots__ = ("_cpu", "_queued", "_turn", "_wall")

    def __init__(self, turn: Turn) -> None:
        """Start; the time for which the thread waits for `turn` is not Klaviyo's."""
        self._turn, self._queued = turn, turn.waited
        self._wall, self._cpu = monotonic(), thread_time()

    def read(self) -> tuple[float, float]:
        """Return the seconds of CPU and of waiting so far; to be called by the same thread."""
        cpu = thread_time() - self._cpu
        queued = self._turn.waited - self._queued
        return cpu, max(0.0, monotonic() - self._wall - cpu - queued)


class Pace:
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
        requests_a_second: float = inf,
    ) -> None:
        """`throttled_seconds` tells for how long the rate limit has held readers back so far.

        `requests_a_second` is as many as it lets through at its fastest.
        """
        self._throttled_seconds = throttled_seconds
        self._requests_a_second = requests_a_second
        self._throttled = throttled_seconds()
        self._pages: deque[tuple[float, float]] = deque(maxlen=_LATEST)
        self._is_held = False

    def note(self, cpu: float, waited: float) -> None:
        """Take in what one page cost its worker, in seconds."""
        throttled = self._throttled_seconds()
        self._is_held, self._throttled = throttled > self._throttled, throttled
        self._pages.append((cpu, waited))

    @property
    def windows(self) -> int:
        """Return how many windows are worth reading at once; 0 while the limit holds us back.

        The shortest wait of late counts: a longer one was for the interpreter as much as for
        Klaviyo, and would call for ever more workers. The work is that of the usual page: the
        first ones cost several times as much, and the other windows would be a second late.
        """
        pages = list(self._pages)
        if self._is_held or not pages:
            return 0
        waiting = min(waited for _, waited in pages)
        seconds = max(waiting + median_low(cpu for cpu, _ in pages), 1e-6)
        return int(min(_hiding(waiting, pages), 1 + self._requests_a_second * seconds))

    @property
    def readers(self) -> int:
        """Return how many pages are worth reading at a time; 0: any, none of them works.

        The usual wait counts: one page that came at once is no reason to wait for all others.
        """
        pages = list(self._pages)
        if self._is_held or not pages:
            return 0
        return _hiding(median_low(waited for _, waited in pages), pages)


def _hiding(waiting: float, pages: Iterable[tuple[float, float]]) -> int:
    """Return how many readers hide a wait behind each other's work, that of a usual page."""
    times = waiting / max(median_low(cpu for cpu, _ in pages), 1e-6)
    return 1 + round(times) if times >= _WORTH_HIDING else 1


class Room:
    """Lets as many pages be under way as memory has room for, by the size of the latest ones.

    Of these, as many are read at a time as `pace` finds worth it: with every reader more, all of
    them wait longer for the interpreter.
    """

    def __init__(
        self,
        *,
        most: int,
        limit: int = IN_FLIGHT_BYTES,
        backlog: int = BACKLOG_BYTES,
        pace: Pace,
    ) -> None:
        """At most `most` pages, about `limit` bytes, and `backlog` more than hides the latency.

        There is always room for one page.
        """
        self._most, self._limit, self._backlog, self._pace = most, limit, backlog, pace
        self._sizes: deque[int] = deque(maxlen=_LATEST)
        self._taken = 0
        self._read = 0
        self._turn = Condition()

    def enter(self, stop: Event) -> bool:
        """Wait for room for one page; False where `stop` was set first."""
        with self._turn:
            while self._is_full:
                if stop.is_set():
                    return False
                self._turn.wait(_LOOK_UP_SECONDS)
            self._taken += 1
            self._read += 1
        return not stop.is_set()

    def hand_over(self) -> None:
        """Have read the page, which now waits for the writer; another may be read."""
        with self._turn:
            self._read -= 1
            self._turn.notify()

    def note(self, size: int) -> None:
        """Take in the size of a page that was decoded, in bytes."""
        self._sizes.append(size)

    def leave(self) -> None:
        """Give the room of one page back."""
        with self._turn:
            self._taken -= 1
            self._turn.notify()

    @property
    def _is_full(self) -> bool:
        return self._taken >= self._allowed or 0 < self._pace.readers <= self._read

    @property
    def _allowed(self) -> int:
        largest = max(list(self._sizes), default=0)
        if not largest:
            return self._most
        readers = self._pace.readers
        # Those that wait for the rate limit are no backlog: fewer could not use it up.
        useful = readers + self._backlog // largest if readers else self._most
        return max(1, min(self._most, self._limit // largest, useful))
