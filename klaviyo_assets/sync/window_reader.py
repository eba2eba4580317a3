"""Reads one window of one slice page by page, and tells which part of it is completely read.

`WindowScheduler` decides which window is split, and where.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock
from types import MappingProxyType
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from klaviyo_assets.api.messages import Request
from klaviyo_assets.api.requests import first_page_request, next_page_request
from klaviyo_assets.api.retry import AdaptivePageSize
from klaviyo_assets.arrow_buffers import timestamp_scalar
from klaviyo_assets.decode.batch import cursor_range, is_ascending_by_second
from klaviyo_assets.decode.decoder import DecodedPage
from klaviyo_assets.errors import CursorLostError, RepeatedPageError
from klaviyo_assets.model.stream import Collection, Slice, Stream
from klaviyo_assets.model.window import Window

ONE_SECOND = timedelta(seconds=1)
"""Klaviyo's filters have whole seconds: they cannot separate records of one second."""


@dataclass(slots=True, kw_only=True)
class RecordDensity:
    """Pages over time, counted from `since`; None: from the first record.

    A window that was split off counts from its start: records were expected before its first one,
    so that empty time lowers the density. A planned window may begin years before the account did:
    that empty time does not count.
    """

    since: datetime | None = None
    position: datetime | None = None
    """The greatest cursor read so far, UTC."""
    pages: float = 0.0
    """Full pages with records; a part of one counts as that part."""
    _first_cursor: datetime | None = None
    _widest_gap: timedelta = field(default_factory=timedelta)
    _page_count: int = 0

    def add_page(
        self, min_cursor: datetime | None, max_cursor: datetime | None, *, pages: float
    ) -> None:
        """Record one page: its least and greatest cursor, and its size in full pages.

        The cursors of a page without rows are None; it is ignored.
        """
        if min_cursor is None or max_cursor is None:
            return
        self.pages += pages
        self._page_count += 1
        if self._first_cursor is None:
            self._first_cursor = min_cursor
        before = self.position if self.position is not None else min_cursor
        self.position = max(before, max_cursor)
        self._widest_gap = max(self._widest_gap, self.position - before)

    @property
    def time_span(self) -> timedelta:
        """Return the time between the start and the position, at least a second."""
        begin = self.since if self.since is not None else self._first_cursor
        if begin is None or self.position is None:
            return ONE_SECOND
        return max(self.position - begin, ONE_SECOND)

    def pages_until(self, end: datetime) -> float:
        """Return how many pages are expected between the position and `end` at this density.

        In a planned window the page that spans most time is ignored, once there are two pages: a
        decade without records before the data begins says nothing about the density.
        """
        if self.position is None or not self.pages or end <= self.position:
            return 0.0
        span, pages = self.time_span, self.pages
        if self.since is None and self._page_count > 1 and pages > 1:
            span, pages = max(span - self._widest_gap, ONE_SECOND), pages - 1
        return pages * ((end - self.position) / span)


MAX_PAGES_WITHOUT_PROGRESS = 300
"""Pages in a row without a new record; a handful of empty pages in a row is known of Klaviyo."""

MAX_PAGES_AT_ONE_CURSOR = 10_000
"""Pages in a row with new records at one cursor: 100,000 records in a second, at ten a page."""


MAX_REMEMBERED_IDS = 200_000
"""Ids to remember; beyond this number only those of the newest page are remembered."""


class PagingLoopDetector:
    """Detects paging that does not end. A usual page costs one comparison of timestamps."""

    def __init__(self, stream: Stream) -> None:
        """Begin before the first page."""
        self._stream = stream
        self._position: datetime | None = None
        self._idle_pages = 0
        """Pages since the last one with a new record."""
        self._pages_at_position = 0
        """Pages in a row whose greatest cursor is the position."""
        self._ids: set[int] = set()
        """Hashes of the ids read since the position last moved."""

    def check_page(self, page: DecodedPage) -> None:
        """Check a page that names a next page.

        Raises:
            RepeatedPageError: too many pages in a row had no new record, or did not advance.
        """
        if page.highest_cursor is not None and (
            self._position is None or page.highest_cursor > self._position
        ):
            self._position, self._idle_pages, self._pages_at_position = page.highest_cursor, 0, 0
            self._ids.clear()
            return
        columns = [cast("list[object]", page.batch[name].to_pylist()) for name in self._stream.key]
        ids = set(map(hash, zip(*columns, strict=True)))
        self._idle_pages = self._idle_pages + 1 if ids <= self._ids else 0
        self._ids = ids if len(self._ids) > MAX_REMEMBERED_IDS else self._ids | ids
        # Records before the position do not count as many at one cursor: they are out of order.
        is_here = self._position is not None and page.highest_cursor == self._position
        self._pages_at_position = self._pages_at_position + 1 if is_here else 0
        if (
            self._idle_pages >= MAX_PAGES_WITHOUT_PROGRESS
            or self._pages_at_position >= MAX_PAGES_AT_ONE_CURSOR
        ):
            at = f" after {self._position.isoformat()}" if self._position is not None else ""
            raise RepeatedPageError(
                "Klaviyo's paging does not end: "
                f"{max(self._idle_pages, self._pages_at_position):,} pages in a row "
                f"named a next page and brought nothing{at}. Run it again, and tell Klaviyo's "
                "support if it stays so.",
                stream=self._stream.name,
            )


CURSOR_SAFETY_MARGIN = timedelta(minutes=5)
"""How far the high-water mark stays behind the clock.

Records that appear some seconds late are then read by the next sync.
"""

PageFetcher = Callable[[Request, Slice], tuple[DecodedPage, datetime]]
"""Sends one request; returns the decoded page and `Response.responded_at`, UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """What all window readers of one sync share."""

    stream: Stream
    base_url: str
    excluded_fields: frozenset[str]
    fetch_page: PageFetcher
    requested_fields: tuple[str, ...] | None = None
    """The only attributes to request; None: all."""
    page_size: AdaptivePageSize = field(default_factory=AdaptivePageSize)


@dataclass(slots=True, eq=False)
class PlannedWindow:
    """A window of the plan, shared by all readers of it or of a part of it.

    Once its records came out of order, reading parts of it proves nothing, nor do the windows that
    were reported as read. It is then read by one reader to the end of its paging, and only that
    counts.
    """

    window: Window
    is_out_of_order: bool = False
    is_fully_read: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PageResult:
    """One page, and the window that is completely read once it and earlier pages are stored.

    `batch` holds the rows of the page that lie in the reader's window. `max_cursor` is the greatest
    cursor in it (UTC) that is old enough for a high-water mark. `responded_at` is when Klaviyo
    responded, UTC.
    """

    slice: Slice
    page: DecodedPage
    batch: pa.RecordBatch
    responded_at: datetime
    completed_window: Window | None = None
    max_cursor: datetime | None = None
    quarantine_window: Window | None = None
    """The window to read again for records that cannot be stored; None: all can."""
    planned_window: PlannedWindow | None = None
    """The planned window that the page belongs to; None for a page of a fan-out."""
    is_end_of_planned_window: bool = False
    """Whether one reader has read the whole planned window with this page."""

    def coverage_change(self) -> tuple[Window | None, Window | None]:
        """Return the window that now counts as read, and the one that no longer does.

        Call this when the page is stored: since it was read, another part of its planned window may
        have come out of order.
        """
        if (
            self.planned_window is None
            or not self.planned_window.is_out_of_order
            or self.is_end_of_planned_window
        ):
            return self.completed_window, None
        return None, self.planned_window.window


class PageSource(ABC):
    """Yields the pages of a sync: from windows, or from one request per parent record."""

    last_pass_at: datetime | None = None
    """When the second pass began, by its first response (UTC); None where there is one pass."""
    missing_parents = 0
    """Parent records that Klaviyo no longer had when they were requested."""
    unanswered_parents: Mapping[str, int] = MappingProxyType({})
    """Parent records that could not be fetched, by reason."""
    failed_slices: AbstractSet[str] = frozenset()
    """Names of slices that ended although a request of theirs failed."""
    committed_slices: AbstractSet[str] = frozenset()
    """Names of slices whose rows earlier commits of the same replacement hold."""

    @abstractmethod
    def results(self) -> Iterator[PageResult | Slice]:
        """Yield the pages, and each slice once, after its last page."""

    @abstractmethod
    def close(self) -> None:
        """Stop reading; does not wait for responses in flight."""


class WindowReader:
    """Reads one window. `split` may be called from any thread, `read_pages` from one."""

    def __init__(
        self,
        context: RequestContext,
        slice_: Slice,
        window: Window,
        *,
        horizon: datetime | None = None,
        planned_window: PlannedWindow | None = None,
    ) -> None:
        """Start before `window`; nothing is requested yet.

        `planned_window` is the planned window that this one is a part of; None: it is one itself.
        `horizon` (UTC) is the latest cursor that counts as completely read. It is passed where this
        window was split off another one; None: it follows from the first response.
        """
        self.slice = slice_
        self.request_count = 0
        """Pages read."""
        self.full_pages = 0.0
        """The same in full pages: the last one counts by the share of its rows in the window.

        A page that names a next page counts as full, however many records it has.
        """
        self._context = context
        self._window = window
        self._end = window.end
        self._completed_until = window.start
        self._density = RecordDensity(since=window.start if horizon is not None else None)
        self.is_finished = False
        """Whether its last page was read."""
        self.last_page_fill = 0.0
        """How full the latest page is, 0 to 1."""
        self._horizon = horizon
        self._is_in_order = True
        self.planned_window = planned_window or PlannedWindow(
            window, is_out_of_order=not context.stream.is_sorted_by_cursor
        )
        self._is_undivided = self.planned_window.window == window
        """Whether this reader reads its whole planned window, so far."""
        self._max_cursor_since_restart: datetime | None = None
        """The greatest cursor since paging began, UTC."""
        self._has_broken_records, self._broken_since = False, window.start
        """Whether a record was quarantined since the last good page; where that ended, UTC."""
        self._lock = Lock()

    def read_pages(self) -> Iterator[PageResult]:
        """Yield the pages of the window in the order of the cursor.

        If Klaviyo no longer knows a page cursor, the rest of the window is requested anew, once.

        Raises:
            KlaviyoAssetsError: as the client and the decoder say.
        """
        request: Request | None = self._first_request(self._window.start)
        seen: set[str] = set()
        loop_detector = PagingLoopDetector(self._context.stream)
        has_restarted = False
        while request is not None:
            try:
                page, at = self._context.fetch_page(request, self.slice)
            except CursorLostError:
                is_caused_by_size = self._context.page_size.note_lost_cursor(request)
                if has_restarted and not is_caused_by_size:
                    raise
                has_restarted |= not is_caused_by_size
                seen.clear()
                loop_detector = PagingLoopDetector(self._context.stream)
                request = self._first_request(self._reset_to_restart_position())
                continue
            following = next_page_request(
                request, page.next_link, base_url=self._context.base_url, seen_targets=seen
            )
            if following is not None:
                loop_detector.check_page(page)
            result, is_last = self._process_page(page, at, is_last=following is None)
            yield result
            request = None if is_last else following

    @property
    def position(self) -> datetime | None:
        """Return the greatest cursor read so far, UTC; None before the first record."""
        return self._density.position

    @property
    def upper_bound(self) -> datetime | None:
        """Return where records should end, UTC: the window's end; the horizon if it is open."""
        return self._end if self._end is not None else self._horizon

    @property
    def time_span(self) -> timedelta:
        """Return the time that was read so far, at least a second."""
        return self._density.time_span

    @property
    def estimated_pages_left(self) -> float:
        """Return how many pages the rest of the window holds at the density so far."""
        upper = self.upper_bound
        return 0.0 if self.is_finished or upper is None else self._density.pages_until(upper)

    @property
    def can_split(self) -> bool:
        """Return whether the window may be split: not once records came out of order."""
        return not self.planned_window.is_out_of_order

    def reread_if_out_of_order(self) -> "WindowReader | None":
        """Return a new reader of the whole planned window, if it came out of order; else None."""
        if not self.planned_window.is_out_of_order or self.planned_window.is_fully_read:
            return None
        return WindowReader(
            self._context,
            self.slice,
            self.planned_window.window,
            planned_window=self.planned_window,
        )

    def split(self, at: datetime) -> "WindowReader | None":
        """Return a new reader for the part from `at` (UTC, a whole second) on.

        None where this reader is already past `at`, or may not be split.

                   position            at            end
        ───────────────┼────────────────┼──────────────┼──────▶ UTC
        this reader ───[════════════════)
        new reader ─────────────────────[══════════════)
        """
        with self._lock:
            lower = self._density.position
            if self.is_finished or lower is None or not lower < at or not self.can_split:
                return None
            if self._end is not None and at >= self._end:
                return None
            rest = Window(at, self._end)
            self._end = at
            self._is_undivided = False
            return WindowReader(
                self._context,
                self.slice,
                rest,
                horizon=self._horizon,
                planned_window=self.planned_window,
            )

    def _reset_to_restart_position(self) -> datetime | None:
        """Return where to restart after a lost page cursor, UTC.

        That is the position, since everything before it was read while pages came in order; before
        the first record, or out of order, it is the window's start.
        """
        with self._lock:
            self._max_cursor_since_restart = None
            position = self._density.position
            if position is None or self.planned_window.is_out_of_order:
                return self._window.start
            self._is_undivided = False
            return position

    def _first_request(self, start: datetime | None) -> Request:
        return first_page_request(
            self._context.stream,
            self.slice,
            Window(start, self._window.end),
            excluded_fields=self._context.excluded_fields,
            fields=self._context.requested_fields,
        )

    def _process_page(
        self, page: DecodedPage, responded_at: datetime, *, is_last: bool
    ) -> tuple[PageResult, bool]:
        with self._lock:
            if self._horizon is None:
                self._horizon = responded_at - CURSOR_SAFETY_MARGIN
            before = self._density.position
            batch = self._rows_before_end(page)
            if self._is_page_out_of_order(page):
                self.planned_window.is_out_of_order = True
            is_end_of_whole = is_last and self._is_undivided
            if not (self.planned_window.is_out_of_order and self._is_undivided):
                is_cut = self.planned_window.is_out_of_order or batch.num_rows < page.batch.num_rows
                is_last = is_last or is_cut
            page_fill = self._page_fill(page, batch, is_last=is_last)
            self._advance(page, page_fill=page_fill)
            self.is_finished, self.last_page_fill = is_last, page_fill
            self.planned_window.is_fully_read |= is_end_of_whole
            result = PageResult(
                slice=self.slice,
                page=page,
                batch=batch,
                completed_window=self._complete_window(
                    is_last=is_last, is_end_of_planned_window=is_end_of_whole
                ),
                max_cursor=self._max_safe_cursor(page, batch),
                responded_at=responded_at,
                quarantine_window=self._quarantine_window(page, before, is_last=is_last),
                planned_window=self.planned_window,
                is_end_of_planned_window=is_end_of_whole,
            )
            return result, is_last

    def _is_page_out_of_order(self, page: DecodedPage) -> bool:
        """Return whether a record lies in an earlier second than one before it.

        The order within a second does not matter: windows are cut at whole seconds only.
        """
        cursor, before = self._context.stream.cursor, self._max_cursor_since_restart
        if cursor is None or page.lowest_cursor is None or page.highest_cursor is None:
            return False
        self._max_cursor_since_restart = (
            page.highest_cursor if before is None else max(before, page.highest_cursor)
        )
        if before is not None and page.lowest_cursor < before.replace(microsecond=0):
            return True
        return not page.is_ascending and not is_ascending_by_second(page.batch, cursor.column)

    def _quarantine_window(
        self, page: DecodedPage, previous_position: datetime | None, *, is_last: bool
    ) -> Window | None:
        """Return the window of quarantined records: from the last good record to the next one.

        A quarantined record may have no readable cursor, and may end its page or fill it. So the
        window ends only at the next page with a good record. Out of order, the record may lie
        anywhere in the planned window.
        """
        is_over = (
            self._has_broken_records and not page.quarantined and page.lowest_cursor is not None
        )
        if self._context.stream.cursor is None or not (page.quarantined or is_over):
            return None
        if not self._has_broken_records:
            start = (
                self._window.start
                if previous_position is None
                else previous_position.replace(microsecond=0)
            )
            self._has_broken_records, self._broken_since = True, start
        self._has_broken_records = not is_over
        if self.planned_window.is_out_of_order:
            return Window(self._window.start, self.upper_bound)
        until = page.lowest_cursor if is_over else self._density.position
        if until is None or (is_last and not is_over):
            return Window(self._broken_since, self.upper_bound)
        return Window(self._broken_since, until.replace(microsecond=0) + ONE_SECOND)

    def _rows_before_end(self, page: DecodedPage) -> pa.RecordBatch:
        """Return the rows before the end, which a split may have moved since the request."""
        cursor = self._context.stream.cursor
        if (
            cursor is None
            or self._end is None
            or page.highest_cursor is None
            or page.highest_cursor < self._end
        ):
            return page.batch
        return page.batch.filter(pc.less(page.batch[cursor.column], timestamp_scalar(self._end)))

    def _page_fill(self, page: DecodedPage, batch: pa.RecordBatch, *, is_last: bool) -> float:
        """Return how full a page is, 0 to 1; of the last page, only rows of the window count."""
        source = self._context.stream.source
        size = source.page_size if isinstance(source, Collection) else None
        if not is_last:
            is_cut = size is not None and self._context.page_size.is_reduced
            return min(1.0, page.record_count / size) if is_cut and size else 1.0
        return batch.num_rows / max(page.batch.num_rows, size or 1)

    def _advance(self, page: DecodedPage, *, page_fill: float) -> None:
        self.request_count += 1
        self.full_pages += page_fill
        before = self._density.position
        self._is_in_order &= page.is_ascending
        if before is not None and page.lowest_cursor is not None:
            self._is_in_order &= page.lowest_cursor >= before
        self._density.add_page(page.lowest_cursor, page.highest_cursor, pages=page_fill)

    def _complete_window(self, *, is_last: bool, is_end_of_planned_window: bool) -> Window | None:
        """Return the window that this page completes; out of order: only at the very end."""
        if self._context.stream.cursor is None or self._horizon is None:
            return None
        if self.planned_window.is_out_of_order:
            self._completed_until = self._window.start
            if not is_end_of_planned_window:
                return None
        end = self._end if is_last else self._density.position
        if not is_last and (end is None or not self._is_in_order):
            return None
        completed = Window(self._completed_until, min(filter(None, (end, self._horizon))))
        if completed.is_empty:
            return None
        self._completed_until = completed.end
        return completed

    def _max_safe_cursor(self, page: DecodedPage, batch: pa.RecordBatch) -> datetime | None:
        """Return the greatest cursor up to the horizon: later ones move no high-water mark."""
        cursor = self._context.stream.cursor
        if (
            cursor is None
            or page.highest_cursor is None
            or self._horizon is None
            or not batch.num_rows
        ):
            return None
        if batch.num_rows == page.batch.num_rows and page.highest_cursor <= self._horizon:
            return page.highest_cursor
        settled = batch.filter(pc.less_equal(batch[cursor.column], timestamp_scalar(self._horizon)))
        span = cursor_range(settled, cursor.column)
        return None if span is None else span[1]
