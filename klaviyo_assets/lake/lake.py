"""The lake: all tables below one data folder.

What belongs here: the doors, and what is checked at them. What does not: writing (`session`),
showing (`database`), cleaning (`upkeep`) and checking (`check`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from klaviyo_assets.errors import LakeError, SettingError
from klaviyo_assets.lake.answers import Answers
from klaviyo_assets.lake.cells import Fetched, StateOf, refusal_noted, replaced, replacement
from klaviyo_assets.lake.check import database_problems, problems
from klaviyo_assets.lake.contents import columns_now, relation_now
from klaviyo_assets.lake.current import stored_tables
from klaviyo_assets.lake.database import publish
from klaviyo_assets.lake.disk import make_writable, told
from klaviyo_assets.lake.facts import CellFacts, MetricRefusal, facts_of, refused_of
from klaviyo_assets.lake.identity import (
    Identity,
    Whereabouts,
    call_account,
    named_identity,
    whereabouts_of,
)
from klaviyo_assets.lake.layout import HISTORY, Table, answers_folder, history_of, table_folder
from klaviyo_assets.lake.log import Snapshot, snapshot
from klaviyo_assets.lake.quarantine import keep
from klaviyo_assets.lake.relations import Relation
from klaviyo_assets.lake.session import Mode, Receipt, Session
from klaviyo_assets.lake.states import (
    TableState,
    refuse_foreign,
    stored_account,
    stored_accounts,
    table_state,
)
from klaviyo_assets.lake.upkeep import Upkeep, tidied
from klaviyo_assets.lake.writing import TableWriter, refuse_gaps
from klaviyo_assets.locks import check_locks
from klaviyo_assets.model.report import Cell
from klaviyo_assets.settings import RefusedPathError, refuse_lake_path

if TYPE_CHECKING:
    import duckdb

GRACE = timedelta(hours=1)
"""How long a file stays after the database that named it was replaced: longer than a query."""


class Lake:
    """The tables below `root`, the setting `KLAVIYO_DATA_DIR`. Making one touches nothing."""

    def __init__(
        self,
        root: Path,
        *,
        clock: Callable[[], datetime],
        grace: timedelta = GRACE,
        folder_mode: str = "",
    ) -> None:
        """Take the folder; `clock` gives the time in UTC.

        `folder_mode` is the setting: octal, "" for a lake that is its owner's alone.
        """
        self.root, self.clock, self.grace = root.absolute(), clock, grace
        self.folder_mode = folder_mode

    def state(self, name: str) -> TableState | None:
        """Return the state of a table; None where it was never read, or another engine emptied it.

        Raises:
            CorruptFileError: the log cannot be read.
            LakeVersionError: a later version, or another engine's feature, that we do not read.
        """
        return table_state(self.snapshot(name))

    def snapshot(self, name: str) -> Snapshot | None:
        """Return a table at its newest version; None where there is none."""
        return snapshot(table_folder(self.root, name), name)

    def account(self) -> str | None:
        """Return whose data the lake holds; None while it is empty. Reads one commit, mostly."""
        return stored_account(self.root, tables=stored_tables(self.root))

    def accounts(self) -> frozenset[str]:
        """Return whose data the tables hold: one account, by the name of now. Reads a commit each.

        Several where another program brought tables of another lake.
        """
        return frozenset(stored_accounts(self.root, tables=stored_tables(self.root)))

    def identity(self) -> Identity:
        """Return which lake this is; one without a name of its own gets one.

        Raises:
            StorageError: the folder cannot be written.
        """
        return named_identity(self.root)

    def whereabouts(self) -> Whereabouts:
        """Return which lake this is, and where it lies.

        Raises:
            StorageError: the folder is not there, or cannot be written.
        """
        return whereabouts_of(self.root)

    def call_account(self, account: str, *, also: Iterable[str]) -> bool:
        """Note that the lake's account goes by `account` from now on; tell whether that is news.

        `also` are the names that mean it, in commits and of other keys.

        Raises:
            StorageError: the folder cannot be written.
        """
        return call_account(self.root, account, also=also)

    def refuse_foreign(self, account: str) -> None:
        """Refuse to bring a second account into the lake; reads one commit a table.

        Raises:
            WrongAccountError: a table holds another account's data.
            LakeVersionError: a later version of this project wrote a table.
        """
        refuse_foreign(self.root, account, tables=stored_tables(self.root))

    def prepare(self, account: str) -> None:
        """Refuse what would make a sync fail at its first commit, before its first page.

        Raises:
            WrongAccountError: the lake holds another account's data; nothing was written.
            LakeVersionError: a later version of this project wrote a table.
            StorageError: the folder cannot be written.
        """
        self.refuse_foreign(account)
        self.make_ready()

    def make_ready(self) -> None:
        """Make the folder, whoever's it is to be.

        Raises:
            SettingError: its path cannot be used, or its file system does not lock files.
            StorageError: it cannot be written.
        """
        self._refuse_path()
        make_writable(self.root / "lake")
        with told(self.root, None):
            check_locks(self.root, variable="KLAVIYO_DATA_DIR")

    def open(
        self, table: Table, *, account: str, mode: Mode, with_history: bool, started_at: datetime
    ) -> Session:
        """Return a session that writes `table`, and its history too where asked; to be closed.

        What a commit goes through against is the version found here.

        Raises:
            WrongAccountError: the lake holds another account's data; nothing was written.
            LakeVersionError: the table was written by another version, or by another program.
            CorruptFileError: the log cannot be read.
            StorageError: the folder cannot be written.
        """
        self.refuse_foreign(account)
        tables = [history_of(table), table] if with_history else [table]
        starts = [self.snapshot(one.name) for one in tables]
        writers: list[TableWriter] = []
        try:
            for one, start in zip(tables, starts, strict=True):
                if mode == "merge" or one.keeps == "every":
                    refuse_gaps(start, one)
                folder = table_folder(self.root, one.name)
                writers.append(TableWriter(one, folder, start, account=account, clock=self.clock))
        except BaseException:
            for writer in writers:
                writer.close()
            raise
        history = writers[0] if with_history else None
        return Session(writers[-1], history, mode=mode, started_at=started_at, root=self.root)

    def replace_cells(
        self,
        table: Table,
        *,
        account: str,
        cells: Mapping[Cell, Fetched],
        batch: pa.RecordBatch,
        state_of: StateOf,
    ) -> Receipt:
        """Make the batch's rows those of exactly these cells, in one commit with their facts.

        A cell without a row is stored as empty. Only the touched metrics and months are rewritten.
        Others may commit at the same time: then this starts over from their version, and asks
        `state_of` again. What it returns is kept beside the facts.

        Raises:
            WrongAccountError: the lake holds another account's data; nothing was written.
            LakeError: a row belongs to none of the cells, or a key is there twice.
            CorruptFileError: a stored file that has to be read is missing or damaged.
            StorageError: the disk refused; the table is as before.
        """
        wanted = replacement(table, account=account, cells=cells, batch=batch, state_of=state_of)
        return replaced(wanted, self.root, clock=self.clock)

    def note_refused(
        self, table: Table, *, account: str, metric_id: str, refusal: MetricRefusal | None
    ) -> Receipt:
        """Remember that Klaviyo refused a metric; None forgets it, as its first cell does.

        Raises:
            WrongAccountError, CorruptFileError, StorageError: as for `replace_cells`.
        """
        wanted = refusal_noted(table, account=account, metric_id=metric_id, refusal=refusal)
        return replaced(wanted, self.root, clock=self.clock)

    def cell_facts(self, name: str) -> Mapping[Cell, CellFacts]:
        """Return the cells that a report's table has, empty ones included; quick.

        Raises:
            CorruptFileError: the log or the facts cannot be read.
        """
        known = self.state(name)
        return {} if known is None else facts_of(known.state, stream=name)

    def refused_metrics(self, name: str) -> Mapping[str, MetricRefusal]:
        """Return the metrics that Klaviyo refused for a report."""
        known = self.state(name)
        return {} if known is None else refused_of(known.state)

    def quarantine(self, name: str, records: Iterable[tuple[str, bytes]]) -> int:
        """Put aside what cannot be stored in a table, with the reason; return how many there were.

        Raises:
            StorageError: the disk refused.
        """
        return keep(self.root, name, records)

    def answers(self, name: str) -> Answers:
        """Return the answers of a report that were paid for and are kept; touches nothing."""
        return Answers(answers_folder(self.root, name), name, clock=self.clock)

    def publish(
        self, relations: Sequence[Relation], *, lake_root: str | None = None
    ) -> tuple[LakeError, ...]:
        """Show the whole lake as it is now in `klaviyo.duckdb`; other processes may do the same.

        `lake_root` is the lake's folder as readers have it mounted, from now on: "" for here, None
        for what it was.

        Returns an error for each table that cannot be read and is not shown: another stream's
        damage is no reason for this one to fail.

        Raises:
            SettingError: the folder's path cannot be used.
            StorageError: the folder cannot be written, or another publisher does not end.
        """
        self._refuse_path()
        return publish(self.root, relations, lake_root=lake_root, folder_mode=self.folder_mode)

    def _refuse_path(self) -> None:
        # The whole path: a relative one lies wherever the process was started.
        try:
            refuse_lake_path(str(self.root))
        except RefusedPathError as refused:
            raise SettingError(
                f"the lake would lie in {str(self.root)!r}, by KLAVIYO_DATA_DIR and the folder "
                f"that this process was started in: {refused}"
            ) from None

    def relation(self, name: str, relations: Sequence[Relation] = ()) -> "duckdb.DuckDBPyRelation":
        """Return a relation as it is now, over a connection of its own in memory.

        `relations` describes those that are not plain tables; the ones last published are known.

        Raises:
            MissingTableError: a table it is made of was never read.
        """
        return relation_now(self.root, name, relations)

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
        return columns_now(self.root, name, columns)

    def maintain(self, name: str, *, grace: timedelta | None = None) -> Upkeep:
        """Remove retired files of a table and its history after the grace, and shorten their logs.

        To erase somebody's rows from the disk at once: delete them, `publish`, then this with a
        grace of zero.

        Raises:
            CorruptFileError: the log cannot be read.
            StorageError: the disk refused.
        """
        self.answers(name).prune()
        return tidied(
            self.root,
            (name, name + HISTORY),
            now=self.clock(),
            grace=self.grace if grace is None else grace,
        )

    def check(self) -> None:
        """Read every file of every table, look for keys that are there twice, bind every view.

        Raises:
            CorruptFileError: a file or log is missing or damaged; the text names all of them.
            LakeError: a key is there twice, or klaviyo.duckdb does not show what was published.
        """
        found = [*problems(self.root), *database_problems(self.root)]
        if found:
            first = found[0]
            first.message = "\n".join([first.message, *(str(other) for other in found[1:])])
            raise first
