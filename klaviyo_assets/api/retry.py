"""When a request is sent again, with how many records a page, and how a wait is cancelled.

There are two limits, for two kinds of failure. A server that fails gets a number of tries. A 429 is
no failure of the server: we wait, up to a total time, since an immediate retry only brings the next
429. Source: https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling

The page size shrinks where pages fail or are large, and grows again after good ones.

A cancelled run ends its waits and its requests in flight at once.
"""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from threading import Condition, Event, Lock, Thread
from time import monotonic

from klaviyo_assets.api.messages import Request
from klaviyo_assets.api.requests import has_page_cursor, requested_page_size, set_page_size
from klaviyo_assets.errors import (
    ConnectionLostError,
    KlaviyoAssetsError,
    LargeBodyError,
    QuotaError,
    RateLimitError,
    StoppedError,
    TransientError,
)


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


INITIAL_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 10.0
"""The longest of our own waits, which double. If all responses are 429s without `Retry-After`, the
600 seconds of `max_rate_limit_wait_seconds` take about 60 requests."""

MAX_BACKOFF_DOUBLINGS = 16
"""After so many waits the next one is the longest; doubling further would overflow a float."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The limits of retrying one request.

    `max_tries` includes the first try; `max_unsent_tries` applies instead if no server can have
    received the request. With `has_constant_backoff` every wait after a failure is the longest one:
    few tries, far apart. `max_rate_limit_wait_seconds` is the total wait because of 429s.
    """

    max_tries: int = 6
    max_unsent_tries: int = 6
    has_constant_backoff: bool = False
    max_rate_limit_wait_seconds: float = 600.0
    max_retry_after_seconds: float = 300.0
    """The longest `Retry-After` that we wait for; a longer one means that the quota is spent."""


class RetryBudget:
    """What one request may still spend on retries, and how long to wait before each."""

    def __init__(self, policy: RetryPolicy) -> None:
        self.policy = policy
        self.failures = 0
        """Failures so far; 429s are none."""
        self.rate_limit_hits = 0
        self.waited_seconds = 0.0
        """The total wait because of 429s."""

    def spend(self, error: KlaviyoAssetsError, *, jitter: float, now: datetime) -> float:
        """Spend a retry because of `error`; return how many seconds to wait before it.

        `jitter` in [0, 1) spreads the waits, so that many clients do not retry together. `now` is
        the operator's local time, for the text that says when to run again.

        Raises:
            KlaviyoAssetsError: there is no retry: `error`, with one more sentence if it may pass;
                QuotaError after a 429 whose `Retry-After` is too long to wait for.
        """
        if isinstance(error, QuotaError) or not isinstance(error, TransientError):
            raise error
        retry_after = error.retry_after_seconds
        if retry_after is not None and retry_after > self.policy.max_retry_after_seconds:
            raise retry_later_error(error, retry_after, now)
        if isinstance(error, RateLimitError):
            return self.spend_wait(error, jitter)
        self.failures += 1
        was_sent = not isinstance(error, ConnectionLostError) or error.was_sent
        if self.failures >= (self.policy.max_tries if was_sent else self.policy.max_unsent_tries):
            raise exhausted_error(error, f"Given up after {self.failures} tries.")
        doublings = math.inf if self.policy.has_constant_backoff else self.failures - 1
        return max(retry_after or 0.0, backoff_seconds(doublings, jitter))

    def spend_wait(self, error: RateLimitError, jitter: float) -> float:
        """Return the seconds to wait after a 429: Klaviyo's `Retry-After`, or our own backoff.

        A `Retry-After` of 0 was seen in real responses, so we wait at least half a second; up to a
        quarter more than requested spreads the retries of several threads.
        """
        if error.retry_after_seconds is None:
            seconds = backoff_seconds(self.rate_limit_hits, jitter)
        else:
            shortest = INITIAL_BACKOFF_SECONDS / 2
            seconds = max(error.retry_after_seconds, shortest) * (1 + jitter / 4)
        self.rate_limit_hits += 1
        if self.waited_seconds + seconds > self.policy.max_rate_limit_wait_seconds:
            raise exhausted_error(
                error,
                f"Given up after {self.rate_limit_hits} of them: {self.waited_seconds:.0f} s "
                "waited.",
            )
        self.waited_seconds += seconds
        return seconds


def backoff_seconds(doublings: float, jitter: float) -> float:
    """Return the wait after so many doublings of the first one, reduced by up to half."""
    whole = INITIAL_BACKOFF_SECONDS * 2 ** min(doublings, MAX_BACKOFF_DOUBLINGS)
    return min(whole, MAX_BACKOFF_SECONDS) * (1 - jitter / 2)


def retry_later_error(
    error: TransientError, retry_after_seconds: float, now: datetime
) -> TransientError:
    """Return the error for a `Retry-After` too long to wait for, with the local time of its end."""
    back = (now + timedelta(seconds=retry_after_seconds)).strftime("%Y-%m-%d %H:%M %Z").rstrip()
    said = (
        f"Klaviyo asks to wait {retry_after_seconds:.0f} s, which is too long to sleep: run it "
        f"after {back}."
    )
    if not isinstance(error, RateLimitError):
        return exhausted_error(error, said)
    return QuotaError(
        f"{error.message} {said}", stream=error.stream, retry_after_seconds=retry_after_seconds
    )


def exhausted_error(error: TransientError, reason: str) -> TransientError:
    """Return the same error with `reason` as one more sentence."""
    return replace(error, message=f"{error.message.rstrip('.')}. {reason}")


MAX_PAGE_BYTES = 16 * 1024 * 1024
"""Bytes of body that a page should not exceed: eight times those of a usual page of events."""

SHRINK_FACTOR = 4
GROWTH_FACTOR = 2
REFUSED_SIZE_DIVISOR = 2
"""Divides a page size that Klaviyo refuses; ten refusals take 1000 records down to one."""

FAILURES_BEFORE_SHRINK = 3
"""Failures of a page after which it is requested with fewer records; two may be chance.

One is enough if the same size has failed before.
"""

MIN_PAGES_BEFORE_GROWTH, MAX_PAGES_BEFORE_GROWTH = 16, 256
"""Good pages before a size that failed is tried again; doubled after each further failure."""


class AdaptivePageSize:
    """The page size of one sync, adapted to all of its pages. Thread-safe."""

    def __init__(self, max_size: int | None = None) -> None:
        """Begin with `max_size`, the endpoint's largest size; None: it takes no page size."""
        self.max_size = max_size
        self._size = self._ceiling = max_size or 1
        self._failed_size: int | None = None
        self._pages_before_growth = MIN_PAGES_BEFORE_GROWTH
        self._pages_since_failure = 0
        self._record_bytes = 0.0
        self._has_fixed_links = False
        self._lock = Lock()

    @property
    def is_reduced(self) -> bool:
        """Return whether pages are now requested with fewer records than the largest size."""
        return self.max_size is not None and self._size < self.max_size

    @property
    def has_fixed_links(self) -> bool:
        """Return whether next links are followed unchanged, as Klaviyo refused a changed one."""
        return self._has_fixed_links

    def resize(self, request: Request) -> Request:
        """Return the request with the current page size."""
        if self.max_size is None or requested_page_size(request) in {None, self._size}:
            return request
        return request if self._is_fixed(request) else set_page_size(request, self._size)

    def note_lost_cursor(self, request: Request) -> bool:
        """Note that Klaviyo lost the cursor of `request`; return whether a changed size may be why.

        If so, next links are followed unchanged from then on.
        """
        was_changed = has_page_cursor(request) and self.resize(request) is not request
        self._has_fixed_links |= was_changed
        return was_changed

    def step_down(self, request: Request) -> bool:
        """Note that Klaviyo refused the page size of `request`; return whether it could be reduced.

        Pages of that size are not requested again: a refusal by rule does not depend on chance.
        """
        size = requested_page_size(request)
        if self.max_size is None or size is None or size == 1 or self._is_fixed(request):
            return False
        with self._lock:
            self._ceiling = min(self._ceiling, max(1, size // REFUSED_SIZE_DIVISOR))
            self._size = min(self._size, self._ceiling)
        return True

    def shrink_after_failure(
        self, request: Request, error: KlaviyoAssetsError, failures: int
    ) -> Request:
        """Return the request to retry with, after `failures` failures of this page."""
        size = requested_page_size(request)
        if self.max_size is None or size is None or size == 1 or self._is_fixed(request):
            return request
        has_failed = self._failed_size is not None and size >= self._failed_size
        if not _can_smaller_page_help(error, FAILURES_BEFORE_SHRINK if has_failed else failures):
            return request
        with self._lock:
            self._failed_size = min(size, self._failed_size or size)
            self._size = min(self._size, max(1, size // SHRINK_FACTOR))
            self._pages_since_failure = 0
        return set_page_size(request, self._size)

    def record_page(self, *, records: int, size: int) -> None:
        """Note a page that was read: the number of its records, and the bytes of its body."""
        if self.max_size is None or not records:
            return
        if self._size == self.max_size and size <= MAX_PAGE_BYTES and self._failed_size is None:
            return
        with self._lock:
            # The largest recent size counts; each page of smaller records halves it.
            self._record_bytes = max(size / records, self._record_bytes / 2)
            self._pages_since_failure += 1
            if self._failed_size is not None and records >= self._failed_size:
                self._failed_size = None
            larger = self._size * GROWTH_FACTOR
            if self._failed_size is not None and larger >= self._failed_size:
                if self._pages_since_failure < self._pages_before_growth:
                    larger = self._size
                else:
                    self._pages_since_failure = 0
                    self._pages_before_growth = min(
                        self._pages_before_growth * GROWTH_FACTOR, MAX_PAGES_BEFORE_GROWTH
                    )
            fitting = int(MAX_PAGE_BYTES / self._record_bytes)
            self._size = max(1, min(larger, self._ceiling, fitting))

    def _is_fixed(self, request: Request) -> bool:
        return self._has_fixed_links and has_page_cursor(request)


def _can_smaller_page_help(error: KlaviyoAssetsError, failures: int) -> bool:
    """Return whether fewer records may help after a page failed so often with this error."""
    match error:
        case LargeBodyError():
            return True
        case RateLimitError():
            return False
        case _:
            return failures >= FAILURES_BEFORE_SHRINK
