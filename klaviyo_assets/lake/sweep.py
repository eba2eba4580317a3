"""A sweep of keys: what it did not see is marked, what it saw again has its mark lifted.

What belongs here: a session whose rows are keys alone, and its one commit. What does not: reading
them (`sync`), and what a replacement does not bring (`gone`).

A sweep takes minutes, and syncs commit meanwhile: it marks on top of whatever is newest by then.
Only of a row that lay there when the sweep began, or was last read before, can it say anything:

    row of the newest version          seen               not seen
    ──────────────────────────────────────────────────────────────────────────
    read since the sweep began         stays as it is     stays as it is
    `deleted_at` is NULL               stays as it is     `deleted_at` becomes `at`
    `deleted_at` from before           NULL again         stays as it is

Memory holds the keys that were seen, and of the table those of one file.
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

from klaviyo_assets.errors import CorruptFileError, LakeConflictError
from klaviyo_assets.lake.delta import Change, conflict
from klaviyo_assets.lake.disk import told
from klaviyo_assets.lake.gone import Noticed
from klaviyo_assets.lake.layout import DELETED_AT, SYNCED_AT, Table, table_folder
from klaviyo_assets.lake.log import snapshot
from klaviyo_assets.lake.parquet import DataFile, Writer, columns_of, row_groups
from klaviyo_assets.lake.quarantine import keep
from klaviyo_assets.lake.session import Receipt, receipt_of
from klaviyo_assets.lake.shrink import ShrinkGuard
from klaviyo_assets.lake.vectors import MOMENT, Mask, flags, mask, moment
from klaviyo_assets.lake.writing import TableWriter, Written

TRIES = 5
"""How often a commit is tried: each time another writer may have come first."""


class Sweep:
    """Keys that were seen, and one commit of marks. Not for several threads; holds no lock."""

    def __init__(
        self, table: Table, root: Path, *, account: str, clock: Callable[[], datetime]
    ) -> None:
        """Remember which files the table has now; writes nothing yet."""
        self.table, self.root, self.account, self.clock = table, root, account, clock
        self.folder = table_folder(root, table.name)
        start = snapshot(self.folder, table.name)
        self.known = frozenset(() if start is None else (file.path for file in start.files))
        self.seen: list[pa.Array[Any]] = []

    def __enter__(self) -> Self:
        """Return the sweep."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Forget what was seen."""
        self.seen = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the keys of a batch; its other columns are not looked at."""
        self.seen.append(cast("pa.Array[Any]", batch[self.table.key[0]]))

    def quarantine(self, records: Iterable[tuple[str, bytes]]) -> int:
        """Keep records that cannot be read, as a session does.

        Raises:
            StorageError: the disk refused.
        """
        return keep(self.root, self.table.name, records)

    def commit(
        self,
        state: Mapping[str, object],
        noticed: Noticed | None = None,
        guard: ShrinkGuard | None = None,
    ) -> Receipt:
        """Mark and unmark in one commit; the table's own state is carried on, not `state`.

        Without anything to change nothing is committed; with `guard` it is refused where it marks
        too much.

        Raises:
            ShrinkError: as the guard says; nothing was marked.
            LakeConflictError: others committed first, time and again; nothing was marked.
            CorruptFileError: a file of the table is missing or damaged.
            StorageError: the disk refused; the table is as before.
        """
        _ = state
        seen = pa.chunked_array(self.seen, pa.string()).combine_chunks()
        wanted = Noticed(at=None) if noticed is None else noticed
        for _tries in range(1, TRIES):
            try:
                return receipt_of(self.attempted(seen, wanted, guard))
            except LakeConflictError:
                continue
        return receipt_of(self.attempted(seen, wanted, guard))

    def attempted(
        self, seen: "pa.Array[Any]", noticed: Noticed, guard: ShrinkGuard | None
    ) -> Written:
        """Mark on top of the newest version.

        Raises:
            ShrinkError: as the guard says.
            LakeConflictError: another writer came first.
        """
        name = self.table.name
        start = snapshot(self.folder, name)
        if start is None:
            raise conflict(name)
        writer = TableWriter(self.table, self.folder, start, account=self.account, clock=self.clock)
        with closing(writer):
            try:
                with told(self.folder, name):
                    change, living = self.change(writer, start.files, seen, noticed=noticed)
            except CorruptFileError:
                if writer.is_stale:
                    raise conflict(name) from None
                raise
            if guard is not None:
                guard.check(before=living, missing=change.deleted, stream=name)
            if not change.added:
                return Written(version=start.version, change=change, rows=0, rows_total=start.rows)
            return writer.write(change, writer.known_state, 0)

    def change(
        self,
        writer: TableWriter,
        stored: Iterable[DataFile],
        seen: "pa.Array[Any]",
        *,
        noticed: Noticed,
    ) -> tuple[Change, int]:
        """Rewrite the files in which a mark changes to the staging folder; count unmarked rows."""
        file_writer = Writer(writer.staging.folder, self.table, "")
        removed: list[DataFile] = []
        marked, living = 0, 0
        for file in stored:
            gone, back, unmarked = self.judged(writer, file, seen, noticed)
            living += unmarked
            if not (gone.any() or back.any()):
                continue
            removed.append(file)
            marked += int(gone.sum())
            start = 0
            for rows in row_groups(self.folder / file.path, writer.schema, self.table.name):
                end = start + rows.num_rows
                file_writer.write(remarked(rows, gone[start:end], back[start:end], noticed.at))
                start = end
        added = file_writer.close()
        at = self.clock()
        change = Change(added=added, removed=removed, at=at, deleted=marked, keeps_keys=True)
        return change, living

    def judged(
        self, writer: TableWriter, file: DataFile, seen: "pa.Array[Any]", noticed: Noticed
    ) -> tuple[Mask, Mask, int]:
        """Return which rows of a file are found gone, which are back, how many had no mark."""
        (key,) = self.table.key
        schema = writer.rewriter.columns((key, SYNCED_AT, DELETED_AT))
        rows = columns_of(self.folder / file.path, schema, self.table.name)
        is_seen = mask(pc.is_in(rows[key], value_set=seen))
        is_marked = mask(pc.is_valid(rows[DELETED_AT]))
        old = self.before(file, rows, noticed.at)
        gone = np.zeros_like(old) if noticed.at is None else old & ~is_seen & ~is_marked
        return gone, old & is_seen & is_marked, int((~is_marked).sum())

    def before(self, file: DataFile, rows: pa.Table, at: datetime | None) -> Mask:
        """Return which rows are as they were when the sweep began."""
        if file.path in self.known or at is None:
            return np.full(rows.num_rows, fill_value=file.path in self.known)
        was_marked = pc.coalesce(rows[DELETED_AT], rows[SYNCED_AT])
        then = moment(at)
        return mask(pc.less(rows[SYNCED_AT], then)) & mask(pc.less(was_marked, then))


def remarked(rows: pa.Table, gone: Mask, back: Mask, at: datetime | None) -> pa.Table:
    """Return the rows with the marks of those that are gone, and without those of the others."""
    column = rows[DELETED_AT]
    column = pc.if_else(flags(back), pa.nulls(1, MOMENT)[0], column)
    if at is not None:
        column = pc.if_else(flags(gone), moment(at), column)
    place = rows.schema.get_field_index(DELETED_AT)
    return rows.set_column(place, DELETED_AT, column)
