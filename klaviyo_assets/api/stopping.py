"""The switch that ends everything at once: waits, and requests on the wire.

What belongs here: being stopped, and the deadline of one request. What does not: why one waits
(`client.py`), and sockets, which are ended by a function that the client brings.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from threading import Condition, Event, Lock, Thread
from time import monotonic

from klaviyo_assets.errors import StoppedError


class Line:
    """What one request is waiting on, so that another thread can end it.

    A timeout of the socket alone is not enough: it begins anew with every byte that trickles in.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self.end: Callable[[], None] | None = None
        self.is_cut = False
        self.is_taken = False
        """Whether a request was sent over it, so that somebody may have got it."""

    def take(self, end: Callable[[], None]) -> None:
        """Note how to end it; a line that was cut while it was connecting raises TimeoutError."""
        with self.lock:
            if self.is_cut:
                raise TimeoutError("cut while connecting")
            self.end = end
            self.is_taken = True

    def cut(self) -> None:
        """End it, now or as soon as it is connected."""
        with self.lock:
            self.is_cut = True
            if self.end is not None:
                # An OSError says that it has ended by itself.
                with suppress(OSError):
                    self.end()

    def leave(self) -> None:
        """Forget how to end it: the connection may serve another request now."""
        with self.lock:
            self.end = None


class Switch:
    """On until `stop`. Safe for threads; a wait in the main thread also ends by a signal.

    One thread watches the deadlines of all lines, and goes home when there is none to watch: a
    timer a request cost a new thread for each page.
    """

    def __init__(self) -> None:
        self.stopped = Event()
        self.turn = Condition()
        self.lines: dict[Line, float] = {}
        """Requests under way, each with its deadline in monotonic seconds."""
        self.next_look: float | None = None
        """When the watcher wakes by itself; None where there is no watcher."""

    def wait(self, seconds: float) -> None:
        """Sleep, unless and until stopped."""
        self.stopped.wait(seconds)

    def check(self) -> None:
        """Raise StoppedError once stopped."""
        if self.stopped.is_set():
            raise StoppedError("The run was cancelled. What was committed is kept.")

    @contextmanager
    def line(self, seconds: float) -> Generator[Line]:
        """Give a line that is cut after `seconds`, or when stopped."""
        line = Line()
        with self.turn:
            self.lines[line] = monotonic() + seconds
            self.have_watched(self.lines[line])
        try:
            # Only now: a stop before this moment has not seen the line.
            self.check()
            yield line
        finally:
            line.leave()
            with self.turn:
                self.lines.pop(line, None)

    def have_watched(self, deadline: float) -> None:
        """See to it that somebody looks up at `deadline`; to be called with the turn taken."""
        if self.next_look is None:
            self.next_look = deadline
            Thread(target=self.watch, name="klaviyo-deadlines", daemon=True).start()
        elif deadline < self.next_look:
            self.turn.notify()

    def watch(self) -> None:
        """Cut each line at its deadline, until there is none left."""
        with self.turn:
            while self.lines:
                now = monotonic()
                for line in [each for each, deadline in self.lines.items() if deadline <= now]:
                    del self.lines[line]
                    line.cut()
                self.next_look = min(self.lines.values(), default=now)
                self.turn.wait(self.next_look - now)
            self.next_look = None

    def stop(self) -> None:
        """End every wait and every line, and let nothing begin again."""
        self.stopped.set()
        with self.turn:
            under_way = tuple(self.lines)
        for line in under_way:
            line.cut()
