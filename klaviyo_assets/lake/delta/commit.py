"""Commits to the Delta log of one table: data files and the sync's state in one step."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
from deltalake import Schema
from deltalake.exceptions import DeltaError
from deltalake.transaction import (
    AddAction,
    CommitProperties,
    PostCommitHookProperties,
    RemoveAction,
    create_table_with_add_actions,
)

from klaviyo_assets.crash_points import reach_crash_point
from klaviyo_assets.errors import LakeConflictError, LakeVersionError
from klaviyo_assets.lake.delta.log import (
    COMMIT_METADATA_KEY,
    DELTA_LOG_FOLDER,
    CommitState,
    TableSnapshot,
    commit_file_path,
    read_newest_commit_state,
)
from klaviyo_assets.lake.disk import storage_error
from klaviyo_assets.lake.layout import PARTITION_COLUMNS, LakeTable, parse_partition_values
from klaviyo_assets.lake.parquet import DataFile

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
