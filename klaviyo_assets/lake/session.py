"""A session: rows come in, and commits of files and mark go out.

What belongs here: the order of things, so that whatever ends a session (an error, a cancel, a
kill) leaves either the commit before or the commit after, never something between. What does not:
rows (`merge`), files (`staging`, `rewrite`), the log (`delta`).

One commit, in order; a kill between two lines loses nothing and doubles nothing:

    1. rows in memory      -> staging folder      nobody sees them
    2. losing rows         -> rewritten files     in the staging folder as well
    3. files               -> the table's folder  still in no commit; upkeep removes the orphans
    4. the history's commit                       a redo finds its versions there already
    5. the table's commit: files and mark at once
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import pyarrow as pa

from klaviyo_assets.errors import LakeError
from klaviyo_assets.lake.disk import told
from klaviyo_assets.lake.gone import Noticed
from klaviyo_assets.lake.layout import DELETED_AT, STAGE_BYTES, SYNC_STARTED_AT
from klaviyo_assets.lake.quarantine import keep
from klaviyo_assets.lake.rebase import Rebase
from klaviyo_assets.lake.shrink import ShrinkGuard
from klaviyo_assets.lake.vectors import MOMENT, moments
from klaviyo_assets.lake.writing import TableWriter, Written

Mode = Literal["merge", "replace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a commit did. `rows_written` came in and stay; `version` is the table's now.

    `deleted` counts the rows that it marked as deleted, `lost` those of damaged files that it gave
    up without knowing which of them were gone, `taken_over` those that others committed while a
    replacement was read.
    """

    version: int
    rows_written: int
    rows_total: int
    files_added: int
    files_removed: int
    bytes_added: int
    deleted: int = 0
    lost: int = 0
    taken_over: int = 0


class Session:
    """Rows into one table, and into its history where there is one. Not for several threads.

    In mode "merge" `commit` can be called many times; in mode "replace" once, and the rows of the
    session become the whole table. Leaving the `with` block drops what was not committed.
    """

    def __init__(
        self,
        main: TableWriter,
        history: TableWriter | None,
        *,
        mode: Mode,
        started_at: datetime,
        root: Path,
    ) -> None:
        """Take over the writers; `Lake.open` calls this."""
        self.main, self.history = main, history
        self.mode: Mode = mode
        self.started_at = started_at
        self.root = root
        self.batches: list[pa.RecordBatch] = []
        self.buffered_bytes = 0
        self.is_over = False

    def __enter__(self) -> Self:
        """Return the session."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drop what was not committed, whatever ends the block."""
        self.close()

    def close(self) -> None:
        """Drop what was not committed and lift the locks. Safe to call twice."""
        self.is_over = True
        self.batches = []
        self.buffered_bytes = 0
        for writer in self.writers:
            writer.close()

    @property
    def writers(self) -> list[TableWriter]:
        """Return the writers, the history's first."""
        return [self.main] if self.history is None else [self.history, self.main]

    def add(self, batch: pa.RecordBatch) -> None:
        """Take rows in the columns of the table's schema; beyond 16 MiB they go to disk.

        Raises:
            ContractError: a row without key or cursor.
            LakeError: other columns than the table's, or the session is over.
            StorageError: the disk refused.
        """
        self.refuse_over()
        schema = self.main.table.schema
        # Names and types one by one cost 0.2 ms a batch of 90 columns, and so does a new batch.
        if not batch.schema.equals(schema, check_metadata=True):
            batch = relabelled(batch, schema, self.main.table.name)
        self.batches.append(batch)
        # `nbytes` asks every buffer of 90 columns and lets go of the interpreter each time.
        self.buffered_bytes += batch.get_total_buffer_size()
        if self.buffered_bytes >= STAGE_BYTES:
            self.stage()

    def stage(self) -> None:
        """Write the rows in memory to the staging folder, where no reader sees them.

        Raises:
            ContractError: a row without key or cursor.
            StorageError: the disk refused.
        """
        self.refuse_over()
        batches, self.batches, self.buffered_bytes = self.batches, [], 0
        if not batches:
            return
        # Over unless it succeeds: rows are gone from memory, and a later commit would lack them.
        self.is_over = True
        with told(self.main.folder, self.main.table.name):
            if self.history is not None:
                self.history.stage.take([self.dated(batch) for batch in batches])
            self.main.stage.take(batches)
        self.is_over = False

    def dated(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows with the start of the sync, as the history has them."""
        if DELETED_AT in batch.schema.names:
            batch = batch.drop_columns([DELETED_AT])
        when = moments(self.started_at, batch.num_rows)
        return batch.append_column(pa.field(SYNC_STARTED_AT, MOMENT), when)

    def quarantine(self, records: Iterable[tuple[str, bytes]]) -> int:
        """Keep records that cannot be stored, as (reason, bytes); return how many there were.

        They are on the disk when this returns, whatever becomes of the session.

        Raises:
            StorageError: the disk refused.
        """
        return keep(self.root, self.main.table.name, records)

    def commit(
        self,
        state: Mapping[str, object],
        noticed: Noticed | None = None,
        rebase: Rebase | None = None,
        *,
        is_last: bool = True,
        guard: ShrinkGuard | None = None,
    ) -> Receipt:
        """Make the rows added so far and `state` (JSON) visible at once; return the receipt.

        With `noticed` a replacement keeps the rows that it does not bring, and marks them. With
        `rebase` it goes on from what others committed since this session began; with `guard` it is
        refused where it takes away too much. Only with the last commit of a session a key that lay
        in another partition has left there.
        Without rows the state alone is committed where it changed; where it did not, nothing is.

        Raises:
            ShrinkError: as the guard says.
            LakeConflictError: another writer of the table committed since this session began.
            CorruptFileError: a file that has to be rewritten is missing or damaged.
            StorageError: the disk refused. In all four cases the table is as before.
        """
        self.stage()
        self.is_over = True
        replace, known = self.mode == "replace", as_read_back(state)
        if rebase is None:
            if self.history is not None:
                self.history.commit({}, replace=False)
            written = self.main.commit(
                known, replace=replace, noticed=noticed, is_last=is_last, guard=guard
            )
        else:
            if self.history is not None:
                self.history.commit_rebased({}, rebase, replace=False)
            written = self.main.commit_rebased(
                known, rebase, replace=replace, noticed=noticed, guard=guard
            )
        self.is_over = replace
        return receipt_of(written)

    def refuse_over(self) -> None:
        """Refuse further rows and commits after the end, or after the one commit of a replacement.

        Raises:
            LakeError: the session is over.
        """
        if self.is_over:
            raise LakeError("the session is over; open another", stream=self.main.table.name)


def as_read_back(state: Mapping[str, object]) -> dict[str, object]:
    """Return a state as it will be read back: a tuple is a list there, and must look like one."""
    return json.loads(json.dumps(dict(state)))


def relabelled(batch: pa.RecordBatch, schema: pa.Schema, stream: str) -> pa.RecordBatch:
    """Return the rows under `schema`, which may differ in what it says beside names and types.

    Raises:
        LakeError: it differs in those.
    """
    if (batch.schema.names, batch.schema.types) != (schema.names, schema.types):
        raise LakeError("a batch has other columns than its table", stream=stream)
    return pa.RecordBatch.from_arrays(batch.columns, schema=schema)


def receipt_of(written: Written) -> Receipt:
    """Return the receipt of a commit."""
    return Receipt(
        version=written.version,
        rows_written=written.rows,
        rows_total=written.rows_total,
        files_added=len(written.change.added),
        files_removed=len(written.change.removed),
        bytes_added=sum(file.size for file in written.change.added),
        deleted=written.change.deleted,
        lost=written.change.lost,
        taken_over=written.taken_over,
    )
