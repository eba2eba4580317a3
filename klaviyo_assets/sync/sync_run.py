"""One sync of one stream: pages are read and written to the lake, commit by commit."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import monotonic
from typing import Protocol

import pyarrow as pa

from klaviyo_assets.decode.decoder import DecodedPage
from klaviyo_assets.errors import (
    KlaviyoAssetsError,
    LakeConflictError,
    QuarantineError,
    ShrinkError,
)
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import LakeTable
from klaviyo_assets.lake.write.id_scan import IdScanSession
from klaviyo_assets.lake.write.session import CommitReceipt, WriteSession
from klaviyo_assets.lake.write.soft_deletes import DeletionScan, ShrinkGuard
from klaviyo_assets.lake.write.table_writer import Rebase
from klaviyo_assets.model.stream import Slice
from klaviyo_assets.model.sync_progress import (
    QUARANTINE_RETRIES_KEY,
    SyncProgress,
    cursor_from_json,
    retries_from_json,
    slices_from_json,
)
from klaviyo_assets.sync.memory import trim_heap
from klaviyo_assets.sync.window_reader import CURSOR_SAFETY_MARGIN, PageResult


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """How the lake is to be written: which account's, replaced or merged, with history or not."""

    account: str
    is_replacement: bool
    is_id_scan: bool = False
    """Whether it is ids alone that come, and only marks are written."""
    should_mark_deleted: bool = False
    """Whether rows that a replacement or a sweep does not bring stay, and are marked."""
    scanned_from: datetime | None = None
    """Where a replacement begins to read, by the cursor; None: at the beginning."""
    cleared_columns: frozenset[str] = frozenset()
    """Columns that rows which a replacement keeps lose: older than a setting of privacy."""
    should_keep_history: bool
    should_advance_cursor: bool
    started_at: datetime
    planned_version: int | None
    """The table's version that was planned with; None where there was no table."""
    shrink_limit: float = 1.0
    """Share of the rows that a complete read may drop or mark without being confirmed."""
    is_shrink_confirmed: bool = False
    """Whether somebody has confirmed that it may be more, once a second read says so too."""
    tunes_process: bool = True
    """Whether free memory is given back to the system while rows come in."""
    warn: Callable[[str], None]
    """Takes a sentence for the operator."""
    cancel: Callable[[], None]
    """Wakes every request that is waiting, so that a cancelled run ends at once."""

    @property
    def is_all_or_nothing(self) -> bool:
        """Return whether only what was read to its end is written, in one commit."""
        return self.is_replacement or self.is_id_scan

    def shrink_guard(self, *, is_second_read: bool) -> ShrinkGuard | None:
        """Return what a commit must not exceed, by the first or the second complete read."""
        if not self.is_all_or_nothing or (is_second_read and self.is_shrink_confirmed):
            return None
        return ShrinkGuard(
            limit=self.shrink_limit, scanned_from=self.scanned_from, allows_few_rows=is_second_read
        )


def open_session(
    table: LakeTable, lake: Lake, options: WriteOptions
) -> WriteSession | IdScanSession:
    """Return what the rows go into, to be closed.

    Raises:
        KlaviyoAssetsError: as `Lake.open_session` says.
    """
    if options.is_id_scan:
        return lake.open_id_scan(table, account=options.account)
    session = lake.open_session(
        table,
        account=options.account,
        mode="replace" if options.is_replacement else "merge",
        with_history=options.should_keep_history,
        started_at=options.started_at,
    )
    if options.is_replacement and options.planned_version is not None:
        # What others committed since then, the commit puts beside what comes in.
        session.table_writer.start_from_version(options.planned_version)
    return session


COMMIT_BYTES = 192 * 1024 * 1024
"""Rows read before a commit, in Arrow bytes: a hundred pages of events, two seconds of reading.

The session holds fewer in memory. Readers wait while files go to the disk, and each commit adds a
small file to a table without partitions, which is merged again and again. MiB at the peak for
200,000 and 1,000,000 events, and records a second (profiles, and events at 150 ms a page), medians
of three to six runs in turn, the speeds by that of the start beside each:

    128 MiB    337    367 (+ 9 %)    13,200    40,700
    192 MiB    335    361 (+ 8 %)
    256 MiB    323    361 (+ 12 %)   14,600    43,100

50,000 profiles and 200,000 events take as many commits with 192 MiB as with 256.
"""

HEAP_TRIM_BYTES = 16 * 1024 * 1024
"""Rows handed to the lake, in Arrow bytes, after which free memory goes back to the system.

As much as the lake stages at a time: then most of it has just been written and is free.
"""

COMMIT_SECONDS = 60.0
"""Longest time between commits: what a kill may cost."""

MAX_QUARANTINE_SHARE = 0.01
MAX_QUARANTINE_COUNT = 100
"""Share and number of records put aside that, where both are exceeded, fail a sync at its end.

A share alone, judged on the few records of an hour, would fail a stream for two of them.
"""


class PageSource(Protocol):
    """What brings the pieces: a pool of windows, or a fan-out over parent records."""

    @property
    def missing_parents(self) -> int:
        """Return how many parent records were gone when they were asked about, so far."""
        ...

    @property
    def last_pass_at(self) -> datetime | None:
        """Return when the last of several readings began, UTC; None where there is one."""
        ...

    @property
    def unanswered_parents(self) -> Mapping[str, int]:
        """Return how many parent records Klaviyo gave no answer about so far, by the reason."""
        ...

    def results(self) -> Iterator[PageResult | Slice]:
        """Yield pieces, and each slice once when it has been read to its end."""
        ...

    def close(self) -> None:
        """Stop reading."""
        ...


@dataclass(slots=True)
class SyncStats:
    """What one sync has read and written so far."""

    records_read: int = 0
    rows_written: int = 0
    rows_total: int = 0
    rows_marked_deleted: int = 0
    """Rows that were marked as deleted."""
    rows_lost: int = 0
    """Rows of damaged files, of which nobody can tell whether they would have stayed."""
    records_quarantined: int = 0
    rows_rebased: int = 0
    """Rows that other runs committed while everything was read."""
    quarantine_reasons: Counter[str] = field(default_factory=Counter[str])
    """Why records were put aside, and how many for each reason."""
    commits: int = 0
    is_out_of_order: bool = False
    """Whether pages came out of the order that was asked for."""
    notices: set[str] = field(default_factory=set[str])


class SyncRun:
    """A sync under way. Lazy: `run` reads and writes, one commit a step."""

    def __init__(
        self,
        *,
        table: LakeTable,
        start_reading: Callable[[], PageSource],
        options: WriteOptions,
        progress: SyncProgress,
        build_state: Callable[[SyncProgress], dict[str, object]],
    ) -> None:
        """Take the parts, and begin to read.

        `start_reading` begins a read of everything that is wanted, each time anew; `state` gives
        the JSON object that each commit carries.
        """
        self.table = table
        self.progress = deepcopy(progress)
        self.is_done = False
        """Whether everything was read and is committed: the receipt just given is the last."""
        self.version_before = options.planned_version
        self.stats = SyncStats()
        self._start_reading = start_reading
        self._options = options
        self._build_state = build_state
        self._initial_progress = progress
        self._source = start_reading()
        self._results = self._source.results()
        self._is_second_read = False
        self._prefetched_results: list[PageResult | Slice] = []
        self._read_error: KlaviyoAssetsError | None = None
        self._uncommitted_bytes = 0
        self._untrimmed_bytes = 0
        self._ended_slices: set[str] = set()
        self._first_responded_at: datetime | None = None

    @property
    def missing_parents(self) -> int:
        """Return how many parent records were gone when they were asked about, so far."""
        return self._source.missing_parents

    @property
    def unanswered_parents(self) -> Mapping[str, int]:
        """Return how many parent records Klaviyo gave no answer about so far, by the reason."""
        return self._source.unanswered_parents

    @property
    def has_pending_retries(self) -> bool:
        """Return whether later syncs ask again for what could not be stored."""
        is_swept = self._options.should_advance_cursor and self._options.is_replacement
        return is_swept or bool(self.progress.retries.entries)

    def fetch_first_page(self) -> None:
        """Wait for the first answer, so that a refusal shows before anything is written.

        Raises:
            KlaviyoAssetsError: as the client and the decoder say.
        """
        first = next(self._results, None)
        if first is not None:
            self._prefetched_results.append(first)

    def close(self) -> None:
        """Stop reading; what was committed stays."""
        self._source.close()
        self._options.cancel()

    def run(self, lake: Lake) -> Iterator[CommitReceipt]:
        """Read everything and write it; yield after each commit.

        What was read before a failure is committed first, but for a full refresh, which shows only
        whole. One that would take away much of the table is read a second time before it is
        believed. Closing the iterator stops the readers.

        Raises:
            KlaviyoAssetsError: what stopped the sync.
        """
        try:
            try:
                yield from self._write_once(lake)
            except ShrinkError as first:
                self._restart(first, lake)
                yield from self._write_second_read(lake)
        finally:
            self.close()

    def _write_once(self, lake: Lake) -> Iterator[CommitReceipt]:
        with open_session(self.table, lake, self._options) as session:
            self._refuse_concurrent_commit(lake)
            yield from self._write_results(session)

    def _write_second_read(self, lake: Lake) -> Iterator[CommitReceipt]:
        """Write what a second read brings, as far as it is believed.

        Raises:
            ShrinkError: it says the same as the first, and nobody has confirmed it.
        """
        try:
            yield from self._write_once(lake)
        except ShrinkError as second:
            second.message = describe_shrink(second, self._options)
            raise

    def _restart(self, shrink_error: ShrinkError, lake: Lake) -> None:
        """Forget what was read, and read everything once more.

        An id scan is planned by the ids of a version: from now on by that which there is now.
        """
        if not self._options.is_replacement:
            now = lake.read_table_state(self.table.name)
            self._options = replace(
                self._options, planned_version=None if now is None else now.version
            )
        self._options.warn(
            f"{self.table.name}: only {shrink_error.rows_now:,} of {shrink_error.rows_before:,} "
            "rows are still "
            "there by what was read; it is read a second time before that is believed"
        )
        self._source.close()
        self.progress, self.stats = deepcopy(self._initial_progress), SyncStats()
        self._prefetched_results, self._ended_slices, self._first_responded_at = [], set(), None
        self._uncommitted_bytes = self._untrimmed_bytes = 0
        self._is_second_read = True
        self._source = self._start_reading()
        self._results = self._source.results()

    def _refuse_concurrent_commit(self, lake: Lake) -> None:
        """Refuse to write by a plan that another run has overtaken.

        A replacement of what there was is no such plan: it goes on from what others committed.
        """
        if self._options.is_replacement and self._options.planned_version is not None:
            return
        now = lake.read_table_state(self.table.name)
        if (now.version if now is not None else None) != self._options.planned_version:
            raise LakeConflictError(
                "another run committed to this table meanwhile; nothing of this run was written, "
                "run it again to go on from there",
                stream=self.table.name,
            )

    def _write_results(self, session: WriteSession | IdScanSession) -> Iterator[CommitReceipt]:
        """Write what the readers bring; their failure comes after a commit of what came before it.

        A failure of the session itself is raised as it is, without another commit: rows that it
        may have dropped are claimed by the progress already.
        """
        due = monotonic() + COMMIT_SECONDS
        while (item := self._next_result()) is not None:
            self._process_result(session, item)
            is_due = self._uncommitted_bytes >= COMMIT_BYTES or monotonic() >= due
            if is_due and not self._options.is_all_or_nothing:
                yield self._commit(session, is_last=False)
                due = monotonic() + COMMIT_SECONDS
        if self._read_error is None:
            broken = self._quarantine_error()
            if (
                broken is not None
                and self._options.is_all_or_nothing
                and self._options.planned_version is not None
            ):
                # What the table holds is worth more than a replacement with holes.
                raise broken
            receipt = self._commit(session)
            self.is_done = broken is None
            yield receipt
            if broken is not None:
                raise broken
            return
        if not self._options.is_all_or_nothing and self.stats.records_read:
            yield self._commit(session)
        raise self._read_error

    def _next_result(self) -> PageResult | Slice | None:
        """Return what the readers bring next; None at their end, or once one of them has failed."""
        if self._prefetched_results:
            return self._prefetched_results.pop(0)
        try:
            return next(self._results, None)
        except KlaviyoAssetsError as failure:
            self._read_error = failure
            return None

    def _process_result(
        self, session: WriteSession | IdScanSession, result: PageResult | Slice
    ) -> None:
        if isinstance(result, Slice):
            self._ended_slices.add(result.name)
            if self._options.should_advance_cursor:
                self.progress.finish_slice(result.name)
            return
        self._first_responded_at = (
            result.responded_at
            if self._first_responded_at is None
            else min(self._first_responded_at, result.responded_at)
        )
        self._count_page(session, result.page)
        batch: pa.RecordBatch = result.batch
        if batch.num_rows:
            session.add(batch)
            size = batch.get_total_buffer_size()
            self._uncommitted_bytes += size
            self._untrimmed_bytes += size
        if self._options.tunes_process and self._untrimmed_bytes >= HEAP_TRIM_BYTES:
            trim_heap()
            self._untrimmed_bytes = 0
        read, unread = result.coverage_change()
        self.stats.is_out_of_order |= unread is not None
        if self._options.should_advance_cursor:
            self.progress.record_window(result.slice.name, read, result.max_cursor, unread)
            if result.quarantine_window is not None:
                again, now = self.progress.retries, self._options.started_at
                again.add(result.slice.name, result.quarantine_window, now)

    def _count_page(self, session: WriteSession | IdScanSession, page: DecodedPage) -> None:
        self.stats.records_read += page.record_count
        self.stats.notices.update(page.notices)
        if not page.quarantined:
            return
        self.stats.records_quarantined += len(page.quarantined)
        self.stats.quarantine_reasons.update(each.reason for each in page.quarantined)
        session.quarantine_records((each.reason, each.record) for each in page.quarantined)

    def _quarantine_error(self) -> QuarantineError | None:
        """Return the failure of a sync that has put many records aside, of many and by share."""
        put_aside, read = self.stats.records_quarantined, self.stats.records_read
        if put_aside <= max(MAX_QUARANTINE_COUNT, read * MAX_QUARANTINE_SHARE):
            return None
        return QuarantineError(
            f"{put_aside} of {read} records cannot be stored, more than {MAX_QUARANTINE_COUNT} and "
            f"more than 1 % ({'; '.join(sorted(self.stats.quarantine_reasons))}); they lie in "
            f"lake/_quarantine/{self.table.name} with the reason, and later runs ask for them "
            "again. Tell the developers of klaviyo_assets, or Klaviyo's support, if it stays so",
            stream=self.table.name,
        )

    def _commit(
        self, session: WriteSession | IdScanSession, *, is_last: bool = True
    ) -> CommitReceipt:
        state, noticed = self._build_state(self.progress), self._deletion_scan()
        shrink_guard = self._options.shrink_guard(is_second_read=self._is_second_read)
        if isinstance(session, WriteSession):
            rebase = self._build_rebase() if self._options.is_replacement else None
            receipt = session.commit(state, noticed, rebase, is_last=is_last, guard=shrink_guard)
        else:
            receipt = session.commit(state, noticed, shrink_guard)
        self._uncommitted_bytes = 0
        self.progress.metadata_cursor = self.progress.high_water_mark
        self.stats.commits += 1
        self.stats.rows_written += receipt.rows_written
        self.stats.rows_marked_deleted += receipt.rows_marked_deleted
        self.stats.rows_lost += receipt.rows_lost
        self.stats.rows_rebased += receipt.rows_rebased
        self.stats.rows_total = receipt.rows_total
        return receipt

    def _deletion_scan(self) -> DeletionScan | None:
        """Return what a whole read says of rows that it did not bring; None where they leave.

        One that put records aside, or left a slice out, has not seen all there is: it marks none.
        """
        if not self._options.should_mark_deleted:
            return None
        is_whole = (
            self._ended_slices.issuperset(self.progress.active_slices)
            and not self.stats.records_quarantined
        )
        at, options = self._first_responded_at if is_whole else None, self._options
        return DeletionScan(
            deleted_at=at,
            scanned_from=options.scanned_from,
            cleared_columns=options.cleared_columns,
        )

    def _build_rebase(self) -> Rebase:
        """Return how to go on from what others committed while everything was read.

        What they read before the last round began, and it did not bring, is gone; what they read
        later, it may have missed.
        """
        began = self._first_responded_at or self._options.started_at
        last = self._source.last_pass_at
        since = began if last is None else max(began, last - CURSOR_SAFETY_MARGIN)
        return Rebase(
            synced_since=since,
            merge_state=self._merge_other_state,
            cleared_columns=self._options.cleared_columns,
        )

    def _merge_other_state(self, other_state: Mapping[str, object]) -> dict[str, object]:
        """Return the state of a table that holds what was read here and what others read since.

        Where columns of their rows are emptied for a setting of privacy, what they read is asked
        for again: their state does not count.
        """
        if not self._options.cleared_columns:
            self.progress.merge(
                slices_from_json(other_state),
                cursor_from_json(other_state),
                retries_from_json(other_state.get(QUARANTINE_RETRIES_KEY)),
            )
        return self._build_state(self.progress)


def describe_shrink(error: ShrinkError, options: WriteOptions) -> str:
    """Return what the operator is told of a read that was not believed, and how to confirm it."""
    missing = error.rows_before - error.rows_now
    done = "mark {} of {} rows as deleted" if options.should_mark_deleted else "drop {} of {} rows"
    return (
        f"this read would {done.format(f'{missing:,}', f'{error.rows_before:,}')} (rows before: "
        f"{error.rows_before:,}, rows now: {error.rows_now:,}), more than the "
        f"{options.shrink_limit:.0%} of KLAVIYO_SHRINK_LIMIT, and a second read of everything said "
        "the same. Nothing was dropped or marked. If it is true (many records were deleted at "
        "Klaviyo, or a setting such as KLAVIYO_EVENT_METRIC_IDS leaves them out), launch it once "
        "more with confirm_shrink: true in its run config; if not, run it again later"
    )
