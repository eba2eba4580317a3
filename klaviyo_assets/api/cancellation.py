"""The switch that ends everything at once: waits, and requests on the wire."""

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from threading import Condition, Event, Lock, Thread
from time import monotonic

from klaviyo_assets.errors import StoppedError


class InFlightConnection:
    """What one request is waiting on, so that another thread can end it.

    A timeout of the socket alone is not enough: it begins anew with every byte that trickles in.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self._abort_callback: Callable[[], None] | None = None
        self.is_aborted = False
        self.was_sent = False
        """Whether a request was sent over it, so that somebody may have got it."""

    def attach(self, abort_callback: Callable[[], None]) -> None:
        """Note how to end it; a line that was cut while it was connecting raises TimeoutError."""
        with self.lock:
            if self.is_aborted:
                raise TimeoutError("cut while connecting")
            self._abort_callback = abort_callback
            self.was_sent = True

    def abort(self) -> None:
        """End it, now or as soon as it is connected."""
        with self.lock:
            self.is_aborted = True
            if self._abort_callback is not None:
                # An OSError says that it has ended by itself.
                with suppress(OSError):
                    self._abort_callback()

    def detach(self) -> None:
        """Forget how to end it: the connection may serve another request now."""
        with self.lock:
            self._abort_callback = None


class CancelToken:
    """On until `cancel`. Safe for threads; a wait in the main thread also ends by a signal.

    One thread watches the deadlines of all lines, and goes home when there is none to watch: a
    timer a request cost a new thread for each page.
    """

    def __init__(self) -> None:
        self.cancel_event = Event()
        self.condition = Condition()
        self.in_flight: dict[InFlightConnection, float] = {}
        """Requests under way, each with its deadline in monotonic seconds."""
        self.next_wakeup: float | None = None
        """When the watcher wakes by itself; None where there is no watcher."""

    def wait(self, seconds: float) -> None:
        """Sleep, unless and until stopped."""
        self.cancel_event.wait(seconds)

    def raise_if_cancelled(self) -> None:
        """Raise StoppedError once stopped."""
        if self.cancel_event.is_set():
            raise StoppedError("The run was cancelled. What was committed is kept.")

    @contextmanager
    def track_connection(self, seconds: float) -> Generator[InFlightConnection]:
        """Give a line that is cut after `seconds`, or when stopped."""
        line = InFlightConnection()
        with self.condition:
            self.in_flight[line] = monotonic() + seconds
            self.schedule_watch(self.in_flight[line])
        try:
            # Only now: a stop before this moment has not seen the line.
            self.raise_if_cancelled()
            yield line
        finally:
            line.detach()
            with self.condition:
                self.in_flight.pop(line, None)

    def schedule_watch(self, deadline: float) -> None:
        """See to it that somebody looks up at `deadline`; to be called with the turn taken."""
        if self.next_wakeup is None:
            self.next_wakeup = deadline
            Thread(target=self.watch_deadlines, name="klaviyo-deadlines", daemon=True).start()
        elif deadline < self.next_wakeup:
            self.condition.notify()

    def watch_deadlines(self) -> None:
        """Cut each line at its deadline, until there is none left."""
        with self.condition:
            while self.in_flight:
                now = monotonic()
                for line in [each for each, deadline in self.in_flight.items() if deadline <= now]:
                    del self.in_flight[line]
                    line.abort()
                self.next_wakeup = min(self.in_flight.values(), default=now)
                self.condition.wait(self.next_wakeup - now)
            self.next_wakeup = None

    def cancel(self) -> None:
        """End every wait and every line, and let nothing begin again."""
        self.cancel_event.set()
        with self.condition:
            under_way = tuple(self.in_flight)
        for line in under_way:
            line.abort()
