"""How many records a page is asked for: fewer where pages fail or weigh much, and back again.

What belongs here: the choice, from what came of earlier pages. What does not: sending (`client`).
Klaviyo answers 504 where a page of the largest size takes it too long, and a page of heavy records
takes memory thrice over.
"""

from threading import Lock

from klaviyo_assets.api.exchange import Request
from klaviyo_assets.api.protocol import has_cursor, page_size_of, with_page_size
from klaviyo_assets.errors import KlaviyoAssetsError, LargeBodyError, RateLimitError

PAGE_BYTES = 16 * 1024 * 1024
"""Bytes that a page should have at the most: eight times those of a usual page of events."""

SMALLER_BY = 4
LARGER_BY = 2
REFUSED_BY = 2
"""What a size that Klaviyo does not take is divided by: ten times, then a thousand is one."""

FAILURES = 3
"""Failures of a page after which it is asked for in a smaller size: two are a hiccup.

One is enough where the size has failed before.
"""

FIRST_PATIENCE, LONGEST_PATIENCE = 16, 256
"""Good pages before a size that failed is tried again; twice as many after each further failure."""


class PageSize:
    """The page size of one sync, learned from all its pages. Safe for threads."""

    def __init__(self, most: int | None = None) -> None:
        """Begin with `most`, the largest size; None: the endpoint has no page size."""
        self.most = most
        self._now = self._ceiling = most or 1
        self._failed_at: int | None = None
        self._patience = FIRST_PATIENCE
        self._good = 0
        self._record_bytes = 0.0
        self._links_are_fixed = False
        self._lock = Lock()

    @property
    def is_smaller(self) -> bool:
        """Return whether less than the most is asked for now."""
        return self.most is not None and self._now < self.most

    def fitted(self, request: Request) -> Request:
        """Return the request for as many records as are asked for now."""
        if self.most is None or page_size_of(request) in {None, self._now}:
            return request
        return request if self._keeps(request) else with_page_size(request, self._now)

    def is_refused(self, request: Request) -> bool:
        """Take in that Klaviyo lost the cursor of `request`; tell whether a changed size is why.

        From then on next links are followed as they come.
        """
        was_changed = has_cursor(request) and self.fitted(request) is not request
        self._links_are_fixed |= was_changed
        return was_changed

    def step_down(self, request: Request) -> bool:
        """Take in that Klaviyo does not take the size of `request`, as it was sent, in any words.

        Tell whether fewer may be asked for. As large a page is not asked for again: what is refused
        by a rule is no matter of luck.
        """
        size = page_size_of(request)
        if self.most is None or size is None or size == 1 or self._keeps(request):
            return False
        with self._lock:
            self._ceiling = min(self._ceiling, max(1, size // REFUSED_BY))
            self._now = min(self._now, self._ceiling)
        return True

    def smaller(self, request: Request, error: KlaviyoAssetsError, failures: int) -> Request:
        """Return what to ask for after a failure, the so-manieth of this page."""
        size = page_size_of(request)
        if self.most is None or size is None or size == 1 or self._keeps(request):
            return request
        has_failed = self._failed_at is not None and size >= self._failed_at
        if not _is_of_size(error, FAILURES if has_failed else failures):
            return request
        with self._lock:
            self._failed_at = min(size, self._failed_at or size)
            self._now = min(self._now, max(1, size // SMALLER_BY))
            self._good = 0
        return with_page_size(request, self._now)

    def note(self, *, records: int, size: int) -> None:
        """Take in a page that came: its records, and the bytes of its body."""
        if self.most is None or not records:
            return
        if self._now == self.most and size <= PAGE_BYTES and self._failed_at is None:
            return
        with self._lock:
            # The heaviest of late counts, a page of light ones halves it.
            self._record_bytes = max(size / records, self._record_bytes / 2)
            self._good += 1
            if self._failed_at is not None and records >= self._failed_at:
                self._failed_at = None
            larger = self._now * LARGER_BY
            if self._failed_at is not None and larger >= self._failed_at:
                if self._good < self._patience:
                    larger = self._now
                else:
                    self._good = 0
                    self._patience = min(self._patience * LARGER_BY, LONGEST_PATIENCE)
            fitting = int(PAGE_BYTES / self._record_bytes)
            self._now = max(1, min(larger, self._ceiling, fitting))

    def _keeps(self, request: Request) -> bool:
        return self._links_are_fixed and has_cursor(request)


def _is_of_size(error: KlaviyoAssetsError, failures: int) -> bool:
    """Tell whether fewer records may help against what a page has met so often."""
    match error:
        case LargeBodyError():
            return True
        case RateLimitError():
            return False
        case _:
            return failures >= FAILURES
