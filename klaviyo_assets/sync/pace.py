"""How much is read at once: as many windows as hide Klaviyo's latency, no more bytes than fit.

What belongs here: the two measures, and the waiting for room. What does not: whose window is split
(`pool`) and how fast a budget may be spent (`api.limits`).
"""

from collections import deque
from collections.abc import Callable
from statistics import median_low
from threading import Condition, Event
from time import monotonic, thread_time

IN_FLIGHT_BYTES = 40 * 1024 * 1024
"""Decoded pages between Klaviyo and the writer. A page being decoded takes thrice its size.

Twice as much as the writer stages at a time, and more: readers go on while it writes and commits.
"""

_LATEST = 8
"""Pages that are looked back on: enough to see past one slow answer, few enough to follow."""

_LOOK_UP_SECONDS = 0.2
"""How often a worker that waits for room looks up whether it should stop."""


class Stopwatch:
    """One page: what it cost the worker in CPU, and how long it only waited, both in seconds."""

    __slots__ = ("_cpu", "_wall")

    def __init__(self) -> None:
        """Start."""
        self._wall, self._cpu = monotonic(), thread_time()

    def read(self) -> tuple[float, float]:
        """Return the seconds of CPU and of waiting so far; to be called by the same thread."""
        cpu = thread_time() - self._cpu
        return cpu, max(0.0, monotonic() - self._wall - cpu)


class Pace:
    """How many windows are worth reading side by side. Safe for threads.

    A worker works while the others wait, so `1 + waiting / working` of them keep one interpreter
    busy: two beside a server on the same machine, all that there are at 150 ms a page. Where the
    rate limit is what is waited for, more of them bring nothing but requests.
    """

    def __init__(self, throttled_seconds: Callable[[], float] = lambda: 0.0) -> None:
        """`throttled_seconds` tells how long was waited for the rate limit so far, by everybody."""
        self._throttled_seconds = throttled_seconds
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
        working = median_low(cpu for cpu, _ in pages)
        waiting = min(waited for _, waited in pages)
        return 1 + round(waiting / max(working, 1e-6))


class Room:
    """Lets as many pages be under way as memory has room for, by the size of the latest ones."""

    def __init__(self, *, most: int, limit: int = IN_FLIGHT_BYTES) -> None:
        """At most `most` pages, and about `limit` bytes, but always one page."""
        self._most, self._limit = most, limit
        self._sizes: deque[int] = deque(maxlen=_LATEST)
        self._taken = 0
        self._turn = Condition()

    def enter(self, stop: Event) -> bool:
        """Wait for room for one page; False where `stop` was set first."""
        with self._turn:
            while self._taken >= self._allowed:
                if stop.is_set():
                    return False
                self._turn.wait(_LOOK_UP_SECONDS)
            self._taken += 1
        return not stop.is_set()

    def note(self, size: int) -> None:
        """Take in the size of a page that was decoded, in bytes."""
        self._sizes.append(size)

    def leave(self) -> None:
        """Give the room of one page back."""
        with self._turn:
            self._taken -= 1
            self._turn.notify()

    @property
    def _allowed(self) -> int:
        largest = max(list(self._sizes), default=0)
        return max(1, min(self._most, self._limit // max(1, largest)))
