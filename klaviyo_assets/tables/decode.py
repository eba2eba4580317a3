"""Page bytes to Arrow record batches: the door of this room.

A page that holds what was declared is decoded at once (`structs`). One that holds more, or other
types, is read record by record (`survey`), and the decoder learns what was new: the next pages
with it are fast again. What belongs here: choosing between the two, and what a page tells.
"""

from dataclasses import dataclass, replace
from datetime import datetime

import msgspec
import pyarrow as pa

from klaviyo_assets.errors import BrokenBodyError, KlaviyoAssetsError, MalformedPageError
from klaviyo_assets.model.privacy import Privacy
from klaviyo_assets.model.stream import WHOLE, Collection, Slice, Stream
from klaviyo_assets.tables.absence import missing_attributes
from klaviyo_assets.tables.body import mended, opened
from klaviyo_assets.tables.columns import Building
from klaviyo_assets.tables.cursor import rows_with_cursor, span_of
from klaviyo_assets.tables.envelope import refuse_no_page
from klaviyo_assets.tables.findings import Findings
from klaviyo_assets.tables.gathered import Gathered, Quarantined
from klaviyo_assets.tables.layout import layout_of
from klaviyo_assets.tables.salvage import salvaged
from klaviyo_assets.tables.schema import EXTRA
from klaviyo_assets.tables.screen import Screen
from klaviyo_assets.tables.structs import FastPath, is_learnable
from klaviyo_assets.tables.survey import surveyed
from klaviyo_assets.tables.tree import Path, taught

__all__ = ["Page", "PageDecoder", "Quarantined"]

LEARNED_AT_MOST = 500
"""Fields that are not declared and yet decoded fast; a page with more takes the slow path."""


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One answer, decoded.

    `records` counts all that came; those not in `batch` are in `quarantined`. `lowest` and
    `highest` are of the cursor column, UTC, None without rows or cursor; `is_ascending` tells
    whether it never goes back within the page. `notices` name fields and types, never values.
    `is_fast` tells that the page held nothing new and was decoded at once.
    """

    batch: pa.RecordBatch
    next_link: str | None
    records: int
    lowest: datetime | None
    highest: datetime | None
    is_ascending: bool
    quarantined: tuple[Quarantined, ...]
    notices: tuple[str, ...]
    is_fast: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lessons:
    """What real pages held beyond the declaration, and the fast path that knows it."""

    extras: frozenset[Path] = frozenset()
    loose: frozenset[Path] = frozenset()
    fast: FastPath


class PageDecoder:
    """Decodes the pages of one stream; may be shared by threads.

    `schema` is that of every batch: the stream's, whatever is excluded.
    """

    def __init__(self, stream: Stream, *, privacy: Privacy | None = None) -> None:
        """Make the structs of the stream's columns.

        What `privacy` names is neither in the batches nor in `extra` nor in quarantine as it came;
        excluded columns are NULL.

        Raises:
            ValueError: the stream's columns contradict each other, or the cursor is excluded.
        """
        privacy = privacy or Privacy()
        self._layout = layout_of(stream, exclude=privacy.excluded - {EXTRA})
        self._screen = Screen(stream, privacy, self._layout.root)
        self._lessons = _Lessons(
            fast=FastPath(self._layout.root, sorted(self._layout.relationships))
        )
        self._passed_on = frozenset(
            {EXTRA, *(each.name for each in stream.columns if each.type == "json")}
        )
        self._is_first = True
        self._is_paged = isinstance(stream.source, Collection)

    @property
    def schema(self) -> pa.Schema:
        """Return the schema of every batch."""
        return self._screen.schema

    def decode(self, body: bytes, *, synced_at: datetime, slice_: Slice = WHOLE) -> Page:
        """Return a page as a record batch, and what the sync wants to know of it.

        Args:
            body: the answer, uncompressed; `data` may be a list or a single record.
            synced_at: when it was read, UTC.
            slice_: the slice it was asked for, for the constants that the slice brings.

        Raises:
            BrokenBodyError: not JSON, not UTF-8, no JSON object, or one that is no page (without
                `data` or `links.self`, or with `errors`); asking again may help.
            MalformedPageError: nested deeper than can be read.
        """
        text = opened(body, self._layout.stream)
        try:
            return self._page(text, synced_at, slice_)
        except _UNREADABLE as problem:
            whole, changed = mended(text)
            if not changed:
                return self._salvaged(whole, problem, synced_at, slice_)
        try:
            page = self._page(whole, synced_at, slice_)
        except _UNREADABLE as problem:
            page = self._salvaged(whole, problem, synced_at, slice_)
        return replace(page, notices=(*page.notices, *changed))

    def _salvaged(
        self, body: bytes, problem: Exception, synced_at: datetime, slice_: Slice
    ) -> Page:
        """Return a page with the records that cannot be read in quarantine."""
        found = salvaged(body)
        if found is None:
            raise self._refusal(problem) from None
        try:
            page = self._page(found.body, synced_at, slice_)
        except _UNREADABLE:
            raise self._refusal(problem) from None
        broken = tuple(map(self._screen.quarantined, found.broken))
        return replace(
            page,
            records=page.records + len(broken),
            quarantined=(*page.quarantined, *broken),
        )

    def _refusal(self, problem: Exception) -> KlaviyoAssetsError:
        stream = self._layout.stream
        match problem:
            case RecursionError():
                return MalformedPageError("the answer is nested too deep to read", stream=stream)
            case UnicodeDecodeError():
                return BrokenBodyError("the answer is not UTF-8", stream=stream)
            case _:
                # msgspec says what it expected and at which byte, not what stands there.
                return BrokenBodyError(f"the answer is not JSON: {problem}", stream=stream)

    def _page(self, body: bytes, synced_at: datetime, slice_: Slice) -> Page:
        layout = self._layout
        gathered = self._gathered(body)
        self._refuse_no_page(gathered)
        batch = Building(layout, gathered, slice_).batch(synced_at)
        cursor = layout.cursor
        if cursor is not None and batch[cursor].null_count:
            if gathered.is_fast:
                gathered = surveyed(body, layout.root, layout.stream)
                batch = Building(layout, gathered, slice_).batch(synced_at)
            batch = rows_with_cursor(batch, cursor, layout=layout, gathered=gathered)
        if not body.isascii():
            self._check_text(batch)
        if self._is_first and batch.num_rows:
            self._look_for_absences(body, gathered.findings)
        lowest, highest, is_ascending = (cursor and span_of(batch, cursor)) or (None, None, True)
        return Page(
            batch=self._screen.screened(batch),
            next_link=gathered.links.next,
            records=gathered.records,
            lowest=lowest,
            highest=highest,
            is_ascending=is_ascending,
            quarantined=tuple(map(self._screen.quarantined, gathered.quarantined)),
            notices=gathered.findings.notices(),
            is_fast=gathered.is_fast,
        )

    def _gathered(self, body: bytes) -> Gathered:
        try:
            return self._lessons.fast.gathered(body)
        except msgspec.ValidationError:
            gathered = surveyed(body, self._layout.root, self._layout.stream)
        self._learn(gathered.findings)
        return gathered

    def _refuse_no_page(self, gathered: Gathered) -> None:
        """Refuse what looks like a page and is none; of a single record the links do not matter."""
        stream = self._layout.stream
        refuse_no_page(gathered.links if self._is_paged else None, gathered.errors, stream=stream)
        if self._is_paged and not gathered.is_list:
            text = "the answer is no page: its `data` is one record, not a list of them"
            raise BrokenBodyError(text, stream=stream)

    def _learn(self, findings: Findings) -> None:
        """Know from now on what was found; a new value each time, for other threads' sake."""
        known = self._lessons
        extras = known.extras | set(filter(is_learnable, findings.new_fields))
        loose = known.loose | findings.loose_fields
        if (extras, loose) == (known.extras, known.loose) or len(extras) > LEARNED_AT_MOST:
            return
        tree = taught(self._layout.root, extras=extras, loose=loose)
        self._lessons = _Lessons(
            extras=extras, loose=loose, fast=FastPath(tree, sorted(self._layout.relationships))
        )

    def _look_for_absences(self, body: bytes, findings: Findings) -> None:
        """Name the declared attributes that the first page with rows does not have."""
        self._is_first = False
        for name in missing_attributes(body, self._layout):
            findings.note(name, "declared, but no record of the page has it")

    def _check_text(self, batch: pa.RecordBatch) -> None:
        """Raise UnicodeDecodeError where bytes that were only passed on are not UTF-8."""
        for name in self._passed_on.intersection(batch.schema.names):
            try:
                batch[name].validate(full=True)
            except pa.ArrowInvalid:
                raise UnicodeDecodeError("utf-8", b"", 0, 0, "not UTF-8") from None
