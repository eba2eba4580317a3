"""Whether to try again, and after how long: pure policy.

How many records a page is asked for: fewer where pages fail or weigh much, and back again.

Two bounds, because two things go wrong. A server that fails is given a number of tries. A spent
rate limit is nobody's failure: it is waited out, up to a total, as asking again at once only brings
the next 429. Source: https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from threading import Lock

from klaviyo_assets.api.messages import Request
from klaviyo_assets.api.requests import has_page_cursor, requested_page_size, set_page_size
from klaviyo_assets.errors import (
    ConnectionLostError,
    KlaviyoAssetsError,
    LargeBodyError,
    QuotaError,
    RateLimitError,
    TransientError,
)

INITIAL_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 10.0
"""Our own waits double up to this; with every answer a 429 they fill ten minutes in 60 requests."""

MAX_BACKOFF_DOUBLINGS = 16
"""So many waits before that the next one is the longest; more would overflow a float one day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How patient we are. `tries` includes the first one.

    `max_rate_limit_wait_seconds` is for 429s, in all.

    Where `has_constant_backoff`, every wait after a failure is our longest one: few tries, far
    apart. `max_unsent_tries` is for what no server can have got.
    """

    max_tries: int = 6
    max_unsent_tries: int = 6
    has_constant_backoff: bool = False
    max_rate_limit_wait_seconds: float = 600.0
    max_retry_after_seconds: float = 300.0
    """The longest `Retry-After` that is slept through; beyond it the quota is spent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryState:
    """What one request has been through: failures, 429s, and seconds waited because of 429s."""

    failures: int = 0
    rate_limit_hits: int = 0
    waited_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RetryWait:
    """Try again after `seconds`; `tries` is what counts from then on."""

    seconds: float
    state: RetryState


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not try again; `error` is what the caller gets."""

    error: KlaviyoAssetsError


def decide_retry(
    state: RetryState,
    error: KlaviyoAssetsError,
    *,
    policy: RetryPolicy,
    jitter: float,
    now: datetime,
) -> RetryWait | GiveUp:
    """Return what to do after `error`.

    `jitter` in [0, 1) spreads the waits, so that many clients do not come back together; `now` is
    the operator's local time, for the sentence that says when to come back.
    """
    if isinstance(error, QuotaError) or not isinstance(error, TransientError):
        return GiveUp(error)
    asked = error.retry_after_seconds
    if asked is not None and asked > policy.max_retry_after_seconds:
        return GiveUp(retry_later_error(error, asked, now))
    if isinstance(error, RateLimitError):
        return decide_after_rate_limit(state, error, policy=policy, jitter=jitter)
    failed = replace(state, failures=state.failures + 1)
    was_sent = not isinstance(error, ConnectionLostError) or error.was_sent
    if failed.failures >= (policy.max_tries if was_sent else policy.max_unsent_tries):
        return GiveUp(exhausted_error(error, f"Given up after {failed.failures} tries."))
    waits = MAX_BACKOFF_DOUBLINGS if policy.has_constant_backoff else state.failures
    return RetryWait(max(asked or 0.0, backoff_seconds(waits, jitter)), failed)


def decide_after_rate_limit(
    state: RetryState, error: RateLimitError, *, policy: RetryPolicy, jitter: float
) -> RetryWait | GiveUp:
    """Return what to do after a 429: wait as long as Klaviyo says, or as long as our own back-off.

    "0 seconds" has been seen in real answers; half a second is the least, and up to a quarter more
    than asked spreads the return of several threads.
    """
    asked = error.retry_after_seconds
    if asked is None:
        seconds = backoff_seconds(state.rate_limit_hits, jitter)
    else:
        seconds = max(asked, INITIAL_BACKOFF_SECONDS / 2) * (1 + jitter / 4)
    waited = state.waited_seconds + seconds
    if waited > policy.max_rate_limit_wait_seconds:
        said = (
            f"Given up after {state.rate_limit_hits + 1} of them: {state.waited_seconds:.0f} "
            "s waited."
        )
        return GiveUp(exhausted_error(error, said))
    return RetryWait(
        seconds, replace(state, rate_limit_hits=state.rate_limit_hits + 1, waited_seconds=waited)
    )


def backoff_seconds(count: int, jitter: float) -> float:
    """Return the wait after `count` earlier ones: doubled each time, then cut by up to half."""
    whole = min(
        INITIAL_BACKOFF_SECONDS * 2 ** min(count, MAX_BACKOFF_DOUBLINGS), MAX_BACKOFF_SECONDS
    )
    return whole * (1 - jitter / 2)


def retry_later_error(
    error: TransientError, retry_after_seconds: float, now: datetime
) -> TransientError:
    """Return the error for a wait too long to sleep through, with the local time of its end."""
    back = (now + timedelta(seconds=retry_after_seconds)).strftime("%Y-%m-%d %H:%M %Z").rstrip()
    wait = f"{retry_after_seconds:.0f} s"
    said = f"Klaviyo asks to wait {wait}, which is too long to sleep: run it after {back}."
    if not isinstance(error, RateLimitError):
        return exhausted_error(error, said)
    return QuotaError(
        f"{error.message} {said}", stream=error.stream, retry_after_seconds=retry_after_seconds
    )


def exhausted_error(error: TransientError, reason: str) -> TransientError:
    """Return the same error with one sentence more."""
    return replace(error, message=f"{error.message.rstrip('.')}. {reason}")


MAX_PAGE_BYTES = 16 * 1024 * 1024
"""Bytes that a page should have at the most: eight times those of a usual page of events."""

SHRINK_FACTOR = 4
GROWTH_FACTOR = 2
REFUSED_SIZE_DIVISOR = 2
"""What a size that Klaviyo does not take is divided by: ten times, then a thousand is one."""

FAILURES_BEFORE_SHRINK = 3
"""Failures of a page after which it is asked for in a smaller size: two are a hiccup.

One is enough where the size has failed before.
"""

MIN_PAGES_BEFORE_GROWTH, MAX_PAGES_BEFORE_GROWTH = 16, 256
"""Good pages before a size that failed is tried again; twice as many after each further failure."""


class AdaptivePageSize:
    """The page size of one sync, learned from all its pages. Safe for threads."""

    def __init__(self, max_size: int | None = None) -> None:
        """Begin with `max_size`, the largest size; None: the endpoint has no page size."""
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
        """Return whether less than the most is asked for now."""
        return self.max_size is not None and self._size < self.max_size

    def resize(self, request: Request) -> Request:
        """Return the request for as many records as are asked for now."""
        if self.max_size is None or requested_page_size(request) in {None, self._size}:
            return request
        return request if self._is_fixed(request) else set_page_size(request, self._size)

    def note_lost_cursor(self, request: Request) -> bool:
        """Take in that Klaviyo lost the cursor of `request`; tell whether a changed size is why.

        From then on next links are followed as they come.
        """
        was_changed = has_page_cursor(request) and self.resize(request) is not request
        self._has_fixed_links |= was_changed
        return was_changed

    def step_down(self, request: Request) -> bool:
        """Take in that Klaviyo does not take the size of `request`, as it was sent, in any words.

        Tell whether fewer may be asked for. As large a page is not asked for again: what is refused
        by a rule is no matter of luck.
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
        """Return what to ask for after a failure, the so-manieth of this page."""
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
        """Take in a page that came: its records, and the bytes of its body."""
        if self.max_size is None or not records:
            return
        if self._size == self.max_size and size <= MAX_PAGE_BYTES and self._failed_size is None:
            return
        with self._lock:
            # The heaviest of late counts, a page of light ones halves it.
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
    """Tell whether fewer records may help against what a page has met so often."""
    match error:
        case LargeBodyError():
            return True
        case RateLimitError():
            return False
        case _:
            return failures >= FAILURES_BEFORE_SHRINK
