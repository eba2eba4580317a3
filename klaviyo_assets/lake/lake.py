"""The lake: all tables below one data folder, and every operation on them.

The other rooms use the lake through the class `Lake` and the value types that its methods take and
return. They never join a path below its folder themselves.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from klaviyo_assets.errors import LakeConflictError, LakeError, MissingTableError, SettingError
from klaviyo_assets.lake.delta.log import read_current_snapshot, take_snapshot
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
    FILE_MODE_MASK,
    create_folder,
    ensure_writable_folder,
    map_storage_errors,
    remove_dead_staging,
    set_mode,
)
from klaviyo_assets.lake.layout import (
    DATABASE_FILE,
    HISTORY_SUFFIX,
    SET_ASIDE_FOLDER,
    SPILL_FOLDER,
    STAGING_FOLDER,
    LakeIdentity,
    LakeLocation,
    LakeTable,
    build_history_table,
    ensure_identity,
    read_location,
    record_account,
    response_cache_folder,
    table_folder,
)
from klaviyo_assets.lake.maintenance.vacuum import VacuumResult, vacuum_tables
from klaviyo_assets.lake.parquet import find_unredacted_quarantine, write_quarantine
from klaviyo_assets.lake.read.database import publish_database, read_targets
from klaviyo_assets.lake.read.duckdb import load_duckdb
from klaviyo_assets.lake.read.export import (
    ExportProgress,
    ReportExportProgress,
    TargetView,
    build_export_statements,
    export_tables,
    partial_export_path,
    read_exports,
    record_export,
    refuse_export_target,
    write_target_views,
)
from klaviyo_assets.lake.read.integrity import (
    ReportCheckProgress,
    TheirTables,
    compare_streams,
    count_duplicate_keys,
    find_database_problems,
    find_missing_views,
    find_table_problems,
    read_null_counts,
)
from klaviyo_assets.lake.read.queries import (
    ArrivalDelay,
    ArrivalQuery,
    DayCount,
    DayCountQuery,
    count_relation_rows,
    count_rows_by_day,
    first_stored_day,
    measure_arrival_delays,
    open_published_views,
    query_relation,
    read_relation_columns,
    read_table_columns,
)
from klaviyo_assets.lake.read.views import Relation, stored_columns, stored_tables
from klaviyo_assets.lake.response_cache import ReportResponseCache, write_file_atomically
from klaviyo_assets.lake.write.report_partitions import (
    BuildState,
    PartitionFetch,
    build_refusal_change,
    build_replacement,
    replace_partitions,
)
from klaviyo_assets.lake.write.session import ChangeHistory, IdScanSession, WriteMode, WriteSession
from klaviyo_assets.lake.write.table_writer import (
    CommitReceipt,
    TableWriter,
    refuse_missing_columns,
)
from klaviyo_assets.locks import check_lock_support
from klaviyo_assets.model.report import ReportPartition
from klaviyo_assets.model.view import ComparedStream, MappedSchema, StreamComparison
from klaviyo_assets.settings import InvalidPathError, check_lake_path

if TYPE_CHECKING:
    import duckdb

    from klaviyo_assets.lake.maintenance.erasure import ErasureResult
    from klaviyo_assets.lake.maintenance.personal_data import ProfileTable

RETIRED_FILE_GRACE = timedelta(hours=1)
"""How long vacuum spares a retired file, so that a query that still reads it can end."""


class Lake:
    """The tables below `root`, the setting `KLAVIYO_DATA_DIR`. To create one does no I/O."""

    def __init__(
        self,
        root: Path,
        *,
        clock: Callable[[], datetime],
        grace: timedelta = RETIRED_FILE_GRACE,
        folder_mode: str = "",
    ) -> None:
        """Take the folder; `clock` returns the time in UTC.

        `folder_mode` is the setting `KLAVIYO_FOLDER_MODE`: octal, or "" for a lake that only its
        owner reads.
        """
        self.root, self.clock, self.grace = root.absolute(), clock, grace
        self.folder_mode = folder_mode

    def __str__(self) -> str:
        """Return the data folder, for messages."""
        return str(self.root)

    @staticmethod
    def load_duckdb() -> None:
        """Import and start DuckDB now (100 ms), while the caller waits for something else."""
        load_duckdb()

    def read_table_state(self, name: str) -> TableState | None:
        """Return the state of a table; None where no sync wrote it, or another engine emptied it.

        Reads one commit where the newest is ours, and the whole log only where it is not.

        Raises:
            CorruptFileError: a part of the log that had to be read is damaged.
            LakeVersionError: a later version of this project wrote it, or another engine used a
                feature that we do not read.
        """
        return read_newest_table_state(table_folder(self.root, name), name)

    def check_table_state(self, name: str) -> TableState | None:
        """Return the state as `read_table_state` does, and check that the whole log can be read.

        The next session in this process starts from what was read here.

        Raises:
            CorruptFileError, LakeVersionError: as for `read_table_state`.
        """
        folder = table_folder(self.root, name)
        return table_state(read_current_snapshot(folder, name))

    def has_tables(self) -> bool:
        """Return whether anything was ever stored. Lists the lake's folder."""
        return any(stored_tables(self.root))

    def measure_table_bytes(self, name: str) -> int:
        """Return the size of a table's current files, by its log; 0 where no sync wrote it.

        Raises:
            CorruptFileError: the log cannot be read.
        """
        snapshot = read_current_snapshot(table_folder(self.root, name), name)
        return 0 if snapshot is None else sum(each.size for each in snapshot.files)

    def last_commit_time(self, name: str) -> datetime | None:
        """Return when the newest commit of a table was written, by the disk, UTC; None without."""
        logs = (table_folder(self.root, name) / "_delta_log").glob("*.json")
        times = [each.stat().st_mtime for each in logs]
        return datetime.fromtimestamp(max(times), UTC) if times else None

    def stored_account(self) -> str | None:
        """Return the account whose data the lake holds; None while it is empty.

        Reads one commit in nearly every case.
        """
        return stored_account(self.root, tables=stored_tables(self.root))

    def stored_accounts(self) -> frozenset[str]:
        """Return the accounts whose data the tables hold, by their current names.

        That is one account, or several where another program copied in tables of another lake.
        Reads one commit of each table.
        """
        return frozenset(stored_accounts(self.root, tables=stored_tables(self.root)))

    def ensure_identity(self) -> LakeIdentity:
        """Return the lake's own id and its account's names; a lake without an id gets one.

        Raises:
            StorageError: the folder cannot be written.
        """
        return ensure_identity(self.root)

    def read_location(self) -> LakeLocation:
        """Return the lake's id, and the host, device and folder where it lies.

        Raises:
            StorageError: the folder does not exist, or cannot be written.
        """
        return read_location(self.root)

    def record_account(self, account: str, *, aliases: Iterable[str]) -> bool:
        """Store `account` as the current name of the lake's account; return whether that is new.

        `aliases` are other names of the same account, which older commits and other keys use.

        Raises:
            StorageError: the folder cannot be written.
        """
        return record_account(self.root, account, aliases=aliases)

    def refuse_other_account(self, account: str) -> None:
        """Refuse to bring a second account into the lake. Reads one commit of each table.

        Raises:
            WrongAccountError: a table holds another account's data.
            LakeVersionError: a later version of this project wrote a table.
        """
        refuse_other_account(self.root, account, tables=stored_tables(self.root))

    def prepare_for_sync(self, account: str) -> None:
        """Raise, before the first request, what would otherwise fail at the first commit.

        Raises:
            WrongAccountError: the lake holds another account's data; nothing was written.
            LakeVersionError: a later version of this project wrote a table.
            StorageError: the folder cannot be written.
        """
        self.refuse_other_account(account)
        self.ensure_writable()

    def ensure_writable(self) -> None:
        """Create the data folder; check that it can be written and that its files can be locked.

        Raises:
            SettingError: the path cannot be used, or its file system does not lock files.
            StorageError: the folder cannot be written.
        """
        self._refuse_path()
        ensure_writable_folder(self.root / "lake")
        with map_storage_errors(self.root, None):
            check_lock_support(self.root, variable="KLAVIYO_DATA_DIR")

    def open_session(  # noqa: PLR0913 - what a session needs, by name
        self,
        table: LakeTable,
        *,
        account: str,
        mode: WriteMode,
        with_history: bool,
        with_changes: bool = False,
        started_at: datetime,
    ) -> WriteSession:
        """Return a session that writes `table`; the caller closes it.

        `with_history`: it also writes every version of a row to the history table.

        `with_history` keeps every version, `with_changes` each whose history columns changed. A
        commit succeeds only if the table is still at the version that it has now.

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
        history_table = build_history_table(table)
        changes = ChangeHistory(
            table=history_table,
            folder=table_folder(self.root, history_table.name),
            account=account,
            clock=self.clock,
            started_at=started_at,
        )
        return WriteSession(
            writers[-1],
            writers[0] if with_history else None,
            changes=changes if with_changes else None,
            mode=mode,
            started_at=started_at,
            root=self.root,
        )

    def open_id_scan(self, table: LakeTable, *, account: str) -> IdScanSession:
        """Return a session that takes the ids of a complete scan, and marks the rows it missed."""
        return IdScanSession(table, self.root, account=account, clock=self.clock)

    def replace_report_partitions(
        self,
        table: LakeTable,
        *,
        account: str,
        partitions: Mapping[ReportPartition, PartitionFetch],
        batch: pa.RecordBatch,
        build_state: BuildState,
    ) -> CommitReceipt:
        """Replace the rows and states of exactly these report partitions, in one commit.

        A partition without a row is stored as empty. Only the files of the touched metrics and
        months are rewritten. If another writer commits first, this starts over from that version
        and calls `build_state` again; its result is stored in the commit, beside the states of the
        partitions.

        Raises:
            WrongAccountError: the lake holds another account's data; nothing was written.
            LakeError: a row belongs to none of the partitions, or two rows have one key.
            CorruptFileError: a stored file that has to be read is missing or damaged.
            StorageError: an operation on the disk failed; the table is unchanged.
        """
        wanted = build_replacement(
            table, account=account, partitions=partitions, batch=batch, build_state=build_state
        )
        return replace_partitions(wanted, self.root, clock=self.clock)

    def record_metric_refusal(
        self, table: LakeTable, *, account: str, metric_id: str, refusal: MetricRefusal | None
    ) -> CommitReceipt:
        """Store that Klaviyo refused a metric; None removes that.

        The first report partition that is stored for the metric removes it as well.

        Raises:
            WrongAccountError, CorruptFileError, StorageError: as for `replace_report_partitions`.
        """
        wanted = build_refusal_change(table, account=account, metric_id=metric_id, refusal=refusal)
        return replace_partitions(wanted, self.root, clock=self.clock)

    def read_partition_states(self, name: str) -> Mapping[ReportPartition, PartitionState]:
        """Return the partitions of a report's table, empty ones included. Reads one commit.

        Raises:
            CorruptFileError: the log or the stored states cannot be read.
        """
        known = self.read_table_state(name)
        return {} if known is None else read_partition_states(known.state, stream=name)

    def read_metric_refusals(self, name: str) -> Mapping[str, MetricRefusal]:
        """Return the metrics that Klaviyo refused for a report."""
        known = self.read_table_state(name)
        return {} if known is None else read_metric_refusals(known.state)

    def quarantine_records(self, name: str, records: Iterable[tuple[str, bytes]]) -> int:
        """Write records that the table cannot hold to the quarantine; return how many they were.

        `records` are pairs of the reason and the record's bytes.

        Raises:
            StorageError: an operation on the disk failed.
        """
        return write_quarantine(self.root, name, records)

    def find_unredacted_quarantine(self, name: str) -> Path | None:
        """Return the quarantine folder of a stream if a record there is more than an id.

        Raises:
            CorruptFileError: a file cannot be read.
        """
        return find_unredacted_quarantine(self.root, name)

    def response_cache(self, name: str) -> ReportResponseCache:
        """Return the cache of a report's responses. No I/O before it is used."""
        return ReportResponseCache(response_cache_folder(self.root, name), name, clock=self.clock)

    def publish(
        self, relations: Sequence[Relation], *, lake_root: str | None = None
    ) -> tuple[LakeError, ...]:
        """Write `klaviyo.duckdb` with views of all tables as they are now.

        Several processes may do so at once. `lake_root` is the path at which the readers have
        mounted the lake's folder: "" for the path here, None to leave it as it was.

        Returns an error for each table that cannot be read and so has no view. They are returned
        and not raised, because the damage of another stream must not fail this one.

        Raises:
            SettingError: the folder's path cannot be used.
            StorageError: the folder cannot be written, or another publisher does not finish.
        """
        self._refuse_path()
        return publish_database(
            self.root, relations, lake_root=lake_root, folder_mode=self.folder_mode
        )

    def publish_to_target(
        self, target: Path, mapped: MappedSchema, relations: Sequence[Relation]
    ) -> list[TargetView]:
        """Write views with another tool's names into a database of the user's.

        They show the lake as it is now until they are written again: vacuum spares their files. The
        path is recorded, so that an erasure searches the file. Errors: see `write_target_views`.
        """
        self._refuse_path()
        return write_target_views(self.root, target, mapped, relations, at=self.clock())

    def compare_with(
        self,
        other: Path,
        schema: str,
        compared: Sequence[ComparedStream],
        relations: Sequence[Relation],
    ) -> list[StreamComparison]:
        """Compare ids with another tool's tables, as `compare_streams` says; change nothing."""
        ours = {each.name: each for each in relations}
        theirs = TheirTables(other, schema, spill=self.root / "lake" / SPILL_FOLDER)
        return compare_streams(self.root, ours, theirs, compared)

    def target_databases(self) -> list[Path]:
        """Return the users' databases that views of the lake were written into."""
        return [Path(each) for each in read_targets(self.root)]

    def _refuse_path(self) -> None:
        # The absolute path: where a relative one lies depends on where the process was started.
        try:
            check_lake_path(str(self.root))
        except InvalidPathError as refused:
            raise SettingError(
                f"the lake would lie in {str(self.root)!r}, by KLAVIYO_DATA_DIR and the folder "
                f"that this process was started in: {refused}"
            ) from None

    def query_relation(
        self, name: str, relations: Sequence[Relation] = ()
    ) -> "duckdb.DuckDBPyRelation":
        """Return a relation as it is now, on its own in-memory connection.

        `relations` describes the relations that are not plain tables; those of the last `publish`
        need not be given.

        Raises:
            MissingTableError: no sync wrote a table that the relation needs.
        """
        return query_relation(self.root, name, relations)

    def open_published_views(
        self, *, memory_limit: str | None = None
    ) -> "duckdb.DuckDBPyConnection":
        """Open `klaviyo.duckdb` for queries alone; the caller closes it.

        `memory_limit` is DuckDB's setting, such as `512MB`; None leaves DuckDB's own.

        Raises:
            MissingTableError: there is no database yet.
            StorageError: it cannot be opened.
        """
        return open_published_views(self.root, memory_limit=memory_limit)

    def map_query_errors(self) -> AbstractContextManager[None]:
        """Raise a StorageError for a query of `klaviyo.duckdb` that fails in the block."""
        return map_storage_errors(self.root / DATABASE_FILE, None)

    def write_page(self, name: str, html: str) -> Path:
        """Write an HTML page beside `klaviyo.duckdb`, whole or not at all; return where it is.

        Whoever may read the database may read the page.

        Raises:
            StorageError: an operation on the disk failed.
        """
        target = self.root / name
        with map_storage_errors(target, None):
            self.root.mkdir(parents=True, exist_ok=True)
            write_file_atomically(target, html.encode(), modified_at=self.clock().timestamp())
            if self.folder_mode:
                set_mode(target, int(self.folder_mode, 8) & FILE_MODE_MASK)
        return target

    def count_relation_rows(self, name: str) -> int:
        """Return how many rows a relation of the last `publish` has, by reading its tables.

        Raises:
            MissingTableError: no sync wrote a table that the relation needs.
            StorageError: a file cannot be read.
        """
        return count_relation_rows(self.root, name)

    def read_columns(self, name: str, columns: Sequence[str]) -> pa.Table:
        """Return some columns of a whole stored table, in memory; empty where no sync wrote it.

        Raises:
            CorruptFileError: a file is missing or damaged.
        """
        return read_table_columns(self.root, name, columns)

    def read_relation_columns(self, name: str, columns: Sequence[str]) -> pa.Table:
        """Return some columns of a relation of the last `publish`, NULL where it has none so named.

        Raises:
            MissingTableError: no sync wrote a table that the relation needs.
            StorageError: a file cannot be read.
        """
        return read_relation_columns(self.root, name, columns)

    def stored_columns(self, name: str) -> list[str] | None:
        """Return the names of a table's columns as they are now; None where there is no table.

        Raises:
            CorruptFileError: the log cannot be read.
            LakeVersionError: the table was written by another version, or by another program.
        """
        return stored_columns(self.root, name)

    def count_rows_by_day(self, name: str, query: DayCountQuery) -> list[DayCount]:
        """Return the numbers of rows by day and value, in no order; none where no sync wrote any.

        Raises:
            CorruptFileError: the log cannot be read.
            StorageError: a file cannot be read.
        """
        return count_rows_by_day(self.root, name, query)

    def first_stored_day(self, name: str) -> date | None:
        """Return the first UTC day of which a table partitioned by day has rows; None without."""
        return first_stored_day(self.root, name)

    def measure_arrival_delays(
        self, name: str, query: ArrivalQuery, *, steps_per_doubling: int
    ) -> list[ArrivalDelay]:
        """Return the rows that came in since a version, by value and by how late they came.

        The scale is logarithmic, with `steps_per_doubling` steps for each doubling of the delay.

        Raises:
            CorruptFileError: the log cannot be read.
            StorageError: a file cannot be read.
        """
        return measure_arrival_delays(self.root, name, query, steps_per_doubling=steps_per_doubling)

    def export_tables(
        self,
        target: Path,
        relations: Sequence[Relation],
        names: Sequence[str],
        *,
        overwrite: bool,
        report_progress: ReportExportProgress,
    ) -> list[ExportProgress]:
        """Write relations with their rows to one DuckDB file; no names mean all relations.

        The path is recorded first, so that a later erasure searches the file.

        Raises:
            SettingError: the target cannot be used, or there is no relation of a name.
            MissingTableError: no sync wrote one of the named tables, or any.
            LakeError: a table cannot be read, or its rows need too much memory.
            StorageError: an operation on the disk failed, or another export writes this file.
        """
        refuse_export_target(self.root, target, overwrite=overwrite)
        statements = build_export_statements(self.root, relations, names)
        record_export(self.root, target, exported_at=self.clock())
        return export_tables(target, statements, report_progress=report_progress)

    def exported_files(self) -> list[Path]:
        """Return the files that exports were written to, and what a killed export may have left.

        Users' databases with views of the lake are among them: their tables may be copies.
        """
        exports = read_exports(self.root)
        return [*exports, *map(partial_export_path, exports), *self.target_databases()]

    def vacuum(self, name: str, *, grace: timedelta | None = None) -> VacuumResult:
        """Remove files of a table and its history that were retired before the grace.

        It also shortens their logs, and prunes the table's cached responses.

        Raises:
            CorruptFileError: the log cannot be read.
            StorageError: an operation on the disk failed.
        """
        if response_cache_folder(self.root, name).is_dir():
            self.response_cache(name).prune()
        return vacuum_tables(
            self.root,
            (name, name + HISTORY_SUFFIX),
            now=self.clock(),
            grace=self.grace if grace is None else grace,
        )

    def erase_profiles(
        self,
        profile_tables: "Sequence[ProfileTable]",
        ids: Sequence[str],
        *,
        relations: Sequence[Relation],
        other_places: Sequence[Path] = (),
    ) -> "ErasureResult":
        """Remove all data of some profiles from the disk; safe to repeat after a kill.

        `other_places` are files and folders outside of the lake that are searched, not changed.

        Raises:
            LakeConflictError: a run is writing one of the tables.
            CorruptFileError: a file or log that has to be read is missing or damaged.
            StorageError: an operation on the disk failed.
        """
        # Late: it imports sqlite3 and six archive formats, which no other verb and no sync needs.
        from klaviyo_assets.lake.maintenance.erasure import erase_profiles  # noqa: PLC0415

        return erase_profiles(
            self.root,
            profile_tables,
            ids,
            relations=relations,
            clock=self.clock,
            other_places=other_places,
        )

    def set_aside_table(self, name: str) -> Path:
        """Move a table out of the lake; return the folder where it is from now on.

        Raises:
            MissingTableError: there is no table of that name.
            LakeConflictError: a run is writing the table, which stays where it is.
            StorageError: an operation on the disk failed.
        """
        folder = table_folder(self.root, name)
        if not folder.exists():
            raise MissingTableError(f"there is no table {name} in {self.root}", stream=name)
        target = self.root / "lake" / SET_ASIDE_FOLDER / f"{name}-{self.clock():%Y%m%dT%H%M%S.%f}Z"
        with map_storage_errors(folder, name):
            if remove_dead_staging(folder / STAGING_FOLDER):
                raise LakeConflictError(
                    "a run is writing this table; let it end, or end it, then try again",
                    stream=name,
                )
            create_folder(target.parent)
            folder.rename(target)
        return target

    def count_duplicate_keys(self, name: str) -> int:
        """Return how many keys a stored table has more than once. Reads the keys of every row.

        Raises:
            MissingTableError: no sync wrote the table.
            CorruptFileError: a file or the log cannot be read.
            StorageError: the disk is full; keys that do not fit in memory are spilled to it.
        """
        return count_duplicate_keys(self.root, name)

    def read_null_counts(self, name: str) -> Mapping[str, int] | None:
        """Return the number of NULLs of each column that has any, by the log; None without a table.

        Raises:
            CorruptFileError: the log cannot be read.
        """
        return read_null_counts(self.root, name)

    def check_integrity(self, *, report_progress: ReportCheckProgress | None = None) -> None:
        """Read every file of every table, look for duplicate keys, and bind every view.

        `report_progress` gets the table that is read, and which share of the work is done.

        Raises:
            CorruptFileError: a file or log is missing or damaged; the message names all of them.
            LakeError: a key is there twice, or klaviyo.duckdb does not show what was published.
        """
        found = [
            *find_table_problems(self.root, report_progress),
            *find_database_problems(self.root),
        ]
        found = found or list(find_missing_views(self.root))
        if found:
            first = found[0]
            first.message = "\n".join([first.message, *(str(other) for other in found[1:])])
            raise first
