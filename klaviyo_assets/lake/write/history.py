"""Keeps a row as a dated version in the history where one of its history columns changed.

    rows of a commit, in the staging folder ──┐ by key: is the hash of the history columns that of
    newest stored version of their keys ──────┴─▶ the newest version? if not, the row is a version

The rows are taken from the files that the table's own commit is about to add, so that nothing is
staged twice. The history commits first: after a kill in between, the redo finds its versions stored
and writes none.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa

from klaviyo_assets.arrow_buffers import TIMESTAMP_UTC, RowMask, build_timestamp_array
from klaviyo_assets.errors import LakeConflictError
from klaviyo_assets.lake.delta.commit import TableChange
from klaviyo_assets.lake.delta.log import TableSnapshot, take_snapshot
from klaviyo_assets.lake.disk import storage_error_types
from klaviyo_assets.lake.layout import (
    SPILL_FOLDER,
    SYNC_STARTED_AT_COLUMN,
    SYNCED_AT_COLUMN,
    LakeTable,
)
from klaviyo_assets.lake.parquet import DataFile, PartitionFileWriter, conform_rows, read_columns
from klaviyo_assets.lake.read.duckdb import (
    TableFiles,
    open_bounded_connection,
    quote_identifier,
    select_columns,
    select_paths,
    select_table_files,
)
from klaviyo_assets.lake.write.merge import MergeFile
from klaviyo_assets.lake.write.soft_deletes import DeletionScan, read_filtered_rows
from klaviyo_assets.lake.write.table_writer import TableWriter

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
        incoming = select_paths([folder / file.path for file in staged], None)
        known = select_table_files(TableFiles(schema=schema, paths=tuple(stored)))
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
