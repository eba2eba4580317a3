"""Commits to the Delta log of one table: files and mark in one.

What belongs here: the commit and its fence. What does not: what it should hold (`session`). The
fence between two writers: a commit goes through only if the version is the one that the writer
started from (`max_commit_retries=0`; with retries deltalake lets a stale append through).
"""

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

from klaviyo_assets.errors import LakeConflictError, LakeVersionError
from klaviyo_assets.lake.disk import refusal
from klaviyo_assets.lake.layout import PARTITION_COLUMNS, Table, partition_values
from klaviyo_assets.lake.log import LOG, OURS, Mark, Snapshot, commit_path, newest_mark
from klaviyo_assets.lake.parquet import DataFile

CONFIGURATION: dict[str, str | None] = {
    # The newest commit of ours holds the mark: no engine may clean it away (`upkeep` cleans).
    "delta.enableExpiredLogCleanup": "false",
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 1 days",
}

# A checkpoint that fails must not make a commit that went through look failed; `upkeep` writes it.
HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a commit adds and takes away.

    `deleted` counts the rows that it marks as deleted, `lost` those of damaged files that it gives
    up. `keeps_keys` tells whether every key that was there still is: of a commit that does not say
    so, a replacement that began before cannot know what it took away. `is_unique` tells whether
    each key is there once; None: as far as that was so before.
    """

    added: Sequence[DataFile]
    removed: Sequence[DataFile]
    at: datetime
    deleted: int = 0
    lost: int = 0
    keeps_keys: bool = False
    is_unique: bool | None = None


def commit(folder: Path, table: Table, start: Snapshot | None, change: Change, mark: Mark) -> int:
    """Commit files and mark on top of `start`; return the new version.

    Raises:
        LakeConflictError: another writer committed since `start`; nothing of ours is visible.
        StorageError: the disk refused; the table is as before.
    """
    version = 0 if start is None else start.version + 1
    if start is not None and start.table.version() != start.version:
        raise conflict(table.name)
    try:
        write_commit(folder, table, start, change, mark)
    except (DeltaError, OSError) as cause:
        if is_mine(folder, version, mark, table.name):
            return version
        raise commit_error(cause, folder, version, table.name) from None
    return version


def write_commit(
    folder: Path, table: Table, start: Snapshot | None, change: Change, mark: Mark
) -> None:
    """Hand the commit to deltalake."""
    properties = commit_properties(mark)
    by = list(PARTITION_COLUMNS[table.partitioning])
    adds = [add_action(file, change.at) for file in change.added]
    if start is None:
        create_table_with_add_actions(
            str(folder),
            delta_schema(table),
            adds,
            mode="error",
            partition_by=by,
            name=table.name,
            configuration=CONFIGURATION,
            commit_properties=properties,
            post_commithook_properties=HOOKS,
        )
        return
    removes = [remove_action(file, change.at) for file in change.removed]
    start.table.create_write_transaction(
        [*adds, *removes],
        mode="append",
        schema=start.table.schema(),
        partition_by=by,
        commit_properties=properties,
        post_commithook_properties=HOOKS,
    )


def is_mine(folder: Path, version: int, mark: Mark, stream: str) -> bool:
    """Tell whether the commit at `version` is the one with `mark`, whatever was reported."""
    if not commit_path(folder, version).exists():
        return False
    found = newest_mark(folder, version, stream)
    return found is not None and (found.session, found.sequence) == (mark.session, mark.sequence)


def commit_error(cause: BaseException, folder: Path, version: int, stream: str) -> Exception:
    """Return the error for a commit that did not go through."""
    if commit_path(folder, version).exists():
        return conflict(stream)
    return refusal(cause, folder / LOG, stream)


def conflict(stream: str) -> LakeConflictError:
    """Return the error for a writer that came second."""
    return LakeConflictError(
        "another run committed first; nothing of this commit was stored. Let the other one end (a "
        "killed run may leave a step behind), then run again",
        stream=stream,
    )


def widen(start: Snapshot, added: pa.Schema, mark: Mark, *, folder: Path) -> None:
    """Commit further columns, NULL in the rows that are there; `mark` carries the state on.

    Raises:
        LakeConflictError: another writer committed since `start`.
        StorageError: the disk refused; the table is as before.
    """
    stream = folder.name
    try:
        start.table.alter.add_columns(
            Schema.from_arrow(added).fields,
            commit_properties=commit_properties(mark),
            post_commithook_properties=HOOKS,
        )
    except (DeltaError, OSError) as cause:
        if not is_mine(folder, start.version + 1, mark, stream):
            raise commit_error(cause, folder, start.version + 1, stream) from None


def delta_types(stored: pa.Schema, table: Table) -> None:
    """Compare the columns that the stored table and `table` share.

    Raises:
        LakeVersionError: one has another type; the text names it.
    """
    there = {field.name: field.type for field in Schema.from_arrow(stored).fields}
    for field in Schema.from_arrow(table.schema).fields:
        if there.get(field.name, field.type) != field.type:
            raise LakeVersionError(
                f"the column {field.name} is {there[field.name]} in the lake and {field.type} in "
                "this release. Put the table away with "
                f"`klaviyo-assets set-aside {table.name}` and materialize the asset again",
                stream=table.name,
            )


def commit_properties(mark: Mark) -> CommitProperties:
    """Return the properties of every commit: our mark, and no second try."""
    return CommitProperties(custom_metadata={OURS: mark.as_json()}, max_commit_retries=0)


def delta_schema(table: Table) -> Schema:
    """Return the table's schema as Delta's, with the partition columns last."""
    schema = table.schema
    for name, kind in PARTITION_COLUMNS[table.partitioning].items():
        schema = schema.append(pa.field(name, kind))
    return Schema.from_arrow(schema)


def add_action(file: DataFile, at: datetime) -> AddAction:
    """Return the action that brings a file into the table."""
    stats = {
        "numRecords": file.rows,
        "minValues": {name: stat(value) for name, value in file.low.items()},
        "maxValues": {name: stat(value) for name, value in file.high.items()},
        "nullCount": dict.fromkeys(file.low, 0),
    }
    return AddAction(
        path=file.path,
        size=file.size,
        partition_values=partition_values(file.partition),
        modification_time=milliseconds(at),
        data_change=True,
        stats=json.dumps(stats),
    )


def remove_action(file: DataFile, at: datetime) -> RemoveAction:
    """Return the action that takes a file out of the table; its bytes stay for the grace."""
    return RemoveAction(
        path=file.path,
        data_change=True,
        deletion_timestamp=milliseconds(at),
        size=file.size,
        partition_values=partition_values(file.partition),
    )


def milliseconds(at: datetime) -> int:
    """Return the milliseconds since 1970."""
    return int(at.timestamp() * 1000)


def stat(value: object) -> object:
    """Return a least or greatest value as Delta's statistics spell it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, date) else value
