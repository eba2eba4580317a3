"""Replaces whole report partitions: all rows of a conversion metric and a day, or of a day.

    report partitions ─▶ folders (metric, month) ─▶ stored rows of other days ─┐
    new rows  ─────────────────────────────────────────────────────────────────┴─▶ one file a folder

Report partitions are independent of each other. A writer that loses the race for a version
therefore does not fail: it starts over from the newest version, with the same rows.
"""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import cast

import pyarrow as pa

from klaviyo_assets.errors import CorruptFileError, LakeConflictError, LakeError
from klaviyo_assets.lake.delta.log import TableChange, conflict_error, take_snapshot
from klaviyo_assets.lake.delta.state import (
    METRIC_REFUSALS_KEY,
    PARTITION_STATES_KEY,
    MetricRefusal,
    PartitionState,
    TableState,
    merge_partition_states,
    read_metric_refusals,
    refuse_other_account,
    serialize_metric_refusal,
    table_state,
)
from klaviyo_assets.lake.disk import map_storage_errors
from klaviyo_assets.lake.layout import LakeTable, report_partition_folder, table_folder
from klaviyo_assets.lake.parquet import DataFile, PartitionFileWriter, conform_rows, read_row_groups
from klaviyo_assets.lake.read.views import stored_tables
from klaviyo_assets.lake.write.merge import add_row_positions, find_superseded_rows
from klaviyo_assets.lake.write.table_writer import (
    CommitReceipt,
    TableWriter,
    build_empty_receipt,
    refuse_missing_columns,
)
from klaviyo_assets.model.report import NO_METRIC, ReportPartition

REPORT_DAY_COLUMN = "date"
REPORT_METRIC_COLUMNS = ("conversion_metric_id", "metric_id")
"""The columns that may hold the metric of a partition; a table has one of them, or none."""


MAX_REPLACE_ATTEMPTS = 60
REPLACE_RETRY_SECONDS = 0.05
"""Longest wait after a lost race, times the races lost so far; a commit takes about as long."""

BuildState = Callable[[TableState | None], Mapping[str, object]]
"""Takes the state of the table that was found; returns the sync's own keys of the new state."""


@dataclass(frozen=True, slots=True)
class PartitionFetch:
    """When Klaviyo computed a partition (UTC), and whether its attribution window was over."""

    fetched_at: datetime
    is_final: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionReplacement:
    """Report partitions and their new rows; a partition without rows becomes empty.

    `refusals` are metrics that Klaviyo refused; None removes a stored refusal.
    """

    table: LakeTable
    account: str
    partitions: Mapping[ReportPartition, PartitionFetch]
    rows: pa.Table
    build_state: BuildState
    refusals: Mapping[str, MetricRefusal | None] = field(
        default_factory=dict[str, MetricRefusal | None]
    )

    def partition_states(self) -> dict[ReportPartition, PartitionState]:
        """Return the state of each partition after the commit."""
        counts = Counter(self.partition_of_rows())
        return {
            partition: PartitionState(
                fetched_at=each.fetched_at, is_final=each.is_final, rows=counts[partition]
            )
            for partition, each in self.partitions.items()
        }

    def partition_of_rows(self) -> list[ReportPartition]:
        """Return the report partition of each row, in order."""
        names = [name for name in REPORT_METRIC_COLUMNS if name in self.rows.column_names]
        metrics = (
            cast("list[str]", self.rows[names[0]].to_pylist())
            if names
            else [NO_METRIC] * self.rows.num_rows
        )
        days = cast("list[date]", self.rows[REPORT_DAY_COLUMN].to_pylist())
        return [ReportPartition(metric, day) for metric, day in zip(metrics, days, strict=True)]

    def build_commit_state(self, known: TableState | None) -> dict[str, object]:
        """Return the state of the commit: `known`, with this replacement merged in."""
        before = {} if known is None else known.state
        refused: dict[str, MetricRefusal | None] = {**read_metric_refusals(before), **self.refusals}
        served = {partition.metric_id for partition in self.partitions}
        return {
            **self.build_state(known),
            PARTITION_STATES_KEY: merge_partition_states(
                before, self.partition_states(), stream=self.table.name
            ),
            METRIC_REFUSALS_KEY: {
                metric: serialize_metric_refusal(each)
                for metric, each in refused.items()
                if each is not None and metric not in served
            },
        }


def build_replacement(
    table: LakeTable,
    *,
    account: str,
    partitions: Mapping[ReportPartition, PartitionFetch],
    batch: pa.RecordBatch,
    build_state: BuildState,
) -> PartitionReplacement:
    """Return the replacement of some report partitions by the rows of a batch."""
    rows = conform_rows(pa.Table.from_batches([batch]), table.schema)
    return PartitionReplacement(
        table=table, account=account, partitions=partitions, rows=rows, build_state=build_state
    )


def build_refusal_change(
    table: LakeTable, *, account: str, metric_id: str, refusal: MetricRefusal | None
) -> PartitionReplacement:
    """Return a replacement that changes no rows, and only stores or removes one refusal."""
    return PartitionReplacement(
        table=table,
        account=account,
        partitions={},
        rows=table.schema.empty_table(),
        build_state=lambda known: {} if known is None else known.state,
        refusals={metric_id: refusal},
    )


def refuse_invalid_rows(replacement: PartitionReplacement) -> None:
    """Refuse rows that do not belong to the replacement.

    Raises:
        LakeError: a row belongs to none of the partitions, lacks a key, or has another row's key.
    """
    table, rows = replacement.table, replacement.rows
    missing = [column for column in table.required_columns if rows[column].null_count]
    if missing:
        raise LakeError(f"rows without {', '.join(missing)}", stream=table.name)
    if set(replacement.partition_of_rows()) - replacement.partitions.keys():
        raise LakeError("a row belongs to none of the partitions to be replaced", stream=table.name)
    if find_superseded_rows(add_row_positions(rows, 0), table.key, table.version_columns).num_rows:
        raise LakeError("two rows have the same key", stream=table.name)


def replace_partitions(
    replacement: PartitionReplacement,
    root: Path,
    *,
    clock: Callable[[], datetime],
    pause: Callable[[float], None] = time.sleep,
) -> CommitReceipt:
    """Replace all rows of exactly these report partitions in one commit; return the receipt.

    Raises:
        WrongAccountError: the lake below `root` holds another account's data.
        LakeConflictError: every attempt lost the race; nothing was stored.
        CorruptFileError: a stored file that has to be read is missing or damaged.
        StorageError: the disk refused; the table is as before.
    """
    refuse_invalid_rows(replacement)
    refuse_other_account(root, replacement.account, tables=stored_tables(root))
    folder = table_folder(root, replacement.table.name)
    for tries in range(1, MAX_REPLACE_ATTEMPTS):
        try:
            return try_replace_partitions(replacement, folder, clock=clock)
        except LakeConflictError:
            # Random: of several writers that wait equally long, all but one would lose again.
            pause(REPLACE_RETRY_SECONDS * tries * random.random())  # noqa: S311 - luck, not a secret
    return try_replace_partitions(replacement, folder, clock=clock)


def try_replace_partitions(
    replacement: PartitionReplacement, folder: Path, *, clock: Callable[[], datetime]
) -> CommitReceipt:
    """Replace the report partitions on top of the newest version.

    Raises:
        LakeConflictError: another writer committed first.
    """
    table = replacement.table
    start = take_snapshot(folder, table.name)
    refuse_missing_columns(start, table)
    writer = TableWriter(table, folder, start, account=replacement.account, clock=clock)
    try:
        with map_storage_errors(folder, table.name):
            change = plan_partition_change(replacement, writer)
        known = table_state(start)
        state = replacement.build_commit_state(known)
        is_same = known is not None and known.state == state
        if start is not None and is_same and not change.added and not change.removed:
            return build_empty_receipt(start)
        return writer.write_change(change, state, replacement.rows.num_rows)
    except CorruptFileError:
        # A vacuum may have removed a file that our version names and a newer one does not.
        if writer.is_stale:
            raise conflict_error(table.name) from None
        raise
    finally:
        writer.close()


def plan_partition_change(replacement: PartitionReplacement, writer: TableWriter) -> TableChange:
    """Stage new files for the changed folders; return the files to add and remove."""
    days_by_folder: dict[str, set[date]] = defaultdict(set)
    for partition in replacement.partitions:
        folder = report_partition_folder(partition.metric_id, partition.day)
        days_by_folder[folder].add(partition.day)
    rows_by_folder: dict[str, list[int]] = defaultdict(list)
    for place, partition in enumerate(replacement.partition_of_rows()):
        folder = report_partition_folder(partition.metric_id, partition.day)
        rows_by_folder[folder].append(place)
    added: list[DataFile] = []
    removed: list[DataFile] = []
    for folder, replaced_days in days_by_folder.items():
        known = () if writer.start is None else writer.start.files
        stored = [file for file in known if file.partition == folder]
        new_rows = replacement.rows.take(pa.array(rows_by_folder[folder], pa.int64()))
        remaining = read_rows_of_other_days(stored, replaced_days, writer)
        if new_rows.num_rows or remaining.num_rows < sum(file.rows for file in stored):
            added += write_folder_rows(folder, [remaining, new_rows], writer)
            removed += stored
    return TableChange(added=added, removed=removed, changed_at=writer.clock())


def read_rows_of_other_days(
    stored: Sequence[DataFile], replaced_days: set[date], writer: TableWriter
) -> pa.Table:
    """Return the rows of a folder's files, without those of `replaced_days`."""
    tables = [writer.schema.empty_table()]
    for file in stored:
        for rows in read_row_groups(writer.folder / file.path, writer.schema, writer.table.name):
            days = cast("list[date]", rows[REPORT_DAY_COLUMN].to_pylist())
            tables.append(
                rows.filter(pa.array([day not in replaced_days for day in days], pa.bool_()))
            )
    return pa.concat_tables(tables)


def write_folder_rows(
    folder: str, tables: Sequence[pa.Table], writer: TableWriter
) -> list[DataFile]:
    """Write the rows of one folder to the staging folder, sorted by the key."""
    file = PartitionFileWriter(writer.staging_folder.path, writer.table, folder)
    rows = pa.concat_tables(tables, promote_options="default").select(writer.schema.names)
    file.write(rows.sort_by([(column, "ascending") for column in writer.table.key]))
    return file.close()
