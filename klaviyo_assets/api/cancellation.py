"""Cancels at once whatever the client is doing: its waits, and its requests in flight."""

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from threading import Condition, Event, Lock, Thread
from time import monotonic

from klaviyo_assets.errors import StoppedError


class InFlightConnection:
    """The connection that one request waits on; another thread can abort the wait.

    A socket timeout alone is not enough: it starts again with every byte that arrives.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self._abort_callback: Callable[[], None] | None = None
        self.is_aborted = False
        self.was_sent = False
        """Whether the request was sent, so that a server may have received it."""

    def attach(self, abort_callback: Callable[[], None]) -> None:
        """Register how to abort the wait.

        Raises:
            TimeoutError: it was aborted already, while connecting.
        """
        with self.lock:
            if self.is_aborted:
                raise TimeoutError("cut while connecting")
            self._abort_callback = abort_callback
            self.was_sent = True

    def abort(self) -> None:
        """Abort the wait, now or as soon as the connection is made."""
        with self.lock:
            self.is_aborted = True
            if self._abort_callback is not None:
                # An OSError means that the connection was closed already.
                with suppress(OSError):
                    self._abort_callback()

    def detach(self) -> None:
        """Forget how to abort: from now on the connection may serve another request."""
        with self.lock:
            self._abort_callback = None


class CancelToken:
    """Becomes cancelled by `cancel`, for good. Thread-safe; a signal ends the main thread's wait.

    One thread watches the deadlines of all requests in flight, and ends when there are none. With a
    timer for each request, every page started a thread.
    """

    def __init__(self) -> None:
        self.cancel_event = Event()
        self.condition = Condition()
        self.in_flight: dict[InFlightConnection, float] = {}
        """Requests in flight, each with its deadline in monotonic seconds."""
        self.next_wakeup: float | None = None
        """When the watcher thread wakes next, in monotonic seconds; None: it is not running."""

    def wait(self, seconds: float) -> None:
        """Sleep that many seconds, or until cancelled."""
        self.cancel_event.wait(seconds)

    def raise_if_cancelled(self) -> None:
        """Raise StoppedError if `cancel` was called."""
        if self.cancel_event.is_set():
            raise StoppedError("The run was cancelled. What was committed is kept.")

    @contextmanager
    def track_connection(self, seconds: float) -> Generator[InFlightConnection]:
        """Yield a connection that is aborted after `seconds`, or by `cancel`."""
        connection = InFlightConnection()
        with self.condition:
            self.in_flight[connection] = monotonic() + seconds
            self.schedule_watch(self.in_flight[connection])
        try:
            # Checked only now: a `cancel` before the registration above did not abort it.
            self.raise_if_cancelled()
            yield connection
        finally:
            connection.detach()
            with self.condition:
                self.in_flight.pop(connection, None)

    def schedule_watch(self, deadline: float) -> None:
        """Have the watcher thread awake at `deadline`; call it with `condition` held."""
        if self.next_wakeup is None:
            self.next_wakeup = deadline
            Thread(target=self.watch_deadlines, name="klaviyo-deadlines", daemon=True).start()
        elif deadline < self.next_wakeup:
            self.condition.notify()

    def watch_deadlines(self) -> None:
        """Abort each connection at its deadline, until none is left."""
        with self.condition:
            while self.in_flight:
                now = monotonic()
                due = [each for each, deadline in self.in_flight.items() if deadline <= now]
                for connection in due:
                    del self.in_flight[connection]
                    connection.abort()
                self.next_wakeup = min(self.in_flight.values(), default=now)
                self.condition.wait(self.next_wakeup - now)
            self.next_wakeup = None

    def cancel(self) -> None:
        """Abort every wait and every request in flight, and refuse new ones."""
        self.cancel_event.set()
        with self.condition:
            connections = tuple(self.in_flight)
        for connection in connections:
            connection.abort()
