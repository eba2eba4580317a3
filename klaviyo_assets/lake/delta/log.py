"""The Delta log of one table: its snapshot, data files and our state in a commit, and a new commit.

A commit brings data files and the sync's state in one step.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import CommitProperties, PostCommitHookProperties

from klaviyo_assets.arrow_buffers import to_python_values
from klaviyo_assets.errors import LakeConflictError, LakeVersionError
from klaviyo_assets.lake.disk import corrupt_file_error, map_read_errors, storage_error
from klaviyo_assets.lake.layout import (
    LAKE_VERSION,
    PARTITION_COLUMNS,
    LakeTable,
    parse_partition_values,
)
from klaviyo_assets.lake.parquet import NO_NULL_COUNTS, DataFile
from klaviyo_assets.seams import reach_crash_point

RANGE_PREFIXES = ("min.", "max.")
NULL_COUNT_PREFIX = "null_count."
STATISTIC_PREFIXES = (*RANGE_PREFIXES, NULL_COUNT_PREFIX)
"""How the names of deltalake's columns of `add` actions begin."""


def read_data_files(table: DeltaTable, folder: Path) -> Iterator[DataFile]:
    """Yield the data files of the loaded version, with the column ranges that the log records."""
    # Not `pa.table`, which looks for pandas.
    file_actions = pa.RecordBatchReader.from_stream(table.get_add_actions(flatten=True)).read_all()
    # Only key, cursor and `synced_at` have a range: three of the fifteen columns of events.
    columns = {
        name: to_python_values(column)
        for name, column in zip(file_actions.schema.names, file_actions.columns, strict=True)
        if not name.startswith(STATISTIC_PREFIXES)
        or (name.startswith(RANGE_PREFIXES) and column.null_count < len(column))
        or (name.startswith(NULL_COUNT_PREFIX) and pc.sum(column).as_py())
    }
    nulls = {
        name.removeprefix(NULL_COUNT_PREFIX): values
        for name, values in columns.items()
        if name.startswith(NULL_COUNT_PREFIX)
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
            null_counts={name: counts[at] for name, counts in nulls.items() if counts[at]}
            or NO_NULL_COUNTS,
        )


def read_footer_row_count(path: Path) -> int:
    """Return the number of rows that the footer of a Parquet file names."""
    with map_read_errors(path, path.parent.name):
        return pq.read_metadata(path).num_rows


def partition_column_names(table: DeltaTable) -> list[str]:
    """Return the names of the table's partition columns."""
    return table.metadata().partition_columns


COMMIT_METADATA_KEY = "klaviyo_assets"
DELTA_LOG_FOLDER = "_delta_log"

MAX_WRITER_VERSION = 6
"""Tables up to it need nothing in a commit of rows that ours lack; 7 may number the rows."""

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
    return TableSnapshot(
        version=table.version(),
        schema=stored_schema(table.schema(), partition_column_names(table)),
        files=tuple(read_data_files(table, folder)),
        commit_state=read_newest_commit_state(folder, table.version(), stream),
    )


def stored_schema(schema: Schema, partition_columns: Sequence[str]) -> pa.Schema:
    """Return the columns of a Delta schema as Arrow's, without the partition columns."""
    columns = pa.schema(cast("Any", schema.to_arrow()))
    pairs = zip(columns.names, columns.types, strict=True)
    return pa.schema([(name, kind) for name, kind in pairs if name not in partition_columns])


CommitStamp = tuple[int, int, int, int]
"""The newest commit of a log: its version, and the inode, size and modification time of its file.

A commit never changes once it is written. A table that was set aside and begun anew has other
stamps, although its versions start from zero again.
"""

MAX_HANDED_ON_SNAPSHOTS = 4
"""Snapshots in memory for their next user: a table and its history, twice. One of 7,500 files takes
13 MiB."""

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
    """Leave a snapshot to the next `take_snapshot` of this process."""
    if snapshot is None:
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
    snapshot, or has committed, hands it on. It is taken once: an outdated one does not stay. A
    commit by anybody else makes it stale; the stamp tells, from a listing of the log.

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
        LakeVersionError: deletion vectors, column mapping, or another partitioning; or a feature
            that asks more of a commit than ours have.
    """
    protocol, metadata = table.protocol(), table.metadata()
    if (
        protocol.min_reader_version > 1
        or protocol.min_writer_version > MAX_WRITER_VERSION
        or metadata.configuration.get("delta.appendOnly") == "true"
        or metadata.partition_columns not in KNOWN_PARTITIONINGS
    ):
        raise LakeVersionError(
            "another program gave this table Delta features that klaviyo_assets does not support "
            "(deletion vectors, column mapping, other partitions, append-only). Copy it without "
            f"them, or move it away with `klaviyo-assets set-aside {stream}` and materialize the "
            "asset again",
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
    reach_crash_point("before a table commit")
    try:
        write_commit_file(
            commit_file_path(folder, version),
            build_actions(table, change, commit_state, is_new=start is None),
        )
    except (DeltaError, OSError) as cause:
        if is_own_commit(folder, version, commit_state, table.name):
            return version
        raise commit_error(cause, folder, version, table.name) from None
    reach_crash_point("after a table commit")
    return version


def build_actions(
    table: LakeTable, change: TableChange, commit_state: CommitState, *, is_new: bool
) -> Iterator[dict[str, object]]:
    """Yield the actions of a commit, as the lines of its file."""
    partition_columns = list(PARTITION_COLUMNS[table.partitioning])
    at = epoch_milliseconds(change.changed_at)
    yield {
        "commitInfo": {
            "timestamp": at,
            "operation": "CREATE TABLE" if is_new else "WRITE",
            "operationParameters": {"mode": "Append", "partitionBy": json.dumps(partition_columns)},
            "engineInfo": COMMIT_METADATA_KEY,
            COMMIT_METADATA_KEY: commit_state.to_metadata(),
        }
    }
    if is_new:
        yield {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}
        yield {
            "metaData": {
                "id": str(uuid4()),
                "name": table.name,
                "format": {"provider": "parquet", "options": {}},
                "schemaString": delta_schema(table).to_json(),
                "partitionColumns": partition_columns,
                "createdTime": at,
                "configuration": TABLE_CONFIGURATION,
            }
        }
    for file in change.added:
        yield {"add": build_add_action(file, at)}
    for file in change.removed:
        yield {"remove": build_remove_action(file, at)}


def write_commit_file(path: Path, actions: Iterable[Mapping[str, object]]) -> None:
    """Write a commit: it appears whole, or not at all where its version is taken.

    Not by deltalake, which copies its own list of all files at each commit: 0.09 s of CPU each, as
    300 commits brought 7,500 files, and memory that it did not return.

    Raises:
        OSError: the disk refused, or the version is taken (`FileExistsError`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part_file = path.with_name(f"_commit_{uuid4()}.json.tmp")
    try:
        with part_file.open("x", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(each, separators=(',', ':'))}\n" for each in actions)
        os.link(part_file, path)
    finally:
        part_file.unlink(missing_ok=True)


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
        DeltaTable(folder, version=start.version).alter.add_columns(
            Schema.from_arrow(added).fields,
            # No retries: a writer that comes second is refused.
            commit_properties=CommitProperties(
                custom_metadata={COMMIT_METADATA_KEY: commit_state.to_metadata()},
                max_commit_retries=0,
            ),
            # A checkpoint that fails must not make a successful commit look failed.
            post_commithook_properties=PostCommitHookProperties(
                create_checkpoint=False, cleanup_expired_logs=False
            ),
        )
    except (DeltaError, OSError) as cause:
        if not is_own_commit(folder, start.version + 1, commit_state, stream):
            raise commit_error(cause, folder, start.version + 1, stream) from None


MAX_FILES_OF_CHECKPOINT_HERE = 1_000
"""Up to so many files, a process of its own for a checkpoint costs more than it returns."""

CHECKPOINT_SCRIPT = "import sys, deltalake; deltalake.DeltaTable(sys.argv[1]).create_checkpoint()"


def create_checkpoint(folder: Path, files: int) -> None:
    """Write a checkpoint of the newest version, of a table with about so many files.

    That of many files has its own process, because deltalake does not return the memory: 55 MiB
    after six checkpoints, as 300 commits brought 7,500 files.

    Raises:
        DeltaError, OSError: the log cannot be read, or the disk refused.
    """
    if files > MAX_FILES_OF_CHECKPOINT_HERE:
        done = subprocess.run(  # noqa: S603 - our own script, by this interpreter
            [sys.executable, "-c", CHECKPOINT_SCRIPT, str(folder)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            check=False,
            capture_output=True,
        )
        if done.returncode == 0:
            return
    DeltaTable(folder).create_checkpoint()


def new_table_schema(table: LakeTable) -> pa.Schema:
    """Return the stored columns of a table that was just made, as a snapshot has them."""
    return stored_schema(delta_schema(table), [*PARTITION_COLUMNS[table.partitioning]])


def delta_schema(table: LakeTable) -> Schema:
    """Return the table's schema as Delta's, with the partition columns last."""
    schema = table.schema
    for name, kind in PARTITION_COLUMNS[table.partitioning].items():
        schema = schema.append(pa.field(name, kind))
    return Schema.from_arrow(schema)


def build_add_action(file: DataFile, at: int) -> dict[str, object]:
    """Return the action that brings a file into the table."""
    stats = {
        "numRecords": file.rows,
        "minValues": {name: format_statistic(value) for name, value in file.min_values.items()},
        "maxValues": {name: format_statistic(value) for name, value in file.max_values.items()},
        "nullCount": dict.fromkeys(file.min_values, 0),
    }
    return {
        "path": quote(file.path, safe="/="),
        "partitionValues": parse_partition_values(file.partition),
        "size": file.size,
        "modificationTime": at,
        "dataChange": True,
        "stats": json.dumps(stats),
    }


def build_remove_action(file: DataFile, at: int) -> dict[str, object]:
    """Return the action that removes a file from the table; the file itself stays for the grace."""
    return {
        "path": quote(file.path, safe="/="),
        "deletionTimestamp": at,
        "dataChange": True,
        "extendedFileMetadata": True,
        "partitionValues": parse_partition_values(file.partition),
        "size": file.size,
    }


def epoch_milliseconds(at: datetime) -> int:
    """Return the milliseconds since 1970."""
    return int(at.timestamp() * 1000)


def format_statistic(value: object) -> object:
    """Return a minimum or maximum in the form of Delta's statistics."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, date) else value
