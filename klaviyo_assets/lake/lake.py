"""The lake: all tables below one data folder.

What belongs here: the doors, and what is checked at them. What does not: writing (`session`),
showing (`database`), cleaning (`upkeep`) and checking (`check`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryFile

import duckdb
import pyarrow as pa

from klaviyo_assets.errors import LakeError, MissingTableError, WrongAccountError
from klaviyo_assets.lake.check import problems
from klaviyo_assets.lake.database import (
    connection,
    publish,
    published,
    shown,
    stored_tables,
)
from klaviyo_assets.lake.disk import make_folder, told
from klaviyo_assets.lake.layout import HISTORY, Table, history_of, table_folder
from klaviyo_assets.lake.log import Snapshot, newest_mark, newest_version, snapshot
from klaviyo_assets.lake.parquet import columns_of
from klaviyo_assets.lake.relations import Plain, Relation, query
from klaviyo_assets.lake.repair import repaired
from klaviyo_assets.lake.session import Mode, Session
from klaviyo_assets.lake.upkeep import Upkeep, tidy
from klaviyo_assets.lake.writing import TableWriter

GRACE = timedelta(hours=1)
"""How long a file stays after the database that named it was replaced: longer than a query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableState:
    """A table as it is now. `state` is what the sync said in the newest commit of ours."""

    version: int
    account: str
    lake_version: int
    rows: int
    state: dict[str, object]


class Lake:
    """The tables below `root`, the setting `KLAVIYO_DATA_DIR`. Making one touches nothing."""

    def __init__(
        self, root: Path, *, clock: Callable[[], datetime], grace: timedelta = GRACE
    ) -> None:
        """Take the folder; `clock` gives the time in UTC."""
        self.root, self.clock, self.grace = root.absolute(), clock, grace

    def state(self, name: str) -> TableState | None:
        """Return the state of a table; None where it was never read, or another engine emptied it.

        Raises:
            CorruptFileError: the log cannot be read.
            LakeVersionError: a later version, or another engine's feature, that we do not read.
        """
        found = self.snapshot(name)
        if found is None or found.mark is None or found.is_emptied:
            return None
        return TableState(
            version=found.version,
            account=found.mark.account,
            lake_version=found.mark.lake_version,
            rows=found.rows,
            state=found.mark.state,
        )

    def snapshot(self, name: str) -> Snapshot | None:
        """Return a table at its newest version; None where there is none."""
        return snapshot(table_folder(self.root, name), name)

    def refuse_foreign(self, account: str) -> None:
        """Refuse to bring a second account into the lake; reads one commit a table.

        Raises:
            WrongAccountError: a table holds another account's data.
            LakeVersionError: a later version of this project wrote a table.
        """
        for name in stored_tables(self.root):
            folder = table_folder(self.root, name)
            newest = newest_version(folder)
            mark = None if newest is None else newest_mark(folder, newest, name)
            if mark is not None and mark.account != account:
                raise WrongAccountError(
                    f"{self.root} holds account {mark.account} and the key belongs to account "
                    f"{account}. Give each account its own KLAVIYO_DATA_DIR; nothing was written",
                    stream=name,
                )

    def prepare(self, account: str) -> None:
        """Refuse what would make a sync fail at its first commit, before its first request.

        Raises:
            WrongAccountError: the lake holds another account's data; nothing was written.
            LakeVersionError: a later version of this project wrote a table.
            StorageError: the folder cannot be written.
        """
        self.refuse_foreign(account)
        with told(self.root, None):
            make_folder(self.root / "lake")
            TemporaryFile(dir=self.root / "lake").close()

    def open(
        self, table: Table, *, account: str, mode: Mode, with_history: bool, started_at: datetime
    ) -> Session:
        """Return a session that writes `table`, and its history too where asked; to be closed.

        What a commit goes through against is the version found here.

        Raises:
            WrongAccountError: the lake holds another account's data; nothing was written.
            LakeVersionError: the table was written by a later version, or by another program.
            CorruptFileError: the log cannot be read.
            StorageError: the folder cannot be written.
        """
        self.refuse_foreign(account)
        tables = [history_of(table), table] if with_history else [table]
        starts = [self.snapshot(one.name) for one in tables]
        writers: list[TableWriter] = []
        try:
            for one, start in zip(tables, starts, strict=True):
                folder = table_folder(self.root, one.name)
                writers.append(TableWriter(one, folder, start, account=account, clock=self.clock))
        except BaseException:
            for writer in writers:
                writer.close()
            raise
        history = writers[0] if with_history else None
        return Session(writers[-1], history, mode=mode, started_at=started_at, root=self.root)

    def publish(self, relations: Sequence[Relation]) -> tuple[LakeError, ...]:
        """Show the whole lake as it is now in `klaviyo.duckdb`; other processes may do the same.

        Returns an error for each table that cannot be read and is not shown: another stream's
        damage is no reason for this one to fail.

        Raises:
            StorageError: the folder cannot be written, or another publisher does not end.
        """
        return publish(self.root, relations)

    def relation(self, name: str, relations: Sequence[Relation] = ()) -> duckdb.DuckDBPyRelation:
        """Return a relation as it is now, over a connection of its own in memory.

        `relations` describes those that are not plain tables; the ones last published are known.

        Raises:
            MissingTableError: a table it is made of was never read.
        """
        known = {one.name: one for one in (*published(self.root).relations, *relations)}
        relation = known.get(name, Plain(name=name))
        found: dict[str, Snapshot] = {}
        for table in relation.tables:
            one = self.snapshot(table)
            if one is None:
                raise MissingTableError(
                    f"the table {table} was never read; materialize klaviyo/{table} first",
                    stream=name,
                )
            found[table] = one
        sql = query(relation, shown(self.root, found))
        return connection().sql(str(sql))

    def reader(self, name: str, columns: Sequence[str] | None = None) -> pa.RecordBatchReader:
        """Return a relation's rows as a stream of record batches, in no order; memory stays flat.

        Raises:
            MissingTableError: a table it is made of was never read.
        """
        relation = self.relation(name)
        if columns is not None:
            relation = relation.select(*columns)
        return relation.to_arrow_reader()

    def keys(self, name: str, columns: Sequence[str]) -> pa.Table:
        """Return some columns of a whole stored table, in memory; empty where it was never read.

        Raises:
            CorruptFileError: a file is missing or damaged.
        """
        found = self.snapshot(name)
        if found is None:
            return pa.table({column: pa.array([], pa.string()) for column in columns})
        known = dict(zip(found.schema.names, found.schema.types, strict=True))
        schema = pa.schema([(column, known[column]) for column in columns])
        folder = table_folder(self.root, name)
        parts = [columns_of(folder / file.path, schema, name) for file in found.files]
        return pa.concat_tables(parts) if parts else schema.empty_table()

    def maintain(self, name: str, *, grace: timedelta | None = None) -> Upkeep:
        """Remove retired files of a table and its history after the grace, and shorten their logs.

        To erase somebody's rows from the disk at once: delete them, `publish`, then this with a
        grace of zero.

        Raises:
            CorruptFileError: the log cannot be read.
            StorageError: the disk refused.
        """
        versions = published(self.root).versions
        done = [
            tidy(
                table_folder(self.root, one),
                one,
                now=self.clock(),
                grace=self.grace if grace is None else grace,
                published=versions.get(one),
            )
            for one in (name, name + HISTORY)
        ]
        return Upkeep(
            files_removed=sum(one.files_removed for one in done),
            bytes_freed=sum(one.bytes_freed for one in done),
        )

    def repair(self, table: Table, *, account: str) -> int:
        """Delete the older rows of keys that are in the table twice; return how many went.

        Raises:
            WrongAccountError: the lake holds another account's data; nothing was written.
            LakeConflictError: another writer committed meanwhile.
            CorruptFileError: a file is missing or damaged.
            StorageError: the disk refused; the table is as before.
        """
        self.refuse_foreign(account)
        return repaired(self.root, table, account=account, clock=self.clock)

    def check(self) -> None:
        """Read every file of every table, and look for keys that are there twice.

        Raises:
            CorruptFileError: a file or log is missing or damaged; the text names all of them.
            LakeError: a key is there twice.
        """
        found = list(problems(self.root))
        if found:
            first = found[0]
            first.message = "\n".join([first.message, *(str(other) for other in found[1:])])
            raise first
