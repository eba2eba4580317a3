"""Replacing the cells of a report: a conversion metric and a day each, whatever was there before.

What belongs here: from the rows of some cells to one commit. What does not: which rows they are
(`sync/reports`), the facts' form (`facts`).

    cells ─▶ partitions (metric, month) ─▶ stored rows of other days ─┐
    rows  ────────────────────────────────────────────────────────────┴─▶ one file a partition

Cells are independent of each other, so a writer that comes second does not fail: it starts over
from the newest version, with the same rows.
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
from klaviyo_assets.lake.current import stored_tables
from klaviyo_assets.lake.delta import Change, conflict
from klaviyo_assets.lake.disk import told
from klaviyo_assets.lake.facts import (
    CELLS,
    REFUSED,
    CellFacts,
    MetricRefusal,
    refused_of,
    with_facts,
    written_refusal,
)
from klaviyo_assets.lake.layout import Table, metric_partition, table_folder
from klaviyo_assets.lake.log import snapshot
from klaviyo_assets.lake.merge import losers, numbered
from klaviyo_assets.lake.parquet import DataFile, Writer, conformed, row_groups
from klaviyo_assets.lake.session import Receipt, receipt_of
from klaviyo_assets.lake.states import TableState, refuse_foreign, table_state
from klaviyo_assets.lake.writing import TableWriter, Written, refuse_gaps
from klaviyo_assets.model.report import Cell

DAY_COLUMN = "date"
METRIC_COLUMN = "conversion_metric_id"

TRIES = 60
PAUSE_SECONDS = 0.05
"""After a lost race a writer waits up to so long, times the races lost; a commit takes as long."""

StateOf = Callable[[TableState | None], Mapping[str, object]]
"""Returns what the sync wants in the commit's state, given the table as it was found."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """When Klaviyo computed a cell (UTC), and whether its attribution window had passed by then."""

    at: datetime
    is_final: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """Cells and the rows that they hold from now on; none for a cell that is empty.

    `refused` are metrics that Klaviyo refused; None forgets a refusal.
    """

    table: Table
    account: str
    cells: Mapping[Cell, Fetched]
    rows: pa.Table
    state_of: StateOf
    refused: Mapping[str, MetricRefusal | None] = field(
        default_factory=dict[str, MetricRefusal | None]
    )

    def facts(self) -> dict[Cell, CellFacts]:
        """Return the facts of the cells."""
        counts = Counter(self.cell_of_rows())
        return {
            cell: CellFacts(fetched_at=each.at, is_final=each.is_final, rows=counts[cell])
            for cell, each in self.cells.items()
        }

    def cell_of_rows(self) -> list[Cell]:
        """Return each row's cell, in order."""
        metrics = cast("list[str]", self.rows[METRIC_COLUMN].to_pylist())
        days = cast("list[date]", self.rows[DAY_COLUMN].to_pylist())
        return [Cell(metric, day) for metric, day in zip(metrics, days, strict=True)]

    def state(self, known: TableState | None) -> dict[str, object]:
        """Return the state of the commit, on top of what is known."""
        before = {} if known is None else known.state
        refused: dict[str, MetricRefusal | None] = {**refused_of(before), **self.refused}
        served = {cell.metric_id for cell in self.cells}
        return {
            **self.state_of(known),
            CELLS: with_facts(before, self.facts(), stream=self.table.name),
            REFUSED: {
                metric: written_refusal(each)
                for metric, each in refused.items()
                if each is not None and metric not in served
            },
        }


def replacement(
    table: Table,
    *,
    account: str,
    cells: Mapping[Cell, Fetched],
    batch: pa.RecordBatch,
    state_of: StateOf,
) -> Replacement:
    """Return the replacement of some cells by the rows of a batch, in the table's columns."""
    rows = conformed(pa.Table.from_batches([batch]), table.schema)
    return Replacement(table=table, account=account, cells=cells, rows=rows, state_of=state_of)


def refusal_noted(
    table: Table, *, account: str, metric_id: str, refusal: MetricRefusal | None
) -> Replacement:
    """Return the replacement that changes no cell, and what is known of a refused metric."""
    return Replacement(
        table=table,
        account=account,
        cells={},
        rows=table.schema.empty_table(),
        state_of=lambda known: {} if known is None else known.state,
        refused={metric_id: refusal},
    )


def refuse_unfit(wanted: Replacement) -> None:
    """Refuse rows that cannot be stored as they are.

    Raises:
        LakeError: a row belongs to none of the cells, lacks a key or has that of another.
    """
    table, rows = wanted.table, wanted.rows
    missing = [column for column in table.needed if rows[column].null_count]
    if missing:
        raise LakeError(f"rows without {', '.join(missing)}", stream=table.name)
    if set(wanted.cell_of_rows()) - wanted.cells.keys():
        raise LakeError("a row belongs to none of the cells to be replaced", stream=table.name)
    if losers(numbered(rows, 0), table.key, table.versions).num_rows:
        raise LakeError("two rows have the same key", stream=table.name)


def replaced(
    wanted: Replacement,
    root: Path,
    *,
    clock: Callable[[], datetime],
    pause: Callable[[float], None] = time.sleep,
) -> Receipt:
    """Replace all rows of exactly these cells in one commit; return the receipt.

    Raises:
        WrongAccountError: the lake below `root` holds another account's data.
        LakeConflictError: others committed first, time and again; nothing was stored.
        CorruptFileError: a stored file that has to be read is missing or damaged.
        StorageError: the disk refused; the table is as before.
    """
    refuse_unfit(wanted)
    refuse_foreign(root, wanted.account, tables=stored_tables(root))
    folder = table_folder(root, wanted.table.name)
    for tries in range(1, TRIES):
        try:
            return receipt_of(attempted(wanted, folder, clock=clock))
        except LakeConflictError:
            # Of many that wait alike, all but one would lose again.
            pause(PAUSE_SECONDS * tries * random.random())  # noqa: S311 - luck, not a secret
    return receipt_of(attempted(wanted, folder, clock=clock))


def attempted(wanted: Replacement, folder: Path, *, clock: Callable[[], datetime]) -> Written:
    """Replace the cells on top of the newest version.

    Raises:
        LakeConflictError: another writer came first.
    """
    table = wanted.table
    start = snapshot(folder, table.name)
    refuse_gaps(start, table)
    writer = TableWriter(table, folder, start, account=wanted.account, clock=clock)
    try:
        with told(folder, table.name):
            change = changed(wanted, writer)
        known = table_state(start)
        state = wanted.state(known)
        is_same = known is not None and known.state == state
        if start is not None and is_same and not change.added and not change.removed:
            return Written(version=start.version, change=change, rows=0, rows_total=start.rows)
        return writer.write(change, state, wanted.rows.num_rows)
    except CorruptFileError:
        # Upkeep may have removed what our version still names and a newer one does not.
        if writer.is_stale:
            raise conflict(table.name) from None
        raise
    finally:
        writer.close()


def changed(wanted: Replacement, writer: TableWriter) -> Change:
    """Write the touched partitions to the staging folder; return the files to add and remove."""
    days: dict[str, set[date]] = defaultdict(set)
    for cell in wanted.cells:
        days[metric_partition(cell.metric_id, cell.day)].add(cell.day)
    places: dict[str, list[int]] = defaultdict(list)
    for place, cell in enumerate(wanted.cell_of_rows()):
        places[metric_partition(cell.metric_id, cell.day)].append(place)
    added: list[DataFile] = []
    removed: list[DataFile] = []
    for partition, gone in days.items():
        known = () if writer.start is None else writer.start.files
        stored = [file for file in known if file.partition == partition]
        fresh = wanted.rows.take(pa.array(places[partition], pa.int64()))
        kept = kept_rows(stored, gone, writer)
        if fresh.num_rows or kept.num_rows < sum(file.rows for file in stored):
            added += written(partition, [kept, fresh], writer)
            removed += stored
    return Change(added=added, removed=removed, at=writer.clock())


def kept_rows(stored: Sequence[DataFile], gone: set[date], writer: TableWriter) -> pa.Table:
    """Return the rows of a partition's files but for those of some days."""
    parts = [writer.schema.empty_table()]
    for file in stored:
        for rows in row_groups(writer.folder / file.path, writer.schema, writer.table.name):
            days = cast("list[date]", rows[DAY_COLUMN].to_pylist())
            parts.append(rows.filter(pa.array([day not in gone for day in days], pa.bool_())))
    return pa.concat_tables(parts)


def written(partition: str, parts: Sequence[pa.Table], writer: TableWriter) -> list[DataFile]:
    """Write the rows of a partition to the staging folder, in the order of the key."""
    file = Writer(writer.staging.folder, writer.table, partition)
    rows = pa.concat_tables(parts, promote_options="default").select(writer.schema.names)
    file.write(rows.sort_by([(column, "ascending") for column in writer.table.key]))
    return file.close()
