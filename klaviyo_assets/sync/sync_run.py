"""One sync of one stream: it is planned and started, and its pages are written commit by commit.

`start_sync` decides what to read and how to write it, starts the readers, and returns a `SyncRun`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from time import monotonic
from typing import cast

import pyarrow as pa

from klaviyo_assets.api.rate_limiter import RateLimiter
from klaviyo_assets.arrow_buffers import TIMESTAMP_UTC, ArrowArray
from klaviyo_assets.decode.decoder import DecodedPage, PageDecoder
from klaviyo_assets.decode.schema import arrow_schema
from klaviyo_assets.errors import (
    CorruptFileError,
    KlaviyoAssetsError,
    LakeConflictError,
    MissingTableError,
    QuarantineError,
    ShrinkError,
)
from klaviyo_assets.lake.delta.state import TableState
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import HISTORY_SUFFIX, build_table
from klaviyo_assets.lake.write.session import CommitReceipt, IdScanSession, WriteSession
from klaviyo_assets.lake.write.soft_deletes import ColumnValues, DeletionScan, ShrinkGuard
from klaviyo_assets.lake.write.table_writer import Rebase
from klaviyo_assets.model.privacy import preview_columns
from klaviyo_assets.model.selection import keeps_changes
from klaviyo_assets.model.stream import WHOLE_COLLECTION, Children, Detail, Slice, Stream
from klaviyo_assets.model.window import (
    QUARANTINE_RETRIES_KEY,
    SliceProgress,
    Window,
    cursor_from_json,
    progress_to_json,
    retries_from_json,
    slices_from_json,
)
from klaviyo_assets.seams import reach_crash_point
from klaviyo_assets.sync.context import (
    HISTORY_CLAIMS_KEY,
    ROW_CLAIMS_KEY,
    PrivacyGuard,
    SyncContext,
    build_privacy_guard,
    build_request_context,
)
from klaviyo_assets.sync.details import (
    expand_children,
    settle_parent_round,
    start_children_readers,
    start_fan_out,
)
from klaviyo_assets.sync.memory import trim_heap, tune_process
from klaviyo_assets.sync.plan import (
    FAN_OUT_SINCE_KEY,
    PARENTS_READ_KEY,
    SHAPE_KEY,
    ParentRound,
    PreviousSync,
    SyncOptions,
    SyncPlan,
    id_scan_stream,
    parent_column,
    plan_sync,
)
from klaviyo_assets.sync.window_reader import (
    CURSOR_SAFETY_MARGIN,
    PageResult,
    PageSource,
    RequestContext,
    WindowReader,
)
from klaviyo_assets.sync.workers import TwoPassReader, WorkerPool, count_workers

COMMIT_BYTES = 192 * 1024 * 1024
"""Arrow bytes of rows read before a commit: a hundred pages of events, two seconds of reading.

The session holds less than that in memory. More commits cost more: readers wait while files are
written, and each commit adds a small file to a table without partitions, which is then merged
repeatedly. With 128 MiB, profiles at 150 ms a page came a tenth slower than with 256 MiB, events a
twentieth; 192 MiB take as many commits as 256 for 50,000 profiles and 200,000 events.
"""

HEAP_TRIM_BYTES = 16 * 1024 * 1024
"""Arrow bytes of rows passed to the lake between two returns of free memory to the system.

It equals what the lake stages at a time: at that point most of it has been written and is free.
"""

COMMIT_SECONDS = 60.0
"""Longest time between commits, so the most reading that a killed run can lose."""

PREVIEW_ROWS = 5

MAX_QUARANTINE_SHARE = 0.01
MAX_QUARANTINE_COUNT = 100
"""A sync fails at its end if its quarantined records exceed both this share and this number.

With the share alone, two bad records among the few of an hour would fail a stream.
"""


@dataclass(slots=True)
class SyncStats:
    """Counts of what one sync has read and written so far."""

    records_read: int = 0
    rows_written: int = 0
    rows_total: int = 0
    rows_marked_deleted: int = 0
    rows_lost: int = 0
    """Rows of damaged files: whether the sync would have kept them is unknown."""
    records_quarantined: int = 0
    rows_rebased: int = 0
    """Rows that other runs committed during this sync, and that its replacement keeps."""
    versions_written: int = 0
    quarantine_reasons: Counter[str] = field(default_factory=Counter[str])
    """The number of quarantined records by reason."""
    commits: int = 0
    is_out_of_order: bool = False
    """Whether Klaviyo sent records out of the requested order."""
    notices: set[str] = field(default_factory=set[str])


class SyncRun:
    """A running sync of one stream. `run` is lazy: each step reads, writes and commits once."""

    def __init__(
        self,
        stream: Stream,
        plan: SyncPlan,
        *,
        context: SyncContext,
        privacy_guard: PrivacyGuard,
        start_reading: Callable[[], PageSource],
    ) -> None:
        """Start reading; each call of `start_reading` starts readers from the beginning."""
        renews = plan.options.renews_synced_at
        self.table = build_table(stream, arrow_schema(stream), renews_synced_at=renews)
        self.progress = plan.copy_progress()
        self.is_done = False
        """Whether everything was read and committed: the receipt just yielded is the last."""
        self.is_part = False
        """Whether the receipt just yielded is of a part of a replacement: it moves no cursor."""
        self.version_before = plan.planned_version
        self.stats = SyncStats()
        self.preview: list[dict[str, object]] = []
        """A few of the first rows, with those columns that may be shown outside the lake."""
        self._source = start_reading()
        self._stream, self._plan, self._context = stream, plan, context
        self._advances_cursor = plan.should_advance_cursor
        self._privacy_guard = privacy_guard
        self._start_reading = start_reading
        self._results = self._source.results()
        self._is_second_read = False
        self._prefetched_results: list[PageResult | Slice] = []
        self._read_error: KlaviyoAssetsError | None = None
        self._uncommitted_bytes = 0
        self._untrimmed_bytes = 0
        self._ended_slices: set[str] = set(plan.parents_read)
        self._quarantined_slices: set[str] = set()
        self._round_since = None if plan.parent_round is None else plan.parent_round.since
        """When the read began of which a part is committed, by its first response (UTC)."""
        self._parents_committed = len(self._ended_slices)
        self._first_responded_at: datetime | None = None

    @property
    def missing_parents(self) -> int:
        """Return how many parent records Klaviyo no longer had when they were requested."""
        return self._source.missing_parents

    @property
    def unanswered_parents(self) -> Mapping[str, int]:
        """Return how many parent records could not be fetched, by reason."""
        return self._source.unanswered_parents

    @property
    def has_pending_retries(self) -> bool:
        """Return whether later syncs request the records again that could not be stored."""
        return self._plan.is_replacement or bool(self.progress.retries.entries)

    @property
    def full_read_reason(self) -> str:
        """Return why everything is read although nobody asked for it; empty: it is not."""
        return self._plan.full_read_reason

    def fetch_first_page(self) -> None:
        """Wait for the first page, so that a refusal shows before anything is written.

        Raises:
            KlaviyoAssetsError: as the client and the decoder say.
        """
        first = next(self._results, None)
        if first is not None:
            self._prefetched_results.append(first)

    def close(self) -> None:
        """Stop reading; what was committed stays."""
        self._source.close()
        self._context.client.cancel()

    def run(self, lake: Lake) -> Iterator[CommitReceipt]:
        """Read everything and write it; yield the receipt of each commit.

        If reading fails, what was read so far is committed before the error is raised. A full
        refresh is the exception: it commits everything or nothing, unless it reads parent by
        parent: then the rows of whole parents are added before the end. One that would remove much
        of the table is read a second time before it is committed. Closing the iterator stops the
        readers.

        Raises:
            KlaviyoAssetsError: what stopped the sync.
        """
        try:
            try:
                yield from self._write_once(lake)
            except ShrinkError as first:
                self._restart(first, lake)
                yield from self._write_once(lake)
        except ShrinkError as second:
            second.message = self._describe_shrink(second)
            raise
        finally:
            self.close()

    def _write_once(self, lake: Lake) -> Iterator[CommitReceipt]:
        with self._open_session(lake) as session:
            self._refuse_concurrent_commit(lake)
            yield from self._write_results(session)

    def _open_session(self, lake: Lake) -> WriteSession | IdScanSession:
        plan, account = self._plan, self._context.account
        if plan.options.is_id_scan:
            return lake.open_id_scan(self.table, account=account)
        session = lake.open_session(
            self.table,
            account=account,
            mode="replace" if plan.is_replacement else "merge",
            with_history=plan.options.mode.should_keep_history,
            with_changes=keeps_changes(self._stream, self._context.settings),
            started_at=plan.started_at,
        )
        if plan.is_replacement and self.version_before is not None:
            # The commit also keeps what others have committed since that version.
            session.table_writer.start_from_version(self.version_before)
        return session

    def _restart(self, shrink_error: ShrinkError, lake: Lake) -> None:
        """Discard what was read, and start reading everything a second time.

        An id scan compares with the ids of one table version; the second read takes the current.
        """
        if not self._plan.is_replacement:
            now = lake.read_table_state(self.table.name)
            self.version_before = None if now is None else now.version
        self._context.warn(
            f"{self.table.name}: only {shrink_error.rows_now:,} of {shrink_error.rows_before:,} "
            "rows were found; everything is read a second time to confirm it"
        )
        self._source.close()
        self._plan.parent_round, self._plan.commits_by_parent = None, False
        self.progress, self.stats = self._plan.copy_progress(), SyncStats()
        self._prefetched_results, self._ended_slices, self._first_responded_at = [], set(), None
        self._quarantined_slices, self._round_since = set(), None
        self._uncommitted_bytes = self._untrimmed_bytes = 0
        self._is_second_read = True
        self._source = self._start_reading()
        self._results = self._source.results()

    def _refuse_concurrent_commit(self, lake: Lake) -> None:
        """Refuse to write if another run has committed since the plan was made.

        A replacement of an existing table is allowed: it keeps what others committed meanwhile.
        """
        if self._plan.is_replacement and self.version_before is not None:
            return
        now = lake.read_table_state(self.table.name)
        if (now.version if now is not None else None) != self.version_before:
            raise LakeConflictError(
                "another run committed to this table meanwhile; nothing of this run was written, "
                "run it again to go on from there",
                stream=self.table.name,
            )

    def _write_results(self, session: WriteSession | IdScanSession) -> Iterator[CommitReceipt]:
        """Write all pages; an error of the readers is raised after a last commit.

        An error of the session itself is raised without another commit: the progress already
        counts rows as read that the session may have dropped.
        """
        due = monotonic() + COMMIT_SECONDS
        while (item := self._next_result()) is not None:
            self._process_result(session, item)
            is_due = self._uncommitted_bytes >= COMMIT_BYTES or monotonic() >= due
            if is_due and not self._plan.is_all_or_nothing:
                yield self._commit(session, is_last=False)
                due = monotonic() + COMMIT_SECONDS
            elif is_due and (part := self._commit_part(session)) is not None:
                yield part
                due = monotonic() + COMMIT_SECONDS
        error = self._read_error or self._quarantine_error()
        # The old table is better than a replacement with records missing.
        is_first = self._read_error is None and self.version_before is None
        if error is not None and self._plan.is_all_or_nothing and not is_first:
            if (part := self._commit_part(session)) is not None:
                yield part
            raise error
        if self._read_error is None or self.stats.records_read:
            receipt = self._commit(session)
            self.is_done = error is None
            yield receipt
        if error is not None:
            raise error

    def _next_result(self) -> PageResult | Slice | None:
        """Return the next page or slice; None at the end, or once a reader has failed."""
        if self._prefetched_results:
            return self._prefetched_results.pop(0)
        try:
            return next(self._results, None)
        except KlaviyoAssetsError as failure:
            self._read_error = failure
            return None

    def _keep_preview(self, batch: pa.RecordBatch) -> None:
        missing = PREVIEW_ROWS - len(self.preview)
        named = preview_columns(self._stream) if missing else ()
        if shown := [each for each in named if each in batch.schema.names]:
            columns = cast("list[ArrowArray]", batch.select(shown).slice(0, missing).columns)
            rows = pa.RecordBatch.from_arrays([*map(_without_zone, columns)], names=shown)
            self.preview += rows.to_pylist()

    def _process_result(
        self, session: WriteSession | IdScanSession, result: PageResult | Slice
    ) -> None:
        if isinstance(result, Slice):
            self._ended_slices.add(result.name)
            if self._advances_cursor:
                self.progress.finish_slice(result.name)
            return
        first = self._first_responded_at
        self._first_responded_at = min(first or result.responded_at, result.responded_at)
        self._count_page(session, result.page)
        batch: pa.RecordBatch = result.batch
        if batch.num_rows:
            session.add(batch)
            self._keep_preview(batch)
            size = batch.get_total_buffer_size()
            self._uncommitted_bytes += size
            self._untrimmed_bytes += size
        if self._untrimmed_bytes >= HEAP_TRIM_BYTES:
            self._trim_heap()
        read, unread = result.coverage_change()
        self.stats.is_out_of_order |= unread is not None
        if result.page.quarantined:
            self._quarantined_slices.add(result.slice.name)
        if self._advances_cursor:
            name, retries = result.slice.name, self.progress.retries
            self.progress.record_window(name, read, result.max_cursor, unread)
            if result.quarantine_window is not None:
                retries.add(name, result.quarantine_window, self._plan.started_at)

    def _trim_heap(self) -> None:
        self._untrimmed_bytes = 0
        if self._context.settings.tune_process:
            trim_heap()

    def _count_page(self, session: WriteSession | IdScanSession, page: DecodedPage) -> None:
        self.stats.records_read += page.record_count
        self.stats.notices.update(page.notices)
        if not page.quarantined:
            return
        self.stats.records_quarantined += len(page.quarantined)
        self.stats.quarantine_reasons.update(each.reason for each in page.quarantined)
        session.quarantine_records((each.reason, each.record) for each in page.quarantined)

    def _quarantine_error(self) -> QuarantineError | None:
        """Return the error for too many quarantined records; None where there are few."""
        quarantined, read = self.stats.records_quarantined, self.stats.records_read
        if quarantined <= max(MAX_QUARANTINE_COUNT, read * MAX_QUARANTINE_SHARE):
            return None
        return QuarantineError(
            f"{quarantined} of {read} records cannot be stored, more than {MAX_QUARANTINE_COUNT} "
            f"and more than 1 % ({'; '.join(sorted(self.stats.quarantine_reasons))}); they lie in "
            f"lake/_quarantine/{self.table.name} with the reason, and later runs request them "
            "again. Tell the developers of klaviyo_assets, or Klaviyo's support, if it stays so",
            stream=self.table.name,
        )

    def _commit(
        self, session: WriteSession | IdScanSession, *, is_last: bool = True
    ) -> CommitReceipt:
        state, scan = self._build_state(), self._deletion_scan()
        if isinstance(session, WriteSession):
            rebase = self._build_rebase() if self._plan.is_replacement else None
            receipt = session.commit(
                state, scan, rebase, is_last=is_last, guard=self._shrink_guard()
            )
        else:
            receipt = session.commit(state, scan, self._shrink_guard())
        # A publication may follow, and would come on top of what a large commit has freed.
        if self._uncommitted_bytes >= HEAP_TRIM_BYTES:
            self._trim_heap()
        self.progress.metadata_cursor, self.is_part = self.progress.high_water_mark, False
        self._count_commit(receipt)
        return receipt

    def _commit_part(self, session: WriteSession | IdScanSession) -> CommitReceipt | None:
        """Commit the rows so far of a replacement that is read parent by parent.

        The state names the parents that were read to their end: a later run does not request them
        again. Nothing is removed or marked before the last commit. Return None where no further
        parent has been read. After another run's commit, or with damaged files, the last is all.
        """
        if not self._plan.commits_by_parent or not isinstance(session, WriteSession):
            return None
        read = self._parents_read()
        if len(read) <= self._parents_committed:
            return None
        began = [each for each in (self._round_since, self._first_responded_at) if each is not None]
        parent_round = ParentRound(
            started_at=self._plan.round_started_at, since=min(began), slices=read
        )
        before = self._plan.previous_state
        state = {key: before[key] for key in before.keys() - {ROW_CLAIMS_KEY, HISTORY_CLAIMS_KEY}}
        state |= {PARENTS_READ_KEY: parent_round.to_json(), **self._privacy_guard.claims}
        try:
            receipt = session.commit_part(state)
        except (LakeConflictError, CorruptFileError):
            self._plan.commits_by_parent = False
            return None
        self._round_since, self._parents_committed = parent_round.since, len(read)
        self._source.committed_slices = read.keys()
        self.is_part = True
        self._count_commit(receipt)
        return receipt

    def _parents_read(self) -> dict[str, SliceProgress]:
        """Return the progress of the parents of which every record was read and can be stored."""
        whole = self._ended_slices - self._quarantined_slices - self._source.failed_slices
        return {name: self.progress.slices.get(name, SliceProgress()) for name in sorted(whole)}

    def _count_commit(self, receipt: CommitReceipt) -> None:
        self._uncommitted_bytes = 0
        self.stats.commits += 1
        self.stats.rows_written += receipt.rows_written
        self.stats.rows_marked_deleted += receipt.rows_marked_deleted
        self.stats.rows_lost += receipt.rows_lost
        self.stats.rows_rebased += receipt.rows_rebased
        self.stats.versions_written += receipt.versions_written
        self.stats.rows_total = receipt.rows_total

    def _build_state(self) -> dict[str, object]:
        """Return the state that a commit carries: what is read, and what the privacy settings hid.

        A sync of details has no cursor: until it ends, the state has when it began.
        """
        shape = {SHAPE_KEY: self._plan.shape} if self._plan.shape is not None else {}
        shared = {**shape, **self._plan.handed_on, **self._privacy_guard.claims}
        if not isinstance(self._stream.source, Detail):
            return {**progress_to_json(self.progress), **shared}
        began = (self._plan.reread_since or self._plan.started_at).isoformat()
        has_ended = WHOLE_COLLECTION.name in self.progress.finished_slices
        return {"cursor": None, FAN_OUT_SINCE_KEY: None if has_ended else began, **shared}

    def _shrink_guard(self) -> ShrinkGuard | None:
        """Return the limit for the rows that a commit may drop or mark; None: no limit."""
        is_confirmed = self._is_second_read and self._plan.options.is_shrink_confirmed
        if not self._plan.is_all_or_nothing or is_confirmed:
            return None
        return ShrinkGuard(
            limit=self._context.settings.shrink_limit,
            scanned_from=self._plan.progress.start,
            allows_few_rows=self._is_second_read,
        )

    @property
    def _should_mark_deleted(self) -> bool:
        """Return whether rows that the read does not find stay, marked as deleted."""
        return self._stream.has_soft_deletes and self._plan.is_all_or_nothing

    def _deletion_scan(self) -> DeletionScan | None:
        """Return how to mark rows that were not found as deleted; None where they are dropped.

        A read that quarantined records or skipped a slice has not seen everything: it marks none.
        """
        if not self._should_mark_deleted:
            return None
        is_whole = (
            self._ended_slices.issuperset(self.progress.active_slices)
            and not self.stats.records_quarantined
        )
        column, failed = parent_column(self._stream), self._source.failed_slices
        began = self._first_responded_at or self._round_since
        return DeletionScan(
            deleted_at=began if is_whole else None,
            scanned_from=self._plan.progress.start,
            scanned_values=self._plan.scanned_rows,
            unscanned_values=ColumnValues(column, frozenset(failed)) if column and failed else None,
            found_since=self._round_since,
            cleared_columns=self._privacy_guard.cleared_columns,
        )

    def _build_rebase(self) -> Rebase:
        """Return how to combine the replacement with what other runs committed meanwhile.

        A row that another run read before the last pass began, and that this pass did not find, is
        deleted at Klaviyo. A row read later than that stays: the pass may have missed it.
        """
        began, last = self._first_responded_at or self._plan.started_at, self._source.last_pass_at
        return Rebase(
            synced_since=began if last is None else max(began, last - CURSOR_SAFETY_MARGIN),
            merge_state=self._merge_other_state,
            cleared_columns=self._privacy_guard.cleared_columns,
        )

    def _merge_other_state(self, other_state: Mapping[str, object]) -> dict[str, object]:
        """Return the state for a table with the rows of this sync and those of other runs.

        Where a privacy setting empties columns of their rows, their state does not count, so that
        the next sync reads these records again.
        """
        if not self._privacy_guard.cleared_columns:
            self.progress.merge(
                slices_from_json(other_state),
                cursor_from_json(other_state),
                retries_from_json(other_state.get(QUARANTINE_RETRIES_KEY)),
            )
        return self._build_state()

    def _describe_shrink(self, error: ShrinkError) -> str:
        """Return the message for a read that would remove too much, with how to confirm it."""
        before, now = error.rows_before, error.rows_now
        change = (
            f"mark {before - now:,} of {before:,} rows as deleted"
            if self._should_mark_deleted
            else f"drop {before - now:,} of {before:,} rows"
        )
        return (
            f"this read would {change} (rows before: {before:,}, rows now: {now:,}), more than the "
            f"{self._context.settings.shrink_limit:.0%} of KLAVIYO_SHRINK_LIMIT, and a second read "
            "of everything said the same. Nothing was dropped or marked as deleted. If it is true "
            "(many records were deleted at Klaviyo, or a setting such as KLAVIYO_EVENT_METRIC_IDS "
            "leaves them out), launch it once more with confirm_shrink: true in its run config; if "
            "not, run it again later"
        )


def _without_zone(column: ArrowArray) -> ArrowArray:
    # For times with a zone Arrow imports pandas; all of ours are UTC.
    return column.view(pa.timestamp("us")) if column.type == TIMESTAMP_UTC else column


def start_sync(
    stream: Stream, options: SyncOptions, metadata_cursor: datetime | None, *, context: SyncContext
) -> SyncRun:
    """Return the sync, once its first page is there; nothing has been written.

    Raises:
        KlaviyoAssetsError: bad options, a lake that cannot be read, or a refusal of Klaviyo.
    """
    context.lake.prepare_for_sync(context.account)
    if context.settings.tune_process:
        tune_process()
    before = _load_previous_state(stream, options, context=context)
    chosen_parents = None
    if isinstance(stream.source, Children):
        stream, chosen_parents = expand_children(stream, context.lake, context.settings)
    previous = PreviousSync(
        metadata_cursor=metadata_cursor,
        lake_state=before.state if before else None,
        table_version=before.version if before else None,
    )
    plan = plan_sync(stream, options, previous, settings=context.settings, now=context.clock())
    plan.scanned_rows = chosen_parents or plan.scanned_rows
    for note in plan.warnings:
        context.warn(note)
    privacy_guard = build_privacy_guard(stream, context, is_replacement=plan.is_replacement)
    if plan.commits_by_parent or plan.parent_round is not None:
        settle_parent_round(plan, privacy_guard, context)
    request_context = _build_request_context(stream, options, privacy_guard, context=context)
    sync_run = SyncRun(
        stream,
        plan,
        context=context,
        privacy_guard=privacy_guard,
        start_reading=partial(_start_reading, request_context, plan, privacy_guard, context),
    )
    try:
        context.lake.load_duckdb()
        reach_crash_point("before awaiting the first page")
        sync_run.fetch_first_page()
    except BaseException:
        sync_run.close()
        raise
    return sync_run


def _load_previous_state(
    stream: Stream, options: SyncOptions, *, context: SyncContext
) -> TableState | None:
    """Return the table's state; a full refresh sets aside what cannot be read.

    It needs nothing of the old table or history, so a damaged one must not make it fail.

    Raises:
        MissingTableError: ids are to be scanned, and there is no table.
    """
    if not options.mode.is_full_refresh:
        state = context.lake.check_table_state(stream.name)
        if options.is_id_scan and state is None:
            raise MissingTableError(
                f"the table {stream.name} was never read, so no row of it can have been deleted; "
                f"materialize klaviyo/{stream.name} first"
            )
        return state
    if options.mode.should_keep_history or keeps_changes(stream, context.settings):
        _read_state_or_set_aside(stream.name + HISTORY_SUFFIX, context=context)
    return _read_state_or_set_aside(stream.name, context=context)


def _read_state_or_set_aside(table: str, *, context: SyncContext) -> TableState | None:
    """Return a table's state; a table that cannot be read is set aside, with a warning."""
    try:
        return context.lake.check_table_state(table)
    except CorruptFileError:
        place = context.lake.set_aside_table(table)
        context.warn(
            f"the table {table} could not be read and was set aside: {place} holds all its files; "
            "reading from the beginning"
        )
        return None


def _build_request_context(
    stream: Stream, options: SyncOptions, privacy_guard: PrivacyGuard, *, context: SyncContext
) -> RequestContext:
    if not options.is_id_scan:
        fields = privacy_guard.requested_fields
        return build_request_context(
            stream, privacy_guard.decoder, context=context, requested_fields=fields
        )
    ids = id_scan_stream(stream)
    decoder = PageDecoder(ids, privacy=privacy_guard.privacy)
    fields = tuple(column.name for column in ids.columns)
    return build_request_context(ids, decoder, context=context, requested_fields=fields)


def _start_reading(
    request_context: RequestContext,
    plan: SyncPlan,
    privacy_guard: PrivacyGuard,
    context: SyncContext,
) -> PageSource:
    stream = request_context.stream
    if isinstance(stream.source, Detail):
        return start_fan_out(request_context, plan, privacy_guard, lake=context.lake)
    start = partial(_start_readers, plan=plan, rate_limiter=context.client.rate_limiter)
    if parent_column(stream) is not None:
        return start_children_readers(request_context, privacy_guard, start, plan=plan)
    return start(request_context)


def _start_readers(
    request_context: RequestContext, plan: SyncPlan, rate_limiter: RateLimiter
) -> PageSource:
    """Start the readers of the plan's windows, and return them.

    A replacement that marks missing rows as deleted gets a second pass, over what changed during
    the first: a record that moved behind the readers is not taken for deleted. One whose cursor is
    no version cannot move.
    """
    stream = request_context.stream
    readers = [
        WindowReader(request_context, slice_, window) for slice_, window in plan.unread_windows
    ]
    is_splittable = stream.cursor is not None and stream.is_sorted_by_cursor
    workers = count_workers(request_context, rate_limiter)
    pool = WorkerPool(readers, workers=workers if is_splittable else min(workers, len(readers)))
    is_first_sync = plan.planned_version is None
    can_move = is_splittable and stream.cursor is not None and stream.cursor.is_version
    if is_first_sync or not (plan.is_replacement and can_move and stream.has_soft_deletes):
        return pool

    def start_second_pass(since: datetime) -> WorkerPool:
        later = Window(max(filter(None, (since, plan.progress.start))), None)
        return WorkerPool(
            [WindowReader(request_context, slice_, later) for slice_, _ in plan.windows], workers=1
        )

    return TwoPassReader(pool, start_second_pass)
