"""The lake: all tables below one data folder, and every operation on them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from klaviyo_assets.errors import LakeConflictError, LakeError, MissingTableError, SettingError
from klaviyo_assets.lake.delta.log import (
    TableSnapshot,
    hand_on_snapshot,
    read_snapshot,
    take_snapshot,
)
from klaviyo_assets.lake.delta.state import (
    MetricRefusal,
    PartitionState,
    TableState,
    read_metric_refusals,
    read_newest_table_state,
    read_partition_states,
    refuse_other_account,
    stored_account,
    stored_accounts,
    table_state,
)
from klaviyo_assets.lake.disk import (
    create_folder,
    ensure_writable_folder,
    map_storage_errors,
    remove_dead_staging,
)
from klaviyo_assets.lake.identity import (
    LakeIdentity,
    LakeLocation,
    ensure_identity,
    read_location,
    record_account,
)
from klaviyo_assets.lake.layout import (
    HISTORY_SUFFIX,
    SET_ASIDE_FOLDER,
    STAGING_FOLDER,
    LakeTable,
    build_history_table,
    response_cache_folder,
    table_folder,
)
from klaviyo_assets.lake.maintenance.vacuum import VacuumResult, vacuum_tables
from klaviyo_assets.lake.quarantine import write_quarantine
from klaviyo_assets.lake.read.database import publish_database
from klaviyo_assets.lake.read.integrity import find_database_problems, find_table_problems
from klaviyo_assets.lake.read.queries import query_relation, read_table_columns
from klaviyo_assets.lake.read.views import Relation, stored_tables
from klaviyo_assets.lake.response_cache import ReportResponseCache
from klaviyo_assets.lake.write.report_partitions import (
    BuildState,
    PartitionFetch,
    build_refusal_change,
    build_replacement,
    replace_partitions,
)
from klaviyo_assets.lake.write.session import CommitReceipt, WriteMode, WriteSession
from klaviyo_assets.lake.write.table_writer import TableWriter, refuse_missing_columns
from klaviyo_assets.locks import check_lock_support
from klaviyo_assets.model.report import ReportPartition
from klaviyo_assets.settings import RefusedPathError, check_lake_path

if TYPE_CHECKING:
    import duckdb

RETIRED_FILE_GRACE = timedelta(hours=1)
"""How long a file stays after the database that named it was replaced: longer than a query."""


class Lake:
    """The tables below `root`, the setting `KLAVIYO_DATA_DIR`. Making one touches nothing."""

    def __init__(
        self,
        root: Path,
        *,
        clock: Callable[[], datetime],
        grace: timedelta = RETIRED_FILE_GRACE,
        folder_mode: str = "",
    ) -> None:
        """Take the folder; `clock` gives the time in UTC.

        `folder_mode` is the setting: octal, "" for a lake that is its owner's alone.
        """
        self.root, self.clock, self.grace = root.absolute(), clock, grace
        self.folder_mode = folder_mode

    def read_table_state(self, name: str) -> TableState | None:
        """Return the state of a table; None where it was never read, or another engine emptied it.

        Reads one commit where the newest is ours, and the whole log only where it is not.

        Raises:
            CorruptFileError: what had to be read of the log is damaged.
            LakeVersionError: a later version, or another engine's feature, that we do not read.
        """
        return read_newest_table_state(table_folder(self.root, name), name)

    def check_table_state(self, name: str) -> TableState | None:
        """Return the state as `read_table_state` does, and see that the whole log can be read.

        The next session in this process starts from what was read here.

        Raises:
            CorruptFileError, LakeVersionError: as for `read_table_state`.
        """
        folder = table_folder(self.root, name)
        snapshot = take_snapshot(folder, name)
        hand_on_snapshot(folder, snapshot)
        return table_state(snapshot)

    def read_snapshot(self, name: str) -> TableSnapshot | None:
        """Return a table at its newest version; None where there is none."""
        return read_snapshot(table_folder(self.root, name), name)

    def stored_account(self) -> str | None:
        """Return whose data the lake holds; None while it is empty. Reads one commit, mostly."""
        return stored_account(self.root, tables=stored_tables(self.root))

    def stored_accounts(self) -> frozenset[str]:
        """Return whose data the tables hold: one account, by the name of now. Reads a commit each.

        Several where another program brought tables of another lake.
        """
        return frozenset(stored_accounts(self.root, tables=stored_tables(self.root)))

    def ensure_identity(self) -> LakeIdentity:
        """Return which lake this is; one without a name of its own gets one.

        Raises:
            StorageError: the folder cannot be written.
        """
        return ensure_identity(self.root)

    def read_location(self) -> LakeLocation:
        """Return which lake this is, and where it lies.

        Raises:
            StorageError: the folder is not there, or cannot be written.
        """
        return read_location(self.root)

    def record_account(self, account: str, *, aliases: Iterable[str]) -> bool:
        """Note that the lake's account goes by `stored_account` from now on.

        Tell whether that is news.

        `aliases` are the names that mean it, in commits and of other keys.

        Raises:
            StorageError: the folder cannot be written.
        """
        return record_account(self.root, account, aliases=aliases)

    def refuse_other_account(self, account: str) -> None:
        """Refuse to bring a second account into the lake; reads one commit a table.

        Raises:
            WrongAccountError: a table holds another account's data.
            LakeVersionError: a later version of this project wrote a table.
        """
        refuse_other_account(self.root, account, tables=stored_tables(self.root))

    def prepare_for_sync(self, account: str) -> None:
        """Refuse what would make a sync fail at its first commit, before its first page.

        Raises:
            WrongAccountError: the lake holds another account's data; nothing was written.
            LakeVersionError: a later version of this project wrote a table.
            StorageError: the folder cannot be written.
        """
        self.refuse_other_account(account)
        self.ensure_writable()

    def ensure_writable(self) -> None:
        """Make the folder, whoever's it is to be.

        Raises:
            SettingError: its path cannot be used, or its file system does not lock files.
            StorageError: it cannot be written.
        """
        self._refuse_path()
        ensure_writable_folder(self.root / "lake")
        with map_storage_errors(self.root, None):
            check_lock_support(self.root, variable="KLAVIYO_DATA_DIR")

    def open_session(
        self,
        table: LakeTable,
        *,
        account: str,
        mode: WriteMode,
        with_history: bool,
        started_at: datetime,
    ) -> WriteSession:
        """Return a session that writes `table`, and its history too where asked; to be closed.

        What a commit goes through against is the version found here.

        Raises:
            WrongAccountError: the lake holds another account's data; nothing was written.
            LakeVersionError: the table was written by another version, or by another program.
            CorruptFileError: the log cannot be read.
            StorageError: the folder cannot be written.
        """
        self.refuse_other_account(account)
        tables = [build_history_table(table), table] if with_history else [table]
        starts = [take_snapshot(table_folder(self.root, one.name), one.name) for one in tables]
        writers: list[TableWriter] = []
        try:
            for one, start in zip(tables, starts, strict=True):
                if mode == "merge" or one.kept_versions == "every":
                    refuse_missing_columns(start, one)
                folder = table_folder(self.root, one.name)
                writers.append(TableWriter(one, folder, start, account=account, clock=self.clock))
        except BaseException:
            for writer in writers:
                writer.close()
            raise
        history = writers[0] if with_history else None
        return WriteSession(writers[-1], history, mode=mode, started_at=started_at, root=self.root)

    def replace_report_partitions(
        self,
        table: LakeTable,
        *,
        account: str,
        partitions: Mapping[ReportPartition, PartitionFetch],
        batch: pa.RecordBatch,
        build_state: BuildState,
    ) -> CommitReceipt:
        """Make the batch's rows those of exactly these cells, in one commit with their facts.

        A cell without a row is stored as empty. Only the touched metrics and months are rewritten.
        Others may commit at the same time: then this starts over from their version, and asks
        `build_state` again. What it returns is kept beside the facts.

        Raises:
            WrongAccountError: the lake holds another account's data; nothing was written.
            LakeError: a row belongs to none of the cells, or a key is there twice.
            CorruptFileError: a stored file that has to be read is missing or damaged.
            StorageError: the disk refused; the table is as before.
        """
        wanted = build_replacement(
            table, account=account, partitions=partitions, batch=batch, build_state=build_state
        )
        return replace_partitions(wanted, self.root, clock=self.clock)

    def record_metric_refusal(
        self, table: LakeTable, *, account: str, metric_id: str, refusal: MetricRefusal | None
    ) -> CommitReceipt:
        """Remember that Klaviyo refused a metric; None forgets it, as its first cell does.

        Raises:
            WrongAccountError, CorruptFileError, StorageError: as for `replace_report_partitions`.
        """
        wanted = build_refusal_change(table, account=account, metric_id=metric_id, refusal=refusal)
        return replace_partitions(wanted, self.root, clock=self.clock)

    def read_partition_states(self, name: str) -> Mapping[ReportPartition, PartitionState]:
        """Return the cells that a report's table has, empty ones included; quick.

        Raises:
            CorruptFileError: the log or the facts cannot be read.
        """
        known = self.read_table_state(name)
        return {} if known is None else read_partition_states(known.state, stream=name)

    def read_metric_refusals(self, name: str) -> Mapping[str, MetricRefusal]:
        """Return the metrics that Klaviyo refused for a report."""
        known = self.read_table_state(name)
        return {} if known is None else read_metric_refusals(known.state)

    def quarantine_records(self, name: str, records: Iterable[tuple[str, bytes]]) -> int:
        """Put aside what cannot be stored in a table, with the reason; return how many there were.

        Raises:
            StorageError: the disk refused.
        """
        return write_quarantine(self.root, name, records)

    def response_cache(self, name: str) -> ReportResponseCache:
        """Return the answers of a report that were paid for and are kept; touches nothing."""
        return ReportResponseCache(response_cache_folder(self.root, name), name, clock=self.clock)

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
        return publish_database(
            self.root, relations, lake_root=lake_root, folder_mode=self.folder_mode
        )

    def _refuse_path(self) -> None:
        # The whole path: a relative one lies wherever the process was started.
        try:
            check_lake_path(str(self.root))
        except RefusedPathError as refused:
            raise SettingError(
                f"the lake would lie in {str(self.root)!r}, by KLAVIYO_DATA_DIR and the folder "
                f"that this process was started in: {refused}"
            ) from None

    def query_relation(
        self, name: str, relations: Sequence[Relation] = ()
    ) -> "duckdb.DuckDBPyRelation":
        """Return a relation as it is now, over a connection of its own in memory.

        `relations` describes those that are not plain tables; the ones last published are known.

        Raises:
            MissingTableError: a table it is made of was never read.
        """
        return query_relation(self.root, name, relations)

    def read_relation_batches(
        self, name: str, columns: Sequence[str] | None = None
    ) -> pa.RecordBatchReader:
        """Return a relation's rows as a stream of record batches, in no order; memory stays flat.

        Raises:
            MissingTableError: a table it is made of was never read.
        """
        relation = self.query_relation(name)
        if columns is not None:
            relation = relation.select(*columns)
        return relation.to_arrow_reader()

    def read_columns(self, name: str, columns: Sequence[str]) -> pa.Table:
        """Return some columns of a whole stored table, in memory; empty where it was never read.

        Raises:
            CorruptFileError: a file is missing or damaged.
        """
        return read_table_columns(self.root, name, columns)

    def vacuum(self, name: str, *, grace: timedelta | None = None) -> VacuumResult:
        """Remove retired files of a table and its history after the grace, and shorten their logs.

        To erase somebody's rows from the disk at once: delete them, `publish_database`, then this
        with a grace of zero.

        Raises:
            CorruptFileError: the log cannot be read.
            StorageError: the disk refused.
        """
        self.response_cache(name).prune()
        return vacuum_tables(
            self.root,
            (name, name + HISTORY_SUFFIX),
            now=self.clock(),
            grace=self.grace if grace is None else grace,
        )

    def check_integrity(self) -> None:
        """Read every file of every table, look for keys that are there twice, bind every view.

        Raises:
            CorruptFileError: a file or log is missing or damaged; the text names all of them.
            LakeError: a key is there twice, or klaviyo.duckdb does not show what was published.
        """
        found = [*find_table_problems(self.root), *find_database_problems(self.root)]
        if found:
            first = found[0]
            first.message = "\n".join([first.message, *(str(other) for other in found[1:])])
            raise first


def set_aside_table(root: Path, name: str, *, now: datetime) -> Path:
    """Move a table out of the lake; return where it lies from now on.

    Raises:
        MissingTableError: there is no table of that name.
        LakeConflictError: a run is writing it; it stays where it is.
        StorageError: the disk refused.
    """
    folder = table_folder(root, name)
    if not folder.exists():
        raise MissingTableError(f"there is no table {name} in {root}", stream=name)
    target = root / "lake" / SET_ASIDE_FOLDER / f"{name}-{now:%Y%m%dT%H%M%S.%f}Z"
    with map_storage_errors(folder, name):
        if remove_dead_staging(folder / STAGING_FOLDER):
            raise LakeConflictError(
                "a run is writing this table; let it end, or end it, then try again", stream=name
            )
        create_folder(target.parent)
        folder.rename(target)
    return target
