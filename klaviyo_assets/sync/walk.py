"""One window of one slice, read page by page in the order of the cursor.

What belongs here: where a walk stands, what it may claim as read, and giving up its later part.
What does not: whether and where it is split (`scheduler`), threads and queues (`pool`), HTTP
(`api`), decoding (`tables`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock

import pyarrow as pa
import pyarrow.compute as pc

from klaviyo_assets.api.page_size import PageSize
from klaviyo_assets.api.protocol import Request, first_request, next_request
from klaviyo_assets.errors import CursorLostError
from klaviyo_assets.model.stream import Collection, Slice, Stream
from klaviyo_assets.model.window import Window
from klaviyo_assets.sync.density import SECOND, Density
from klaviyo_assets.sync.pace import Turn
from klaviyo_assets.sync.standstill import Standstill
from klaviyo_assets.tables.cursor import is_ascending_by_second, span_of
from klaviyo_assets.tables.decode import Page
from klaviyo_assets.tables.values import moment

SETTLED = timedelta(minutes=5)
"""How far the mark stays behind the clock: what arrives late by seconds is read next time."""

PageReader = Callable[[Request, Slice], tuple[Page, datetime]]
"""Sends one request; returns the decoded page and when it was answered (`Answer.at`), UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What all walks of one sync ask with."""

    stream: Stream
    base_url: str
    left_out: frozenset[str]
    read: PageReader
    fields: tuple[str, ...] | None = None
    """The only attributes wanted; None: all."""
    turn: Turn = field(default_factory=Turn)
    """What a page waits for before it is decoded."""
    page_size: PageSize = field(default_factory=PageSize)


@dataclass(slots=True, eq=False)
class Origin:
    """A window of the plan, shared by all walks that read it or a part of it.

    Once pages of it were seen out of order, its parts and what was claimed of it prove nothing: it
    is read in one piece, to where its paging ends, and only that counts.
    """

    window: Window
    is_disordered: bool = False
    is_read_whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One page, and what is read completely once it and its walk's earlier pages are stored.

    `highest` is the greatest cursor in it, UTC, that is old enough to become a mark; `at` is when
    it was answered, UTC.
    """

    slice: Slice
    page: Page
    batch: pa.RecordBatch
    read: Window | None
    highest: datetime | None
    at: datetime
    suspect: Window | None = None
    """Where to ask for the page again; None where all of its records can be stored."""
    origin: Origin | None = None
    """The window of the plan that it is of; None for what no window asks for."""
    is_end_of_whole: bool = False
    """Whether with it the whole window was read in one piece."""

    def claims(self) -> tuple[Window | None, Window | None]:
        """Return what counts as read from now on, and what does no longer.

        To be asked when the piece is stored: another part of its window may have been found out of
        order since it was read.
        """
        if self.origin is None or not self.origin.is_disordered or self.is_end_of_whole:
            return self.read, None
        return None, self.origin.window


class Walk:
    """A window being read. `split` may be called from any thread, `pieces` from one."""

    def __init__(
        self,
        ask: Ask,
        slice_: Slice,
        window: Window,
        *,
        horizon: datetime | None = None,
        origin: Origin | None = None,
    ) -> None:
        """Stand at the start of `window`; nothing is asked for yet.

        `origin` is the window of the plan that this one is a part of; None: it is one itself.
        `horizon` (UTC) is the end of what is settled, where another walk of the sync has asked
        already, whose window this one was a part of; None: it follows from the first answer.
        """
        self.slice = slice_
        self.requests = 0
        """Pages that have come."""
        self.pages = 0.0
        """The same in full pages: the last one counts as far as it is full with its own rows.

        A page is full where another one follows, whatever Klaviyo put on it.
        """
        self._ask = ask
        self._window = window
        self._end = window.end
        self._claimed = window.start
        self._density = Density(since=window.start if horizon is not None else None)
        self.is_at_end = False
        """Whether its last page has come."""
        self.last_page = 0.0
        """How full the page is that came last."""
        self._horizon = horizon
        self._is_in_order = True
        self.origin = origin or Origin(window, is_disordered=not ask.stream.comes_in_order)
        self._is_whole = self.origin.window == window
        """Whether it reads its window of the plan in one piece, so far."""
        self._follows: datetime | None = None
        self._is_suspect, self._suspect_from = False, window.start
        """Whether a record broke since the last sound page, and where that page ended, UTC."""
        """The greatest cursor since the paging began, UTC."""
        self._lock = Lock()

    def pieces(self) -> Iterator[Piece]:
        """Yield the pages of the window in the order of the cursor.

        A paging cursor that Klaviyo no longer knows starts the rest of the window again, once.

        Raises:
            KlaviyoAssetsError: as the client and the decoder say.
        """
        request: Request | None = self._first(self._window.start)
        seen: set[str] = set()
        standstill = Standstill(self._ask.stream)
        has_restarted = False
        while request is not None:
            try:
                page, at = self._ask.read(request, self.slice)
            except CursorLostError:
                is_of_size = self._ask.page_size.is_refused(request)
                if has_restarted and not is_of_size:
                    raise
                has_restarted |= not is_of_size
                seen.clear()
                standstill = Standstill(self._ask.stream)
                request = self._first(self._restart())
                continue
            following = next_request(request, page.next_link, seen=seen)
            if following is not None:
                standstill.note(page)
            piece, is_last = self._take(page, at, is_last=following is None)
            yield piece
            request = None if is_last else following

    @property
    def turn(self) -> Turn:
        """Return what its pages wait for before they are decoded."""
        return self._ask.turn

    @property
    def position(self) -> datetime | None:
        """Return the greatest cursor read so far, UTC; None before the first record."""
        return self._density.position

    @property
    def upper(self) -> datetime | None:
        """Return where records are expected to end, UTC: the end, or the horizon of an open one."""
        return self._end if self._end is not None else self._horizon

    @property
    def span(self) -> timedelta:
        """Return the time that was read so far, at least a second."""
        return self._density.span

    @property
    def pages_left(self) -> float:
        """Return how many pages the rest of the window holds if its records lie on like this."""
        upper = self.upper
        return 0.0 if self.is_at_end or upper is None else self._density.pages_until(upper)

    @property
    def is_splittable(self) -> bool:
        """Return whether a part of the window may be read apart: not once its order is broken."""
        return not self.origin.is_disordered

    def again(self) -> "Walk | None":
        """Return a walk that reads the whole window of the plan in one piece, where one must."""
        if not self.origin.is_disordered or self.origin.is_read_whole:
            return None
        return Walk(self._ask, self.slice, self.origin.window, origin=self.origin)

    def split(self, at: datetime) -> "Walk | None":
        """Give up what lies from `at` (UTC, a whole second) on; None where that is too late.

                 position            at            end
        ─────────────┼────────────────┼──────────────┼──────▶ UTC
        this walk ───[════════════════)
        the new one ──────────────────[══════════════)
        """
        with self._lock:
            lower = self._density.position
            if self.is_at_end or lower is None or not lower < at or not self.is_splittable:
                return None
            if self._end is not None and at >= self._end:
                return None
            rest = Window(at, self._end)
            self._end = at
            self._is_whole = False
            return Walk(self._ask, self.slice, rest, horizon=self._horizon, origin=self.origin)

    def _restart(self) -> datetime | None:
        """Return where to ask on from, without the cursor that was lost: the window's start, UTC.

        Or its position, before which nothing is left while pages come in order.
        """
        with self._lock:
            self._follows = None
            position = self._density.position
            if position is None or self.origin.is_disordered:
                return self._window.start
            self._is_whole = False
            return position

    def _first(self, start: datetime | None) -> Request:
        return first_request(
            self._ask.stream,
            self.slice,
            Window(start, self._window.end),
            base_url=self._ask.base_url,
            without=self._ask.left_out,
            fields=self._ask.fields,
        )

    def _take(self, page: Page, at: datetime, *, is_last: bool) -> tuple[Piece, bool]:
        with self._lock:
            if self._horizon is None:
                self._horizon = at - SETTLED
            before = self._density.position
            batch = self._before_end(page)
            if self._breaks_order(page):
                self.origin.is_disordered = True
            is_end_of_whole = is_last and self._is_whole
            if not (self.origin.is_disordered and self._is_whole):
                is_cut = self.origin.is_disordered or batch.num_rows < page.batch.num_rows
                is_last = is_last or is_cut
            share = self._share(page, batch, is_last=is_last)
            self._move(page, share=share)
            self.is_at_end, self.last_page = is_last, share
            self.origin.is_read_whole |= is_end_of_whole
            piece = Piece(
                slice=self.slice,
                page=page,
                batch=batch,
                read=self._claim(is_last=is_last, is_end_of_whole=is_end_of_whole),
                highest=self._highest(page, batch),
                at=at,
                suspect=self._suspect(page, before, is_last=is_last),
                origin=self.origin,
                is_end_of_whole=is_end_of_whole,
            )
            return piece, is_last

    def _breaks_order(self, page: Page) -> bool:
        """Return whether records of the page lie in an earlier second than some before them.

        Within a second nothing is cut, and claims are asked for again from its start on.
        """
        cursor, before = self._ask.stream.cursor, self._follows
        if cursor is None or page.lowest is None or page.highest is None:
            return False
        self._follows = page.highest if before is None else max(before, page.highest)
        if before is not None and page.lowest < before.replace(microsecond=0):
            return True
        return not page.is_ascending and not is_ascending_by_second(page.batch, cursor.column)

    def _suspect(self, page: Page, before: datetime | None, *, is_last: bool) -> Window | None:
        """Return where records lie that broke, from the last sound one before them (UTC) on.

        A broken record need not tell its own cursor, and may be the last of its page, or one of a
        page of none else: so the next page with records tells where it ends. Out of order it may
        lie anywhere.
        """
        is_over = self._is_suspect and not page.quarantined and page.lowest is not None
        if self._ask.stream.cursor is None or not (page.quarantined or is_over):
            return None
        if not self._is_suspect:
            start = self._window.start if before is None else before.replace(microsecond=0)
            self._is_suspect, self._suspect_from = True, start
        self._is_suspect = not is_over
        if self.origin.is_disordered:
            return Window(self._window.start, self.upper)
        until = page.lowest if is_over else self._density.position
        if until is None or (is_last and not is_over):
            return Window(self._suspect_from, self.upper)
        return Window(self._suspect_from, until.replace(microsecond=0) + SECOND)

    def _before_end(self, page: Page) -> pa.RecordBatch:
        """Return the rows before the end, which another worker may have moved meanwhile."""
        cursor = self._ask.stream.cursor
        if cursor is None or self._end is None or page.highest is None or page.highest < self._end:
            return page.batch
        return page.batch.filter(pc.less(page.batch[cursor.column], moment(self._end)))

    def _share(self, page: Page, batch: pa.RecordBatch, *, is_last: bool) -> float:
        """Return how full a page is; the window's last one with rows of its own."""
        source = self._ask.stream.source
        size = source.page_size if isinstance(source, Collection) else None
        if not is_last:
            is_cut = size is not None and self._ask.page_size.is_smaller
            return min(1.0, page.records / size) if is_cut and size else 1.0
        return batch.num_rows / max(page.batch.num_rows, size or 1)

    def _move(self, page: Page, *, share: float) -> None:
        self.requests += 1
        self.pages += share
        before = self._density.position
        self._is_in_order &= page.is_ascending
        if before is not None and page.lowest is not None:
            self._is_in_order &= page.lowest >= before
        self._density.note(page.lowest, page.highest, pages=share)

    def _claim(self, *, is_last: bool, is_end_of_whole: bool) -> Window | None:
        """Return what the pages so far have completed; nothing before the end if out of order."""
        if self._ask.stream.cursor is None or self._horizon is None:
            return None
        if self.origin.is_disordered:
            self._claimed = self._window.start
            if not is_end_of_whole:
                return None
        end = self._end if is_last else self._density.position
        if not is_last and (end is None or not self._is_in_order):
            return None
        claim = Window(self._claimed, min(filter(None, (end, self._horizon))))
        if claim.is_empty:
            return None
        self._claimed = claim.end
        return claim

    def _highest(self, page: Page, batch: pa.RecordBatch) -> datetime | None:
        """Return the greatest cursor up to the horizon; what is dated later moves no mark."""
        cursor = self._ask.stream.cursor
        if cursor is None or page.highest is None or self._horizon is None or not batch.num_rows:
            return None
        if batch.num_rows == page.batch.num_rows and page.highest <= self._horizon:
            return page.highest
        settled = batch.filter(pc.less_equal(batch[cursor.column], moment(self._horizon)))
        span = span_of(settled, cursor.column)
        return None if span is None else span[1]
