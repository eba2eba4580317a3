"""Soft deletes: marks stored rows that a complete read did not return, in `deleted_at`.

A table may give that column another name.

    stored row                     not in the read                  in the read
    ────────────────────────────────────────────────────────────────────────────────
    cursor before `scanned_from`   dropped: it was not looked for   the new row
    `deleted_at` is NULL           kept, with a new `deleted_at`    the new row
    `deleted_at` is a time         kept unchanged                   the new row, NULL again

Keys are compared file by file, so memory holds those of two files, however large the table is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

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
from klaviyo_assets.errors import CorruptFileError, ShrinkError
from klaviyo_assets.lake.layout import SYNCED_AT_COLUMN
from klaviyo_assets.lake.parquet import DataFile, PartitionFileWriter, read_columns, read_row_groups
from klaviyo_assets.lake.write.merge import PartitionRewriter
from klaviyo_assets.seams import reach_crash_point


@dataclass(frozen=True, slots=True)
class ColumnValues:
    """The rows that have one of `values` in a text column, or none with `includes_null`."""

    column: str
    values: frozenset[str]
    includes_null: bool = False

    def mask(self, rows: pa.Table) -> RowMask:
        """Return which of the rows these are."""
        wanted = pa.array(sorted(self.values), pa.string())
        found = boolean_mask(pc.is_in(rows[self.column], value_set=wanted))
        return found | boolean_mask(pc.is_null(rows[self.column])) if self.includes_null else found


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionScan:
    """What a complete read implies for the stored rows that it did not return.

    `deleted_at` (UTC) is when they were missed. It is None if a record of the read could not be
    parsed: any missing row may be that record, so all of them are kept unchanged. `scanned_from`
    (UTC) is the cursor at which the read began; None for the beginning. `scanned_values`: the only
    rows that were looked for; `unscanned_values`: rows that were not. What was not looked for is
    kept unchanged, and so is what was synced since `found_since` (UTC): an earlier commit of the
    same read brought it. `cleared_columns` become NULL in the rows that are kept, because those
    rows are older than a privacy setting.
    """

    deleted_at: datetime | None
    scanned_from: datetime | None = None
    scanned_values: ColumnValues | None = None
    unscanned_values: ColumnValues | None = None
    found_since: datetime | None = None
    cleared_columns: frozenset[str] = frozenset()

    @property
    def columns(self) -> list[str]:
        """Return the columns that tell which rows were looked for."""
        chosen = (self.scanned_values, self.unscanned_values)
        return [each.column for each in chosen if each is not None]

    def mask_scanned(self, rows: pa.Table) -> RowMask:
        """Return which of the rows were looked for."""
        mask = np.ones(rows.num_rows, dtype=np.bool_)
        if self.scanned_values is not None:
            mask &= self.scanned_values.mask(rows)
        if self.unscanned_values is not None:
            mask &= ~self.unscanned_values.mask(rows)
        return mask

    def mask_missing(self, rows: pa.Table) -> RowMask:
        """Return which rows were looked for and in no earlier commit of the read."""
        mask = self.mask_scanned(rows)
        if self.found_since is not None:
            since = timestamp_scalar(self.found_since)
            mask &= boolean_mask(pc.less(rows[SYNCED_AT_COLUMN], since))
        return mask


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionResult:
    """Staged files with the rows that are kept, and the numbers of rows.

    `rows_marked` of those rows are newly marked. `rows_unmarked_before` counts the stored rows that
    were looked for and had no mark before. `rows_lost` counts damaged rows: those of unreadable
    files, and those without key, cursor or `synced_at`. A replacement rebuilds the table
    nevertheless, but nobody can tell which of those rows would have been kept.
    """

    files: tuple[DataFile, ...] = ()
    rows_marked: int = 0
    rows_lost: int = 0
    rows_unmarked_before: int = 0

    def __add__(self, other: "DeletionResult") -> "DeletionResult":
        """Return the files of both and the sums of their numbers."""
        return DeletionResult(
            files=self.files + other.files,
            rows_marked=self.rows_marked + other.rows_marked,
            rows_lost=self.rows_lost + other.rows_lost,
            rows_unmarked_before=self.rows_unmarked_before + other.rows_unmarked_before,
        )


def mark_missing_rows(
    rewriter: PartitionRewriter,
    stored: Sequence[DataFile],
    new_files: Sequence[DataFile],
    scan: DeletionScan,
) -> DeletionResult:
    """Write the stored rows whose key is in no new file, marked as deleted, to files to add.

    `new_files` are in the staging folder and hold what a replacement read, each key once.

    Raises:
        OSError: an operation on the disk failed.
    """
    reach_crash_point("before marking missing rows")
    writer = PartitionFileWriter(rewriter.staging, rewriter.table, "")
    found = DeletionResult()
    for file in stored:
        path = rewriter.folder / file.path
        try:
            mask, counts = _select_remaining(path, rewriter, new_files, scan)
            if mask.any():
                for rows in read_filtered_rows(path, mask, rewriter):
                    marked = set_deleted_at(rows, scan, rewriter.table.deletion_column)
                    writer.write(clear_columns(marked, scan.cleared_columns))
        except CorruptFileError:
            counts = DeletionResult(rows_lost=file.rows)
        found += counts
    return found + DeletionResult(files=tuple(writer.close()))


def _select_remaining(
    path: Path, rewriter: PartitionRewriter, new_files: Sequence[DataFile], scan: DeletionScan
) -> tuple[RowMask, DeletionResult]:
    """Return which rows of a stored file are kept, and how many are lost, marked or unmarked.

    A row without key, cursor or `synced_at` can be neither identified nor dated.
    """
    needed = [*rewriter.table.required_columns, rewriter.table.deletion_column, *scan.columns]
    columns = tuple(dict.fromkeys(needed))
    keys = read_columns(path, rewriter.select_schema(columns), rewriter.table.name)
    stay_mask = _mask_missing_keys(keys, rewriter, new_files)
    is_whole = mask_complete_rows(keys, rewriter.table.required_columns)
    incomplete = int((stay_mask & ~is_whole).sum())
    stay_mask &= is_whole
    unmarked = boolean_mask(pc.is_null(keys[rewriter.table.deletion_column]))
    if scan.scanned_from is not None and rewriter.table.cursor is not None:
        in_scan = boolean_mask(
            pc.greater_equal(keys[rewriter.table.cursor], timestamp_scalar(scan.scanned_from))
        )
        stay_mask &= in_scan
        unmarked = unmarked & in_scan
    unmarked = unmarked & scan.mask_scanned(keys)
    is_marked_now = stay_mask & unmarked & scan.mask_missing(keys)
    marked = 0 if scan.deleted_at is None else int(is_marked_now.sum())
    return stay_mask, DeletionResult(
        rows_marked=marked, rows_lost=incomplete, rows_unmarked_before=int(unmarked.sum())
    )


def mask_complete_rows(rows: pa.Table, columns: Sequence[str]) -> RowMask:
    """Return which rows have a value in each of the columns."""
    return np.logical_and.reduce([boolean_mask(pc.is_valid(rows[each])) for each in columns])


def _mask_missing_keys(
    keys: pa.Table, rewriter: PartitionRewriter, new_files: Sequence[DataFile]
) -> RowMask:
    """Return which rows have a key that no new file has."""
    names = rewriter.table.key
    stored = _key_texts(keys, names)
    missing = np.ones(keys.num_rows, dtype=np.bool_)
    for file in new_files:
        path = rewriter.staging / file.path
        rows = read_columns(path, rewriter.select_schema(names), rewriter.table.name)
        brought = _key_texts(rows, names)
        missing &= ~boolean_mask(pc.is_in(stored, value_set=brought.combine_chunks()))
    return missing


def _key_texts(rows: pa.Table, names: Sequence[str]) -> "pa.ChunkedArray[Any]":
    """Return the keys of the rows as one array; keys of several columns become one text each.

    Arrow looks up values of one column only. No id or time contains the separator. The text is NULL
    where a part of the key is. Times are written as numbers, which needs no database of zones.
    """
    if len(names) == 1:
        return rows[names[0]]
    columns = [
        rows[name].cast(pa.int64()) if pa.types.is_timestamp(rows[name].type) else rows[name]
        for name in names
    ]
    parts: list[Any] = [column.cast(pa.string()) for column in columns]
    return cast("Any", pc).binary_join_element_wise(*parts, "\x1f")


def read_filtered_rows(
    path: Path, mask: RowMask, rewriter: PartitionRewriter
) -> Iterator[pa.Table]:
    """Yield the rows of a stored file for which the mask is true, by row group."""
    start = 0
    for rows in read_row_groups(path, rewriter.schema, rewriter.table.name):
        kept_mask = mask[start : start + rows.num_rows]
        start += rows.num_rows
        if kept_mask.any():
            yield rows.filter(build_boolean_array(kept_mask))


def set_deleted_at(rows: pa.Table, scan: DeletionScan, deletion_column: str) -> pa.Table:
    """Return the rows with `deletion_column` set, where it was NULL and the row was looked for.

    It is never set before `synced_at`: other runs may have read a row while this read ran.
    """
    deleted_at = scan.deleted_at
    if deleted_at is None:
        return rows
    place = rows.schema.get_field_index(deletion_column)
    read = rows[SYNCED_AT_COLUMN]
    marked: Any = pc.if_else(
        pc.greater(read, timestamp_scalar(deleted_at)), read, timestamp_scalar(deleted_at)
    )
    is_missing = build_boolean_array(scan.mask_missing(rows))
    marked = pc.if_else(is_missing, marked, pa.nulls(1, TIMESTAMP_UTC)[0])
    column: Any = pc.coalesce(rows[deletion_column], marked)
    return rows.set_column(place, deletion_column, column)


def clear_columns(rows: pa.Table, names: frozenset[str]) -> pa.Table:
    """Return the rows with NULL in these columns."""
    for place, name in enumerate(rows.schema.names):
        if name in names:
            # The stubs do not accept a type that is only known at run time.
            nulls = cast("Any", pa.nulls(rows.num_rows, cast("Any", rows.schema.types[place])))
            rows = rows.set_column(place, name, nulls)
    return rows


UNCONFIRMED_MISSING_ROWS = 5
"""Fewer missing rows than this need no confirmation if a second read missed them as well.

People delete half of a handful of lists or segments in an afternoon; a run that fails until
somebody confirms this would be the rule. Wrong responses mostly leave out more rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShrinkGuard:
    """Refuses a commit that drops or marks more than `limit`, a share of the stored rows.

    `scanned_from` (UTC) is the cursor at which the read began: rows before it were not looked for,
    and do not count. With `allows_few_rows` a few rows may go whatever their share, unless no row
    remains: an account loses its last list less often than a server responds with nothing.
    """

    limit: float
    scanned_from: datetime | None = None
    allows_few_rows: bool = False

    def is_outside_scan(self, max_cursor: datetime | None) -> bool:
        """Return whether rows up to this cursor (UTC) were not looked for."""
        return (
            self.scanned_from is not None
            and max_cursor is not None
            and max_cursor < self.scanned_from
        )

    def check(self, *, before: int, missing: int, stream: str) -> None:
        """Compare the number of missing rows with that of rows before, without rows marked earlier.

        Raises:
            ShrinkError: too many are missing.
        """
        if missing <= self.limit * before:
            return
        if self.allows_few_rows and missing < min(UNCONFIRMED_MISSING_ROWS, before):
            return
        raise ShrinkError(
            f"{missing:,} of {before:,} rows would go",
            stream=stream,
            rows_before=before,
            rows_now=before - missing,
        )
