"""Id scans: a complete scan of ids marks the rows it missed, and unmarks those it found again.

A scan takes minutes, and syncs commit meanwhile: its marks go on top of the version that is newest
by then. It says something only about rows that were stored when it began, or last read before:

    row of the newest version          in the scan        not in the scan
    ──────────────────────────────────────────────────────────────────────────
    read since the scan began          unchanged          unchanged
    `deleted_at` is NULL               unchanged          `deleted_at` is set
    `deleted_at` set before the scan   NULL again         unchanged

Memory holds the scanned ids, and of the table the ids of one file.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from klaviyo_assets.arrow_buffers import (
    TIMESTAMP_UTC,
    RowMask,
    boolean_mask,
    build_boolean_array,
    timestamp_scalar,
)
from klaviyo_assets.errors import CorruptFileError, LakeConflictError
from klaviyo_assets.lake.delta.commit import TableChange, conflict_error
from klaviyo_assets.lake.delta.log import read_current_snapshot, take_snapshot
from klaviyo_assets.lake.disk import map_storage_errors
from klaviyo_assets.lake.layout import DELETED_AT_COLUMN, SYNCED_AT_COLUMN, LakeTable, table_folder
from klaviyo_assets.lake.parquet import DataFile, PartitionFileWriter, read_columns, read_row_groups
from klaviyo_assets.lake.quarantine import write_quarantine
from klaviyo_assets.lake.write.session import CommitReceipt, build_receipt
from klaviyo_assets.lake.write.soft_deletes import DeletionScan, ShrinkGuard
from klaviyo_assets.lake.write.table_writer import CommitResult, TableWriter

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
                return build_receipt(self.try_commit(seen, wanted, guard))
            except LakeConflictError:
                continue
        return build_receipt(self.try_commit(seen, wanted, guard))

    def try_commit(
        self, seen_keys: "pa.Array[Any]", scan: DeletionScan, guard: ShrinkGuard | None
    ) -> CommitResult:
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
                return CommitResult(
                    version=start.version, change=change, rows_written=0, rows_total=start.rows
                )
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
