"""The Delta log of one table: its snapshot, data files and our state in a commit, and a new commit.

A commit brings data files and the sync's state in one step.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import (
    AddAction,
    CommitProperties,
    PostCommitHookProperties,
    RemoveAction,
    create_table_with_add_actions,
)

from klaviyo_assets.arrow_buffers import to_python_values
from klaviyo_assets.errors import LakeConflictError, LakeVersionError
from klaviyo_assets.lake.disk import corrupt_file_error, map_read_errors, storage_error
from klaviyo_assets.lake.layout import (
    LAKE_VERSION,
    PARTITION_COLUMNS,
    LakeTable,
    parse_partition_values,
)
from klaviyo_assets.lake.parquet import DataFile
from klaviyo_assets.seams import reach_crash_point

RANGE_PREFIXES = ("min.", "max.")
STATISTIC_PREFIXES = (*RANGE_PREFIXES, "null_count.")
"""How the names of deltalake's columns of `add` actions begin."""


def read_data_files(table: DeltaTable, folder: Path) -> Iterator[DataFile]:
    """Yield the data files of the loaded version, with the column ranges that the log records."""
    file_actions = read_add_actions(table)
    # Only key, cursor and `synced_at` have a range: three of the fifteen columns of events.
    columns = {
        name: to_python_values(column)
        for name, column in zip(file_actions.schema.names, file_actions.columns, strict=True)
        if not name.startswith(STATISTIC_PREFIXES)
        or (name.startswith(RANGE_PREFIXES) and column.null_count < len(column))
    }
    lows = {name[4:]: values for name, values in columns.items() if name.startswith("min.")}
    highs = {name[4:]: values for name, values in columns.items() if name.startswith("max.")}
    partition_values = {
        name: columns[f"partition.{name}"] for name in partition_column_names(table)
    }
    for at, path in enumerate(columns["path"]):
        count = columns["num_records"][at]
        yield DataFile(
            path=path,
            # A date is written as ISO 8601.
            partition="/".join(f"{name}={values[at]}" for name, values in partition_values.items()),
            size=columns["size_bytes"][at],
            # Another engine may write no statistics, or only some.
            rows=read_footer_row_count(folder / path) if count is None else count,
            min_values={
                name: values[at] for name, values in lows.items() if values[at] is not None
            },
            max_values={
                name: values[at] for name, values in highs.items() if values[at] is not None
            },
        )


def read_add_actions(table: DeltaTable) -> pa.Table:
    """Return the `add` actions of the loaded version: a row per file, a column per statistic."""
    # Not `pa.table`, which looks for pandas.
    return pa.RecordBatchReader.from_stream(table.get_add_actions(flatten=True)).read_all()


def read_footer_row_count(path: Path) -> int:
    """Return the number of rows that the footer of a Parquet file names."""
    with map_read_errors(path, path.parent.name):
        return pq.read_metadata(path).num_rows


def partition_column_names(table: DeltaTable) -> list[str]:
    """Return the names of the table's partition columns."""
    return table.metadata().partition_columns


COMMIT_METADATA_KEY = "klaviyo_assets"
DELTA_LOG_FOLDER = "_delta_log"

KNOWN_PARTITIONINGS = [list(columns) for columns in PARTITION_COLUMNS.values()]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitState:
    """Our metadata in a commit: account, layout version, state of the sync, session.

    `state` is what the sync stored, with its cursor. `key` names the key columns: a check of the
    lake needs them and does not know the stream. `keeps_keys`: every key of the version before is
    still there. `is_unique`: each key is there once. Both are False where that is not known.
    """

    account: str
    key: tuple[str, ...]
    state: dict[str, object]
    rows: int
    session: str
    sequence: int
    keeps_keys: bool = False
    is_unique: bool = False
    lake_version: int = LAKE_VERSION

    def to_metadata(self) -> dict[str, object]:
        """Return the state as the custom metadata of a commit."""
        return {
            "account": self.account,
            "is_unique": self.is_unique,
            "keeps_keys": self.keeps_keys,
            "key": [*self.key],
            "lake_version": self.lake_version,
            "rows": self.rows,
            "sequence": self.sequence,
            "session": self.session,
            "state": self.state,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSnapshot:
    """A table at one version.

    `schema` leaves out the partition columns. `commit_state` is that of the newest commit that this
    project made, which may be older than `version`.
    """

    table: DeltaTable
    version: int
    schema: pa.Schema
    files: tuple[DataFile, ...]
    commit_state: CommitState | None

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return sum(file.rows for file in self.files)

    @property
    def is_emptied(self) -> bool:
        """Tell whether another engine removed all rows since our last commit, which had some."""
        return not self.files and self.commit_state is not None and self.commit_state.rows > 0


def commit_file_path(folder: Path, version: int) -> Path:
    """Return the path of the commit file of one version."""
    return folder / DELTA_LOG_FOLDER / f"{version:020d}.json"


def newest_version(folder: Path) -> int | None:
    """Return the newest version by a listing of the log alone; None where there is no log."""
    return max(list_commit_versions(folder), default=None)


def read_actions(path: Path, kind: str) -> Iterator[dict[str, object]]:
    """Yield the actions of one kind (`add`, `remove`, `commitInfo`) of a commit file."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            # Commit files have thousands of lines; only those that can match are parsed.
            if line.startswith(f'{{"{kind}":'):
                yield json.loads(line)[kind]


def refuse_torn_commit(path: Path, stream: str) -> None:
    """Refuse a commit whose last line is cut off, as a power cut can leave it.

    Raises:
        CorruptFileError: the last line is no JSON.
    """
    try:
        json.loads(path.read_bytes().rstrip().rpartition(b"\n")[2])
    except ValueError:
        raise corrupt_file_error(path, stream) from None


def read_newest_commit_state(folder: Path, version: int, stream: str) -> CommitState | None:
    """Return the state in our newest commit at or before `version`; None where there is none.

    Raises:
        CorruptFileError: a commit cannot be read.
        LakeVersionError: a version of this project with another layout wrote it.
    """
    while version >= 0 and commit_file_path(folder, version).exists():
        commit_state = read_commit_state(folder, version, stream)
        if commit_state is not None:
            return commit_state
        version -= 1
    return None


def read_commit_states(
    folder: Path, stream: str, *, after: int, up_to: int
) -> Iterator[CommitState | None]:
    """Yield the state in each commit later than `after`, up to and including `up_to`.

    None stands for a commit of another program, and for one that is no longer in the log.

    Raises:
        CorruptFileError: a commit cannot be read.
        LakeVersionError: a version of this project with another layout wrote it.
    """
    for version in range(after + 1, up_to + 1):
        is_there = commit_file_path(folder, version).exists()
        yield read_commit_state(folder, version, stream) if is_there else None


def read_commit_state(folder: Path, version: int, stream: str) -> CommitState | None:
    """Return the state in a commit that is in the log; None where another program made it.

    Raises:
        CorruptFileError: the commit cannot be read.
        LakeVersionError: a version of this project with another layout wrote it.
    """
    path = commit_file_path(folder, version)
    try:
        metadata = [
            info[COMMIT_METADATA_KEY]
            for info in read_actions(path, "commitInfo")
            if COMMIT_METADATA_KEY in info
        ]
        return (
            parse_commit_state(cast("dict[str, object]", metadata[0]), stream) if metadata else None
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise corrupt_file_error(path, stream) from None


def parse_commit_state(metadata: Mapping[str, object], stream: str) -> CommitState:
    """Return the state from the metadata of a commit of ours; unknown keys are ignored.

    Raises:
        LakeVersionError: another version of this project, with another layout, wrote it.
    """
    found = cast("int", metadata["lake_version"])
    if found > LAKE_VERSION:
        raise LakeVersionError(
            f"the lake was written by a later version of klaviyo_assets (layout {found}; this one "
            f"reads up to {LAKE_VERSION}). Upgrade, or choose another KLAVIYO_DATA_DIR",
            stream=stream,
        )
    if found < LAKE_VERSION:
        # Columns that a release adds need no other layout; a release with one brings the way there.
        raise LakeVersionError(
            f"the lake was written by an earlier version of klaviyo_assets (layout {found}; this "
            f"one reads {LAKE_VERSION}). Read the streams again into another KLAVIYO_DATA_DIR",
            stream=stream,
        )
    return CommitState(
        account=str(metadata["account"]),
        key=tuple(cast("list[str]", metadata["key"])),
        state=cast("dict[str, object]", metadata["state"]),
        rows=cast("int", metadata["rows"]),
        session=str(metadata["session"]),
        sequence=cast("int", metadata["sequence"]),
        keeps_keys=metadata.get("keeps_keys") is True,
        is_unique=metadata.get("is_unique") is True,
        lake_version=found,
    )


def read_snapshot(folder: Path, stream: str, version: int | None = None) -> TableSnapshot | None:
    """Return the table as it is now, or at `version`; None where there is none.

    Raises:
        CorruptFileError: the log cannot be read.
        LakeVersionError: a later version, or another engine's feature, that we do not read.
    """
    try:
        # Where there is no folder, asking deltalake would take longer.
        if not (folder / DELTA_LOG_FOLDER).is_dir():
            return None
        table = DeltaTable(folder, version=version)
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as cause:
        raise log_error(cause, folder, stream) from None
    refuse_unsupported_features(table, stream)
    partition_columns = partition_column_names(table)
    schema = pa.schema(cast("Any", table.schema().to_arrow()))
    pairs = zip(schema.names, schema.types, strict=True)
    return TableSnapshot(
        table=table,
        version=table.version(),
        schema=pa.schema([(name, kind) for name, kind in pairs if name not in partition_columns]),
        files=tuple(read_data_files(table, folder)),
        commit_state=read_newest_commit_state(folder, table.version(), stream),
    )


CommitStamp = tuple[int, int, int, int]
"""The newest commit of a log: its version, and the inode, size and modification time of its file.

A commit never changes once it is written. A table that was set aside and begun anew has other
stamps, although its versions start from zero again.
"""

MAX_HANDED_ON_SNAPSHOTS = 4
"""Snapshots in memory for their next user: a table and its history, twice. One of 6,000 files takes
15 to 20 MiB."""

handed_on_snapshots: dict[Path, tuple[CommitStamp, TableSnapshot]] = {}
"""By the table's folder, the one handed on first at the beginning."""


def read_newest_stamp(folder: Path) -> CommitStamp | None:
    """Return the stamp of the newest commit; None without one, or where it was just removed."""
    version = newest_version(folder)
    return None if version is None else read_commit_stamp(folder, version)


def read_commit_stamp(folder: Path, version: int) -> CommitStamp | None:
    """Return the stamp of one commit; None where it is not in the log."""
    with suppress(FileNotFoundError):
        file = commit_file_path(folder, version).stat()
        return version, file.st_ino, file.st_size, file.st_mtime_ns
    return None


def hand_on_snapshot(folder: Path, snapshot: TableSnapshot | None) -> None:
    """Leave a snapshot to the next `take_snapshot` of this process.

    The caller must not commit with it any more. Its schema and files stay as they are.
    """
    # After a lost race the loaded table is ahead of its snapshot.
    if snapshot is None or snapshot.table.version() != snapshot.version:
        return
    stamp = read_commit_stamp(folder, snapshot.version)
    if stamp is None:
        return
    handed_on_snapshots.pop(folder, None)
    handed_on_snapshots[folder] = stamp, snapshot
    for oldest in list(handed_on_snapshots)[:-MAX_HANDED_ON_SNAPSHOTS]:
        handed_on_snapshots.pop(oldest, None)


def take_snapshot(folder: Path, stream: str) -> TableSnapshot | None:
    """Return the table as it is now: the snapshot that was handed on, else as `read_snapshot`.

    To open the log of a large table takes 0.3 s, so one run opens it once: whoever is done with a
    snapshot hands it on. It has one owner at a time, because a commit changes it. A commit by
    anybody else makes it stale; the stamp tells, from a listing of the log.

    Raises:
        CorruptFileError, LakeVersionError: as for `read_snapshot`.
    """
    handed_on = handed_on_snapshots.pop(folder, None)
    if handed_on is not None and handed_on[0] == read_newest_stamp(folder):
        return handed_on[1]
    return read_snapshot(folder, stream)


def peek_snapshot(folder: Path, stamp: CommitStamp | None) -> TableSnapshot | None:
    """Return the snapshot that was handed on, for reading its schema and files; it stays there.

    None where there is none, or where `stamp`, the newest commit now, is not its commit.
    """
    handed_on = handed_on_snapshots.get(folder)
    return handed_on[1] if handed_on is not None and handed_on[0] == stamp else None


def read_current_snapshot(folder: Path, stream: str) -> TableSnapshot | None:
    """Return the table as it is now, for reading its schema and files, and leave it to the next.

    Raises:
        CorruptFileError, LakeVersionError: as for `read_snapshot`.
    """
    snapshot = take_snapshot(folder, stream)
    hand_on_snapshot(folder, snapshot)
    return snapshot


def log_error(cause: BaseException, folder: Path, stream: str) -> Exception:
    """Return the error for a log that deltalake could not read."""
    if isinstance(cause, PermissionError) or "ermission denied" in str(cause):
        return storage_error(PermissionError(13, ""), folder / DELTA_LOG_FOLDER, stream)
    return corrupt_file_error(folder / DELTA_LOG_FOLDER, stream)


def refuse_unsupported_features(table: DeltaTable, stream: str) -> None:
    """Refuse a table with Delta features that DuckDB's `read_parquet` ignores: rows would be wrong.

    Raises:
        LakeVersionError: deletion vectors, column mapping, or another partitioning.
    """
    if (
        table.protocol().min_reader_version > 1
        or partition_column_names(table) not in KNOWN_PARTITIONINGS
    ):
        raise LakeVersionError(
            "another program gave this table Delta features that klaviyo_assets does not read "
            "(deletion vectors, column mapping, other partitions). Copy it without them, or move "
            f"it away with `klaviyo-assets set-aside {stream}` and materialize the asset again",
            stream=stream,
        )


def list_commit_versions(folder: Path) -> list[int]:
    """Return the versions whose commits are still in the log, the oldest first."""
    names = (path.stem for path in (folder / DELTA_LOG_FOLDER).glob("*.json"))
    return sorted(int(name) for name in names if name.isdecimal())


def read_removed_paths(path: Path) -> Iterator[str]:
    """Yield the paths of the files that a commit removed from the table."""
    for action in read_actions(path, "remove"):
        yield unquote(str(action["path"]))


def read_path_changes(
    folder: Path, *, after: int, up_to: int
) -> tuple[frozenset[str], frozenset[str]] | None:
    """Return the paths that the commits later than `after`, up to `up_to`, added and removed.

    None where one of these commits is no longer in the log.
    """
    changes: dict[str, set[str]] = {"add": set(), "remove": set()}
    for version in range(after + 1, up_to + 1):
        path = commit_file_path(folder, version)
        if not path.exists():
            return None
        for kind, paths in changes.items():
            paths.update(unquote(str(action["path"])) for action in read_actions(path, kind))
    return frozenset(changes["add"]), frozenset(changes["remove"])


def read_paths_removed_since(folder: Path, *, after: int) -> Iterator[str]:
    """Yield the paths that commits later than `after` removed, as far as the log still has them."""
    for version in list_commit_versions(folder):
        if version > after:
            yield from read_removed_paths(commit_file_path(folder, version))


TABLE_CONFIGURATION: dict[str, str | None] = {
    # Our newest commit holds the sync's state, so no engine may clean it away; `vacuum` shortens
    # the log.
    "delta.enableExpiredLogCleanup": "false",
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 1 days",
}

# A checkpoint that fails must not make a successful commit look failed; `vacuum` writes it later.
POST_COMMIT_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableChange:
    """The files that a commit adds and removes.

    `rows_marked_deleted` counts the rows that it marks as deleted, `rows_lost` those of damaged
    files that it drops. `keeps_keys`: every key that was there is still there. Without it, a
    replacement that began before this commit cannot tell which keys the commit removed.
    `is_unique`: each key is there once; None: as it was in the version before.
    """

    added: Sequence[DataFile]
    removed: Sequence[DataFile]
    changed_at: datetime
    rows_marked_deleted: int = 0
    rows_lost: int = 0
    keeps_keys: bool = False
    is_unique: bool | None = None


def commit_change(
    folder: Path,
    table: LakeTable,
    start: TableSnapshot | None,
    change: TableChange,
    commit_state: CommitState,
) -> int:
    """Commit files and state on top of `start`; return the new version.

    Raises:
        LakeConflictError: another writer committed since `start`; nothing of ours is visible.
        StorageError: the disk refused; the table is as before.
    """
    version = 0 if start is None else start.version + 1
    if start is not None and start.table.version() != start.version:
        raise conflict_error(table.name)
    reach_crash_point("before a table commit")
    try:
        write_delta_commit(folder, table, start, change, commit_state)
    except (DeltaError, OSError) as cause:
        if is_own_commit(folder, version, commit_state, table.name):
            return version
        raise commit_error(cause, folder, version, table.name) from None
    reach_crash_point("after a table commit")
    return version


def write_delta_commit(
    folder: Path,
    table: LakeTable,
    start: TableSnapshot | None,
    change: TableChange,
    commit_state: CommitState,
) -> None:
    """Write the commit by deltalake."""
    properties = build_commit_properties(commit_state)
    partition_columns = list(PARTITION_COLUMNS[table.partitioning])
    adds = [build_add_action(file, change.changed_at) for file in change.added]
    if start is None:
        create_table_with_add_actions(
            str(folder),
            delta_schema(table),
            adds,
            mode="error",
            partition_by=partition_columns,
            name=table.name,
            configuration=TABLE_CONFIGURATION,
            commit_properties=properties,
            post_commithook_properties=POST_COMMIT_HOOKS,
        )
        return
    removes = [build_remove_action(file, change.changed_at) for file in change.removed]
    start.table.create_write_transaction(
        [*adds, *removes],
        mode="append",
        schema=start.table.schema(),
        partition_by=partition_columns,
        commit_properties=properties,
        post_commithook_properties=POST_COMMIT_HOOKS,
    )


def is_own_commit(folder: Path, version: int, commit_state: CommitState, stream: str) -> bool:
    """Tell whether the commit at `version` is ours after all, although an error was reported."""
    if not commit_file_path(folder, version).exists():
        return False
    found = read_newest_commit_state(folder, version, stream)
    return found is not None and (found.session, found.sequence) == (
        commit_state.session,
        commit_state.sequence,
    )


def commit_error(cause: BaseException, folder: Path, version: int, stream: str) -> Exception:
    """Return the error for a commit that failed: a conflict where another took the version."""
    if commit_file_path(folder, version).exists():
        return conflict_error(stream)
    return storage_error(cause, folder / DELTA_LOG_FOLDER, stream)


def conflict_error(stream: str) -> LakeConflictError:
    """Return the error for a writer that lost the race for a version."""
    return LakeConflictError(
        "another run committed first; nothing of this commit was stored. Let the other one end (a "
        "killed run may leave a step behind), then run again",
        stream=stream,
    )


def add_columns(
    start: TableSnapshot, added: pa.Schema, commit_state: CommitState, *, folder: Path
) -> None:
    """Commit new columns, NULL in the stored rows; `commit_state` repeats the state as it is.

    Raises:
        LakeConflictError: another writer committed since `start`.
        StorageError: the disk refused; the table is as before.
    """
    stream = folder.name
    try:
        start.table.alter.add_columns(
            Schema.from_arrow(added).fields,
            commit_properties=build_commit_properties(commit_state),
            post_commithook_properties=POST_COMMIT_HOOKS,
        )
    except (DeltaError, OSError) as cause:
        if not is_own_commit(folder, start.version + 1, commit_state, stream):
            raise commit_error(cause, folder, start.version + 1, stream) from None


def refuse_type_changes(stored: pa.Schema, table: LakeTable) -> None:
    """Refuse a table whose stored columns have another type than `table` gives them.

    Raises:
        LakeVersionError: a column has another type; the text names it.
    """
    stored_types = {field.name: field.type for field in Schema.from_arrow(stored).fields}
    for field in Schema.from_arrow(table.schema).fields:
        if stored_types.get(field.name, field.type) != field.type:
            raise LakeVersionError(
                f"the column {field.name} is {stored_types[field.name]} in the lake and "
                f"{field.type} in this release. Move the table away with `klaviyo-assets set-aside "
                f"{table.name}` and materialize the asset again",
                stream=table.name,
            )


def build_commit_properties(commit_state: CommitState) -> CommitProperties:
    """Return the properties of every commit: our state as metadata, and no retries by deltalake."""
    return CommitProperties(
        custom_metadata={COMMIT_METADATA_KEY: commit_state.to_metadata()}, max_commit_retries=0
    )


def delta_schema(table: LakeTable) -> Schema:
    """Return the table's schema as Delta's, with the partition columns last."""
    schema = table.schema
    for name, kind in PARTITION_COLUMNS[table.partitioning].items():
        schema = schema.append(pa.field(name, kind))
    return Schema.from_arrow(schema)


def build_add_action(file: DataFile, changed_at: datetime) -> AddAction:
    """Return the action that brings a file into the table."""
    stats = {
        "numRecords": file.rows,
        "minValues": {name: format_statistic(value) for name, value in file.min_values.items()},
        "maxValues": {name: format_statistic(value) for name, value in file.max_values.items()},
        "nullCount": dict.fromkeys(file.min_values, 0),
    }
    return AddAction(
        path=file.path,
        size=file.size,
        partition_values=parse_partition_values(file.partition),
        modification_time=epoch_milliseconds(changed_at),
        data_change=True,
        stats=json.dumps(stats),
    )


def build_remove_action(file: DataFile, changed_at: datetime) -> RemoveAction:
    """Return the action that removes a file from the table; the file itself stays for the grace."""
    return RemoveAction(
        path=file.path,
        data_change=True,
        deletion_timestamp=epoch_milliseconds(changed_at),
        size=file.size,
        partition_values=parse_partition_values(file.partition),
    )


def epoch_milliseconds(at: datetime) -> int:
    """Return the milliseconds since 1970."""
    return int(at.timestamp() * 1000)


def format_statistic(value: object) -> object:
    """Return a minimum or maximum in the form of Delta's statistics."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, date) else value
