"""A write session: takes rows, and commits data files together with the sync's state.

The steps of one commit; a kill between any two of them loses no row and stores none twice:

    1. rows in memory         -> staging folder      no reader looks there
    2. files with superseded rows -> rewritten       in the staging folder as well
    3. files                  -> the table's folder  in no commit yet; `vacuum` removes orphans
    4. the history's commit                          a retry finds its versions already stored
    5. the table's commit: files and state at once

The history of changes takes a row as a dated version where one of its history columns changed. Its
rows come from the files that the table's own commit is about to add, so nothing is staged twice:

    rows of a commit, in the staging folder ──┐ by key: is the hash of the history columns that of
    newest stored version of their keys ──────┴─▶ the newest version? if not, the row is a version

An id scan is a session too: a complete scan of ids marks the rows it missed, and unmarks those it
found again. It takes minutes, and syncs commit meanwhile: its marks go on top of the version that
is newest by then. It says something only about rows that were stored when it began, or last read
before:

    row of the newest version          in the scan        not in the scan
    ──────────────────────────────────────────────────────────────────────────
    read since the scan began          unchanged          unchanged
    `deleted_at` is NULL               unchanged          `deleted_at` is set
    `deleted_at` set before the scan   NULL again         unchanged

Memory holds the scanned ids, and of the table the ids of one file.
"""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from klaviyo_assets.arrow_buffers import (
    TIMESTAMP_UTC,
    RowMask,
    boolean_mask,
    build_boolean_array,
    build_timestamp_array,
    timestamp_scalar,
)
from klaviyo_assets.errors import CorruptFileError, LakeConflictError, LakeError
from klaviyo_assets.lake.delta.log import (
    TableChange,
    TableSnapshot,
    conflict_error,
    read_current_snapshot,
    take_snapshot,
)
from klaviyo_assets.lake.disk import map_storage_errors, storage_error_types
from klaviyo_assets.lake.layout import (
    DELETED_AT_COLUMN,
    MAX_BUFFERED_BYTES,
    SPILL_FOLDER,
    SYNC_STARTED_AT_COLUMN,
    SYNCED_AT_COLUMN,
    LakeTable,
    table_folder,
)
from klaviyo_assets.lake.parquet import (
    DataFile,
    PartitionFileWriter,
    conform_rows,
    read_columns,
    read_row_groups,
    write_quarantine,
)
from klaviyo_assets.lake.read.duckdb import (
    TableFiles,
    open_bounded_connection,
    quote_identifier,
    select_columns,
    select_paths,
    select_table_files,
)
from klaviyo_assets.lake.write.merge import MergeFile
from klaviyo_assets.lake.write.soft_deletes import DeletionScan, ShrinkGuard, read_filtered_rows
from klaviyo_assets.lake.write.table_writer import (
    CommitReceipt,
    Rebase,
    TableWriter,
    build_empty_receipt,
)

MAX_HISTORY_ATTEMPTS = 5
"""How often a commit is tried: at each attempt another run may commit first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeHistory:
    """The history that changed rows of one sync go to; `started_at` (UTC) is that of the sync."""

    table: LakeTable
    folder: Path
    account: str
    clock: Callable[[], datetime]
    started_at: datetime

    def commit(self, source: TableWriter) -> int:
        """Commit which of the staged rows of `source` are new versions; return how many.

        Raises:
            LakeConflictError: other runs committed first at every attempt.
            CorruptFileError: a file of the history is missing or damaged.
            StorageError: the disk refused.
        """
        for _tries in range(1, MAX_HISTORY_ATTEMPTS):
            try:
                return self.try_commit(source)
            except LakeConflictError:
                continue
        return self.try_commit(source)

    def try_commit(self, source: TableWriter) -> int:
        """Commit on top of the newest version, once."""
        start = take_snapshot(self.folder, self.table.name)
        with closing(ChangeWriter(self, start, source)) as writer:
            return writer.commit({}, replace=False).rows_written


class ChangeWriter(TableWriter):
    """Commits to a history those staged rows of `source` that differ from its newest versions."""

    def __init__(
        self, history: ChangeHistory, start: TableSnapshot | None, source: TableWriter
    ) -> None:
        """Make a staging folder, as every writer does.

        Raises:
            LakeVersionError: a column has another type in the lake.
            StorageError: the folder cannot be written.
        """
        super().__init__(
            history.table, history.folder, start, account=history.account, clock=history.clock
        )
        self.source, self.started_at = source, history.started_at

    def plan_change(
        self, *, replace: bool, scan: DeletionScan | None, is_last: bool
    ) -> tuple[TableChange, int, int]:
        """Return the files to add and remove, and how many rows are new versions.

        No key is compared again: what is added is no version that is stored.
        """
        _ = replace, scan, is_last
        staged = [
            file for each in self.source.collect_staged_files().values() for file in each.files
        ]
        added = self.write_versions(staged, self.find_versions(staged)) if staged else []
        stored = () if self.start is None else self.start.files
        files = [
            *(MergeFile(file, self.folder, is_staged=False) for file in stored),
            *(MergeFile(file, self.staging_folder.path, is_staged=True) for file in added),
        ]
        rows = sum(file.rows for file in added)
        merged = self.rewriter.rewrite_files(files if added else (), rows)
        change = TableChange(
            added=merged.added,
            removed=merged.removed,
            changed_at=self.clock(),
            keeps_keys=True,
            is_unique=True,
        )
        return change, rows, 0

    def find_versions(self, staged: Sequence[DataFile]) -> Mapping[str, RowMask]:
        """Return for each staged file with new versions which of its rows are some.

        Of the rows with one key, the one read last counts.

        Raises:
            CorruptFileError: a stored file is missing or damaged.
        """
        stored = () if self.start is None else self.start.files
        paths = [self.folder / file.path for file in stored]
        try:
            found = self.query_versions(staged, paths)
        except storage_error_types():
            schema = select_columns(self.schema, self.table.key)
            for path in paths:
                read_columns(path, schema, self.table.name)
            raise
        counts = {file.path: file.rows for file in staged}
        rows_by_file: dict[str, list[int]] = defaultdict(list)
        for path, row in found:
            rows_by_file[Path(path).name].append(row)
        return {name: np.isin(np.arange(counts[name]), rows) for name, rows in rows_by_file.items()}

    def query_versions(
        self, staged: Sequence[DataFile], stored: Sequence[Path]
    ) -> list[tuple[str, int]]:
        """Return path and position of the staged rows that are new versions."""
        table, folder = self.table, self.source.staging_folder.path
        key_names = self.source.table.key
        names = dict.fromkeys((*key_names, *table.history_columns, SYNCED_AT_COLUMN))
        schema = select_columns(self.schema, tuple(names))
        key = ", ".join(map(quote_identifier, key_names))
        content = f"hash({', '.join(map(quote_identifier, table.history_columns))})"
        incoming = select_paths([str(folder / file.path) for file in staged])
        known = select_table_files(TableFiles(schema=schema, paths=tuple(map(str, stored))))
        synced_at = quote_identifier(SYNCED_AT_COLUMN)
        sql = (
            f"WITH incoming AS (SELECT {key}, {content} AS content, filename, file_row_number "
            f"FROM read_parquet({incoming}, filename = true, file_row_number = true, "
            "hive_partitioning = false) QUALIFY row_number() OVER "
            f"(PARTITION BY {key} ORDER BY {synced_at} DESC, file_row_number DESC) = 1), "
            f"newest AS (SELECT {key}, arg_max({content}, {synced_at}) AS content "
            f"FROM ({known}) SEMI JOIN incoming USING ({key}) GROUP BY ALL) "
            "SELECT filename, file_row_number FROM incoming LEFT JOIN newest "
            f"USING ({key}) WHERE incoming.content IS DISTINCT FROM newest.content"
        )
        with open_bounded_connection(self.staging_folder.path / SPILL_FOLDER) as opened:
            return cast("list[tuple[str, int]]", opened.sql(sql).fetchall())

    def write_versions(
        self, staged: Sequence[DataFile], masks: Mapping[str, RowMask]
    ) -> list[DataFile]:
        """Write the chosen rows to the staging folder, in the columns of the history."""
        file_writer = PartitionFileWriter(self.staging_folder.path, self.table, "")
        for file in staged:
            if file.path not in masks:
                continue
            path = self.source.staging_folder.path / file.path
            for rows in read_filtered_rows(path, masks[file.path], self.source.rewriter):
                when = build_timestamp_array(self.started_at, rows.num_rows)
                dated = rows.append_column(pa.field(SYNC_STARTED_AT_COLUMN, TIMESTAMP_UTC), when)
                file_writer.write(conform_rows(dated, self.table.schema))
        return file_writer.close()


WriteMode = Literal["merge", "replace"]


class WriteSession:
    """Writes rows to one table, and to its history where it has one. Not thread-safe.

    `history` takes every version; with `changes`, a commit adds those that differ from the newest.

    In mode "merge" `commit` may be called many times. In mode "replace" it may be called once, and
    the session's rows become the whole table; `commit_part` may come before it. Leaving the `with`
    block drops uncommitted rows.
    """

    def __init__(  # noqa: PLR0913 - what a session needs, by name
        self,
        main: TableWriter,
        history: TableWriter | None,
        *,
        changes: ChangeHistory | None = None,
        mode: WriteMode,
        started_at: datetime,
        root: Path,
    ) -> None:
        """Take over the writers; called by `Lake.open_session`."""
        self.table_writer, self.history_writer, self.changes = main, history, changes
        main.keeps_unchanged_rows = (
            mode == "merge" and main.table.keeps_unchanged_rows and main.is_known_unique
        )
        self.mode: WriteMode = mode
        self.started_at = started_at
        self.root = root
        self.batches: list[pa.RecordBatch] = []
        self.buffered_bytes = 0
        self.is_closed = False

    def __enter__(self) -> Self:
        """Return the session."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drop uncommitted rows, however the block ends."""
        self.close()

    def close(self) -> None:
        """Drop uncommitted rows and release the locks. Safe to call twice."""
        self.is_closed = True
        self.batches = []
        self.buffered_bytes = 0
        for writer in self.writers:
            writer.close()

    @property
    def writers(self) -> list[TableWriter]:
        """Return the writers, the history's first."""
        return (
            [self.table_writer]
            if self.history_writer is None
            else [self.history_writer, self.table_writer]
        )

    def add(self, batch: pa.RecordBatch) -> None:
        """Take rows in the columns of the table's schema; beyond 16 MiB they are staged.

        Raises:
            ContractError: a row without key or cursor.
            LakeError: other columns than the table's, or the session is over.
            StorageError: the disk refused.
        """
        self.refuse_closed()
        schema = self.table_writer.table.schema
        # Comparing names and types one by one costs 0.2 ms for 90 columns, as does a new batch.
        if not batch.schema.equals(schema, check_metadata=True):
            batch = conform_batch(batch, schema, self.table_writer.table.name)
        self.batches.append(batch)
        # `nbytes` visits every buffer of 90 columns and releases the GIL each time.
        self.buffered_bytes += batch.get_total_buffer_size()
        if self.buffered_bytes >= MAX_BUFFERED_BYTES:
            self.stage_batches()

    def stage_batches(self) -> None:
        """Write the rows in memory to the staging folder, where no reader sees them.

        Raises:
            ContractError: a row without key or cursor.
            StorageError: the disk refused.
        """
        self.refuse_closed()
        batches, self.batches, self.buffered_bytes = self.batches, [], 0
        if not batches:
            return
        # Closed unless this succeeds: the rows left memory, and a later commit would lack them.
        self.is_closed = True
        with map_storage_errors(self.table_writer.folder, self.table_writer.table.name):
            if self.history_writer is not None:
                self.history_writer.staging_writer.write_batches(
                    [self.add_sync_start(batch) for batch in batches]
                )
            self.table_writer.staging_writer.write_batches(batches)
        self.is_closed = False

    def add_sync_start(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows with the start of the sync added, a column of the history."""
        deletion_column = self.table_writer.table.deletion_column
        if deletion_column in batch.schema.names:
            batch = batch.drop_columns([deletion_column])
        when = build_timestamp_array(self.started_at, batch.num_rows)
        return batch.append_column(pa.field(SYNC_STARTED_AT_COLUMN, TIMESTAMP_UTC), when)

    def quarantine_records(self, records: Iterable[tuple[str, bytes]]) -> int:
        """Write records that cannot be stored, as (reason, bytes), to the quarantine; count them.

        They are on the disk when this returns, whether or not the session commits.

        Raises:
            StorageError: the disk refused.
        """
        return write_quarantine(self.root, self.table_writer.table.name, records)

    def commit(
        self,
        state: Mapping[str, object],
        scan: DeletionScan | None = None,
        rebase: Rebase | None = None,
        *,
        is_last: bool = True,
        guard: ShrinkGuard | None = None,
    ) -> CommitReceipt:
        """Make the rows added so far and `state` (JSON) visible at once; return the receipt.

        With `scan`, a replacement keeps stored rows that are not among its own, and marks them as
        deleted. With `rebase`, it is put on top of what other runs committed since this session
        began. With `guard`, it is refused where it removes too many rows. A key that moved to
        another partition is removed from the old one by the last commit only (`is_last`).
        Without rows, a changed state is committed alone; with an unchanged one nothing is.

        Raises:
            ShrinkError: as the guard says.
            LakeConflictError: another run committed to the table since this session began.
            CorruptFileError: a file that has to be rewritten is missing or damaged.
            StorageError: the disk refused. In all four cases the table is as before.
        """
        self.stage_batches()
        self.is_closed = True
        replace, known = self.mode == "replace", normalize_json(state)
        versions = self.commit_history(rebase)
        if rebase is None:
            receipt = self.table_writer.commit(
                known, replace=replace, scan=scan, is_last=is_last, guard=guard
            )
        else:
            receipt = self.table_writer.commit_rebased(
                known, rebase, replace=replace, scan=scan, guard=guard
            )
        self.is_closed = replace
        return dataclasses.replace(receipt, versions_written=versions)

    def commit_history(self, rebase: Rebase | None) -> int:
        """Commit the rows added so far to the history; return how many versions that added."""
        versions = 0
        if self.history_writer is not None:
            receipt = (
                self.history_writer.commit({}, replace=False)
                if rebase is None
                else self.history_writer.commit_rebased({}, rebase, replace=False)
            )
            versions += receipt.rows_written
        if self.changes is not None:
            added = self.changes.commit(self.table_writer)
            versions += added
            if added and self.history_writer is not None:
                self.history_writer.start_from_newest()
        return versions

    def commit_part(self, state: Mapping[str, object]) -> CommitReceipt:
        """Make the rows so far and `state` visible before a replacement is whole; remove nothing.

        Raises:
            LakeConflictError: another run committed to the table since this session began. The rows
                stay in the session.
            CorruptFileError, StorageError: as for `commit`.
        """
        self.stage_batches()
        if self.history_writer is not None:
            self.history_writer.commit({}, replace=False)
        return self.table_writer.commit(normalize_json(state), replace=False, is_last=False)

    def refuse_closed(self) -> None:
        """Refuse rows and commits after `close`, and after the single commit of a replacement.

        Raises:
            LakeError: the session is over.
        """
        if self.is_closed:
            raise LakeError(
                "the session is over; open another", stream=self.table_writer.table.name
            )


def normalize_json(state: Mapping[str, object]) -> dict[str, object]:
    """Return a state as JSON gives it back (a tuple becomes a list), so that it can be compared."""
    return json.loads(json.dumps(dict(state)))


def conform_batch(batch: pa.RecordBatch, schema: pa.Schema, stream: str) -> pa.RecordBatch:
    """Return the batch under `schema`, where the two differ at most in their metadata.

    Raises:
        LakeError: names or types differ.
    """
    if (batch.schema.names, batch.schema.types) != (schema.names, schema.types):
        raise LakeError("a batch has other columns than its table", stream=stream)
    return pa.RecordBatch.from_arrays(batch.columns, schema=schema)


MAX_ID_SCAN_ATTEMPTS = 5
"""How often a commit is tried: at each attempt another writer may commit first."""


class IdScanSession:
    """The scanned ids, and one commit of marks. Not for several threads; holds no lock."""

    def __init__(
        self, table: LakeTable, root: Path, *, account: str, clock: Callable[[], datetime]
    ) -> None:
        """Remember which files the table has now; write nothing yet."""
        self.table, self.root, self.account, self.clock = table, root, account, clock
        self.folder = table_folder(root, table.name)
        start = read_current_snapshot(self.folder, table.name)
        self.known_paths = frozenset(() if start is None else (file.path for file in start.files))
        self.seen_keys: list[pa.Array[Any]] = []

    def __enter__(self) -> Self:
        """Return the session."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drop the scanned ids."""
        self.seen_keys = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the ids of a batch; its other columns are ignored."""
        self.seen_keys.append(cast("pa.Array[Any]", batch[self.table.key[0]]))

    def quarantine_records(self, records: Iterable[tuple[str, bytes]]) -> int:
        """Write unreadable records to the quarantine, as a write session does.

        Raises:
            StorageError: an operation on the disk failed.
        """
        return write_quarantine(self.root, self.table.name, records)

    def commit(
        self,
        state: Mapping[str, object],
        scan: DeletionScan | None = None,
        guard: ShrinkGuard | None = None,
    ) -> CommitReceipt:
        """Mark and unmark rows in one commit, which keeps the table's own state instead of `state`.

        Without a change there is no commit. With `guard` it is refused if it would mark too many
        rows.

        Raises:
            ShrinkError: the guard refused; nothing was marked.
            LakeConflictError: other writers committed first at every attempt; nothing was marked.
            CorruptFileError: a file of the table is missing or damaged.
            StorageError: an operation on the disk failed; the table is unchanged.
        """
        _ = state
        seen = pa.chunked_array(self.seen_keys, pa.string()).combine_chunks()
        wanted = DeletionScan(deleted_at=None) if scan is None else scan
        for _tries in range(1, MAX_ID_SCAN_ATTEMPTS):
            try:
                return self.try_commit(seen, wanted, guard)
            except LakeConflictError:
                continue
        return self.try_commit(seen, wanted, guard)

    def try_commit(
        self, seen_keys: "pa.Array[Any]", scan: DeletionScan, guard: ShrinkGuard | None
    ) -> CommitReceipt:
        """Mark rows on top of the newest version, once.

        Raises:
            ShrinkError: the guard refused.
            LakeConflictError: another writer committed first.
        """
        name = self.table.name
        start = take_snapshot(self.folder, name)
        if start is None:
            raise conflict_error(name)
        writer = TableWriter(self.table, self.folder, start, account=self.account, clock=self.clock)
        with closing(writer):
            try:
                with map_storage_errors(self.folder, name):
                    change, rows_unmarked_before = self.plan_change(
                        writer, start.files, seen_keys, scan=scan
                    )
            except CorruptFileError:
                if writer.is_stale:
                    raise conflict_error(name) from None
                raise
            if guard is not None:
                guard.check(
                    before=rows_unmarked_before, missing=change.rows_marked_deleted, stream=name
                )
            if not change.added:
                return build_empty_receipt(start)
            return writer.write_change(change, writer.known_state, 0)

    def plan_change(
        self,
        writer: TableWriter,
        stored: Iterable[DataFile],
        seen_keys: "pa.Array[Any]",
        *,
        scan: DeletionScan,
    ) -> tuple[TableChange, int]:
        """Write the files with changed marks to the staging folder; return the change.

        The second value is the number of rows without a mark before.
        """
        file_writer = PartitionFileWriter(writer.staging_folder.path, self.table, "")
        removed: list[DataFile] = []
        marked, rows_unmarked_before = 0, 0
        for file in stored:
            missing, returned, unmarked = self.compare_file(writer, file, seen_keys, scan)
            rows_unmarked_before += unmarked
            if not (missing.any() or returned.any()):
                continue
            removed.append(file)
            marked += int(missing.sum())
            start = 0
            for rows in read_row_groups(self.folder / file.path, writer.schema, self.table.name):
                end = start + rows.num_rows
                file_writer.write(
                    update_deleted_at(
                        rows, missing[start:end], returned[start:end], scan.deleted_at
                    )
                )
                start = end
        added = file_writer.close()
        at = self.clock()
        change = TableChange(
            added=added, removed=removed, changed_at=at, rows_marked_deleted=marked, keeps_keys=True
        )
        return change, rows_unmarked_before

    def compare_file(
        self, writer: TableWriter, file: DataFile, seen_keys: "pa.Array[Any]", scan: DeletionScan
    ) -> tuple[RowMask, RowMask, int]:
        """Return which rows of a file are missing, which are back, and how many had no mark."""
        (key,) = self.table.key
        schema = writer.rewriter.select_schema((key, SYNCED_AT_COLUMN, DELETED_AT_COLUMN))
        rows = read_columns(self.folder / file.path, schema, self.table.name)
        is_seen = boolean_mask(pc.is_in(rows[key], value_set=seen_keys))
        is_marked = boolean_mask(pc.is_valid(rows[DELETED_AT_COLUMN]))
        old = self.mask_unchanged_rows(file, rows, scan.deleted_at)
        missing = np.zeros_like(old) if scan.deleted_at is None else old & ~is_seen & ~is_marked
        return missing, old & is_seen & is_marked, int((~is_marked).sum())

    def mask_unchanged_rows(
        self, file: DataFile, rows: pa.Table, deleted_at: datetime | None
    ) -> RowMask:
        """Return which rows are as they were when the scan began."""
        if file.path in self.known_paths or deleted_at is None:
            return np.full(rows.num_rows, fill_value=file.path in self.known_paths)
        was_marked = pc.coalesce(rows[DELETED_AT_COLUMN], rows[SYNCED_AT_COLUMN])
        then = timestamp_scalar(deleted_at)
        return boolean_mask(pc.less(rows[SYNCED_AT_COLUMN], then)) & boolean_mask(
            pc.less(was_marked, then)
        )


def update_deleted_at(
    rows: pa.Table, missing: RowMask, returned: RowMask, deleted_at: datetime | None
) -> pa.Table:
    """Return the rows with marks on the missing ones, and without marks on the returned ones."""
    column = rows[DELETED_AT_COLUMN]
    column = pc.if_else(build_boolean_array(returned), pa.nulls(1, TIMESTAMP_UTC)[0], column)
    if deleted_at is not None:
        column = pc.if_else(build_boolean_array(missing), timestamp_scalar(deleted_at), column)
    place = rows.schema.get_field_index(DELETED_AT_COLUMN)
    return rows.set_column(place, DELETED_AT_COLUMN, column)
