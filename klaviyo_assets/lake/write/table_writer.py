"""Commits staged rows to one table, rebased on what other runs committed where that is safe.

A replacement on top of another run's commit decides row by row:

    row of the newest version       its key is in the replacement    its key is not
    ─────────────────────────────────────────────────────────────────────────────────────────
    synced since `synced_since`     the newer of the two stays       stays: it may be new
    synced before                   the replacement's row stays      removed, or marked as deleted

No run waits for another, so this works between hosts too, and a kill leaves nothing to clean up. A
commit that removes keys (another replacement, an erasure, another program) is different: a row that
it removed looks the same as one read here earlier. Then the later commit is refused.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import Schema

from klaviyo_assets.arrow_buffers import boolean_mask, timestamp_scalar
from klaviyo_assets.errors import CorruptFileError, LakeConflictError, LakeError, LakeVersionError
from klaviyo_assets.lake.delta.log import (
    CommitState,
    TableChange,
    TableSnapshot,
    add_columns,
    commit_change,
    conflict_error,
    create_checkpoint,
    hand_on_snapshot,
    new_table_schema,
    newest_version,
    read_commit_states,
    read_snapshot,
)
from klaviyo_assets.lake.disk import StagingFolder, map_storage_errors, remove_dead_staging
from klaviyo_assets.lake.layout import (
    COMMITS_PER_CHECKPOINT,
    STAGING_FOLDER,
    SYNCED_AT_COLUMN,
    LakeTable,
)
from klaviyo_assets.lake.parquet import DataFile, read_columns
from klaviyo_assets.lake.write.merge import (
    MergeFile,
    PartitionRewriter,
    StagedFiles,
    find_duplicate_keys_in_files,
    find_moved_keys,
    find_staged_keys,
    has_few_rows,
    select_readable_files,
)
from klaviyo_assets.lake.write.soft_deletes import (
    DeletionResult,
    DeletionScan,
    ShrinkGuard,
    clear_columns,
    mark_missing_rows,
    mask_complete_rows,
    read_filtered_rows,
)
from klaviyo_assets.lake.write.staging import StagingWriter, move_into_table
from klaviyo_assets.lake.write.unchanged_rows import RowComparison
from klaviyo_assets.seams import reach_crash_point

RebaseState = Mapping[str, object]

MAX_REBASE_ATTEMPTS = 5
"""How often a replacement starts over from a newer version: every time it can lose the race."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebase:
    """How a replacement continues from a version that others committed while it was read.

    Stored rows whose `synced_at` is `synced_since` (UTC) or later stay beside its own, with NULL in
    `cleared_columns`: a privacy setting hides these, and the rows may be older than the setting.
    `merge_state` takes the state of the newest version and returns the state to commit.
    """

    synced_since: datetime
    merge_state: Callable[[RebaseState], RebaseState]
    cleared_columns: frozenset[str] = frozenset()


def has_kept_all_keys(folder: Path, stream: str, *, after: int, up_to: int) -> bool:
    """Tell whether each commit after version `after`, up to `up_to`, is known to keep all keys.

    Raises:
        CorruptFileError: a commit cannot be read.
    """
    found = read_commit_states(folder, stream, after=after, up_to=up_to)
    return all(commit_state is not None and commit_state.keeps_keys for commit_state in found)


def read_rows_synced_since(
    rewriter: PartitionRewriter, files: Sequence[DataFile], rebase: Rebase
) -> Iterator[Sequence[pa.RecordBatch]]:
    """Yield the rows of stored files synced since `rebase.synced_since`, in the table's columns.

    Raises:
        CorruptFileError: a file is missing or damaged.
    """
    needed = rewriter.select_schema(rewriter.table.required_columns)
    names = rewriter.table.schema.names
    for file in files:
        path = rewriter.folder / file.path
        read = read_columns(path, needed, rewriter.table.name)
        # Where another program removed a key or cursor, the row can be neither compared nor dated.
        stay_mask = mask_complete_rows(read, needed.names)
        moments = cast(
            "pa.ChunkedArray[Any]",
            pc.coalesce(read[SYNCED_AT_COLUMN], timestamp_scalar(rebase.synced_since)),
        )
        stay_mask &= boolean_mask(pc.greater_equal(moments, timestamp_scalar(rebase.synced_since)))
        if stay_mask.any():
            for rows in read_filtered_rows(path, stay_mask, rewriter):
                yield clear_columns(rows.select(names), rebase.cleared_columns).to_batches()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitReceipt:
    """What a commit did, or that none was needed. `version` is the table's version after it.

    `rows_written` counts the new rows that no other row superseded, `rows_marked_deleted` those
    that it marked as deleted, `rows_lost` those of damaged files that it dropped without knowing
    which of them Klaviyo still has, `rows_rebased` those that other runs committed while a
    replacement was read. `versions_written` counts the rows that came into the history.
    """

    version: int
    rows_written: int
    rows_total: int
    files_removed: int = 0
    rows_marked_deleted: int = 0
    rows_lost: int = 0
    rows_rebased: int = 0
    versions_written: int = 0


def build_empty_receipt(start: TableSnapshot) -> CommitReceipt:
    """Return the receipt where no commit was needed; the table is as it was at the start."""
    return CommitReceipt(version=start.version, rows_written=0, rows_total=start.rows)


class TableWriter:
    """Commits to one table, on top of version `start`. The `state` of a commit is opaque here."""

    def __init__(
        self,
        table: LakeTable,
        folder: Path,
        start: TableSnapshot | None,
        *,
        account: str,
        clock: Callable[[], datetime],
    ) -> None:
        """Make a staging folder, and remove those of dead sessions.

        Raises:
            LakeVersionError: a column has another type in the lake.
            StorageError: the folder cannot be written.
        """
        self.table, self.folder, self.start = table, folder, start
        self.account, self.clock = account, clock
        self.sequence = 0
        self.has_rebased_rows = False
        self.schema = table.schema if start is None else merge_schema(start.schema, table)
        with map_storage_errors(folder, table.name):
            remove_dead_staging(folder / STAGING_FOLDER)
            self.staging_folder = StagingFolder(folder / STAGING_FOLDER)
        self.keeps_unchanged_rows = False
        """Whether a stored row stays where an equal one is merged.

        Never in a replacement, nor where a key may lie in two partitions: the row that is read
        decides which of the two goes.
        """
        self.stored_files: tuple[TableSnapshot, Mapping[str, Sequence[Path]]] | None = None
        self.staging_writer = StagingWriter(
            table, self.staging_folder.path, self.drop_unchanged_rows
        )
        self.staged_files: dict[str, StagedFiles] = {}
        """The staged files that are in no commit yet, by partition."""

    def start_from_version(self, version: int) -> None:
        """Start from an older `version`, the one that was planned with; others committed since.

        Raises:
            CorruptFileError: the log cannot be read.
        """
        if self.start is None or self.start.version != version:
            self.start = read_snapshot(self.folder, self.table.name, version)

    def close(self) -> None:
        """Drop what was not committed, and hand the snapshot on. Safe to call twice."""
        start, self.start = self.start, None
        hand_on_snapshot(self.folder, start)
        self.staging_writer.abandon()
        self.staging_folder.close()

    def commit(
        self,
        state: Mapping[str, object],
        *,
        replace: bool,
        scan: DeletionScan | None = None,
        is_last: bool = True,
        guard: ShrinkGuard | None = None,
    ) -> CommitReceipt:
        """Commit the staged rows and `state`; return what was done.

        With `scan`, a replacement keeps stored rows that are not among its own, and marks them as
        deleted; without it they are removed. With `guard`, it is refused where it removes too many.
        The last commit removes a key from all partitions but one. Earlier commits record that
        nobody checked (`is_unique`), so that the next session does if this one is killed.

        Raises:
            ShrinkError: as the guard says.
            LakeConflictError: another writer committed since the start.
            CorruptFileError: a stored file that has to be read is missing or damaged.
            StorageError: the disk refused.
        """
        start = self.start
        try:
            with map_storage_errors(self.folder, self.table.name):
                change, rows_added, rows_unmarked_before = self.plan_change(
                    replace=replace, scan=scan, is_last=is_last
                )
        except CorruptFileError:
            # Another run may have committed, and its vacuum removed a file that our version names.
            if self.is_stale:
                raise conflict_error(self.table.name) from None
            raise
        if start is not None and replace and guard is not None:
            self.check_shrink(
                guard,
                change,
                rows_added,
                rows_unmarked_before=None if scan is None else rows_unmarked_before,
            )
        if start is not None and not change.added and not change.removed:
            known = (
                None if start.commit_state is None or start.is_emptied else start.commit_state.state
            )
            is_uniqueness_recorded = not is_last or self.is_known_unique
            if known == state and is_uniqueness_recorded:
                self.staged_files = {}
                return build_empty_receipt(start)
        return self.write_change(change, state, rows_added)

    def commit_rebased(
        self,
        state: Mapping[str, object],
        rebase: Rebase,
        *,
        replace: bool,
        scan: DeletionScan | None = None,
        guard: ShrinkGuard | None = None,
    ) -> CommitReceipt:
        """Commit as `commit` does, on top of what others committed since the start.

        A replacement also keeps the rows that others synced meanwhile, and merges their state with
        its own.

        Raises:
            LakeConflictError: a commit of others may have removed keys, or every attempt lost the
                race.
            ShrinkError, CorruptFileError, StorageError: as for `commit`.
        """
        rows_rebased = 0
        for tries_left in reversed(range(MAX_REBASE_ATTEMPTS)):
            if self.is_stale:
                files = self.start_from_newest()
                if replace:
                    rows_rebased += self.stage_rebased_rows(files, rebase)
                    state = rebase.merge_state(self.known_state)
            try:
                done = self.commit(state, replace=replace, scan=scan, guard=guard)
            except LakeConflictError:
                if not tries_left:
                    raise
            else:
                return dataclasses.replace(done, rows_rebased=rows_rebased)
        raise conflict_error(self.table.name)

    def start_from_newest(self) -> list[DataFile]:
        """Start from the newest version instead; return the files that it adds to the old start.

        Raises:
            LakeConflictError: a commit since the start may have removed keys.
            LakeVersionError: a column has another type now.
        """
        name, start = self.table.name, self.start
        after = -1 if start is None else start.version
        newest = read_snapshot(self.folder, name)
        if newest is None or not has_kept_all_keys(
            self.folder, name, after=after, up_to=newest.version
        ):
            raise conflict_error(name)
        self.schema = merge_schema(newest.schema, self.table)
        self.start = newest
        known = frozenset(() if start is None else (file.path for file in start.files))
        return [file for file in newest.files if file.path not in known]

    def stage_rebased_rows(self, files: Sequence[DataFile], rebase: Rebase) -> int:
        """Stage the rows that others synced meanwhile, from their stored files; return how many."""
        count = 0
        with map_storage_errors(self.folder, self.table.name):
            for batches in read_rows_synced_since(self.rewriter, files, rebase):
                self.staging_writer.write_batches(batches)
                count += sum(batch.num_rows for batch in batches)
                self.has_rebased_rows = True
        reach_crash_point("after staging rebased rows")
        return count

    @property
    def is_known_unique(self) -> bool:
        """Tell whether each key is known to be there once in the version of `start`.

        Only our own commits record that, each for its own version; after another program's commit
        it is not known.
        """
        if not self.table.can_change_partition:
            return True
        if self.start is None:
            return False
        at = self.start.version
        found = read_commit_states(self.folder, self.table.name, after=at - 1, up_to=at)
        return all(commit_state is not None and commit_state.is_unique for commit_state in found)

    @property
    def known_state(self) -> Mapping[str, object]:
        """Return the state in the version of `start`; empty where there is none."""
        return (
            {}
            if self.start is None or self.start.commit_state is None
            else self.start.commit_state.state
        )

    @property
    def is_stale(self) -> bool:
        """Tell whether somebody has committed since `start`, by a fresh listing of the log."""
        newest = newest_version(self.folder)
        return newest is not None and (self.start is None or newest > self.start.version)

    @property
    def rewriter(self) -> PartitionRewriter:
        """Return the rewriter of this table's files, which writes to the staging folder."""
        # Rebased rows are staged after ours, but may have been synced before them.
        clock = (SYNCED_AT_COLUMN,) if self.has_rebased_rows else ()
        return PartitionRewriter(
            self.table,
            self.schema,
            self.folder,
            self.staging_folder.path,
            clock,
            self.keeps_unchanged_rows,
        )

    def drop_unchanged_rows(
        self, partition: str, batches: Sequence[pa.RecordBatch]
    ) -> Sequence[pa.RecordBatch]:
        """Return the rows of a partition without those that it stores unchanged.

        Where rows of it are staged already, the merge decides: one of them may be newer.
        """
        if not self.keeps_unchanged_rows or self.start is None or partition in self.staged_files:
            return batches
        if self.stored_files is None or self.stored_files[0] is not self.start:
            paths: dict[str, list[Path]] = defaultdict(list)
            for file in self.start.files:
                paths[file.partition].append(self.folder / file.path)
            self.stored_files = self.start, paths
        stored = self.stored_files[1].get(partition)
        if not stored:
            return batches
        return RowComparison(self.table, self.schema).drop_unchanged_rows(stored, batches)

    def plan_change(
        self, *, replace: bool, scan: DeletionScan | None, is_last: bool
    ) -> tuple[TableChange, int, int]:
        """Return the files to add and remove, and how many of the staged rows stay.

        The third value counts the stored rows that the scan covered and that were not marked as
        deleted before; 0 without `scan`.
        """
        staged = self.collect_staged_files()
        stored: dict[str, list[DataFile]] = defaultdict(list)
        known = () if self.start is None else self.start.files
        for file in () if replace else known:
            stored[file.partition].append(file)
        changes = [
            self.rewriter.merge_partition(stored[each], files) for each, files in staged.items()
        ]
        added = [file for outcome in changes for file in outcome.added]
        deletion_result = (
            DeletionResult()
            if scan is None
            else mark_missing_rows(self.rewriter, known, added, scan)
        )
        change = TableChange(
            added=[*added, *deletion_result.files],
            removed=known if replace else [file for one in changes for file in one.removed],
            changed_at=self.clock(),
            rows_marked_deleted=deletion_result.rows_marked,
            rows_lost=deletion_result.rows_lost,
            keeps_keys=not replace,
            is_unique=is_last or not self.table.can_change_partition,
        )
        if is_last and self.table.can_change_partition:
            change = self.drop_moved_rows(change, () if replace else known, staged)
        return (
            change,
            sum(outcome.rows_added for outcome in changes),
            deletion_result.rows_unmarked_before,
        )

    def check_shrink(
        self,
        guard: ShrinkGuard,
        change: TableChange,
        rows_added: int,
        *,
        rows_unmarked_before: int | None,
    ) -> None:
        """Refuse a replacement that removes too much; without deletion marks, by counts of rows.

        Raises:
            ShrinkError: as the guard says.
        """
        name, column = self.table.name, self.table.cursor or ""
        if rows_unmarked_before is not None:
            guard.check(
                before=rows_unmarked_before, missing=change.rows_marked_deleted, stream=name
            )
            return
        stored = () if self.start is None else self.start.files
        before = sum(
            file.rows for file in stored if not guard.is_outside_scan(file.max_values.get(column))
        )
        guard.check(before=before, missing=before - rows_added, stream=name)

    def drop_moved_rows(
        self, change: TableChange, stored: Sequence[DataFile], staged: Mapping[str, StagedFiles]
    ) -> TableChange:
        """Return the change without rows that one in another partition supersedes."""
        was_unique = not stored or self.is_known_unique
        row_growth = sum(file.rows for file in change.added) - sum(
            file.rows for file in change.removed
        )
        if was_unique and stored and not row_growth:
            # Every staged key was in its own partition before, and each key is there once.
            return change
        removed_paths = {file.path for file in change.removed}
        files = [
            *(
                MergeFile(one, self.folder, is_staged=False)
                for one in stored
                if one.path not in removed_paths
            ),
            *(MergeFile(one, self.staging_folder.path, is_staged=True) for one in change.added),
        ]
        if was_unique and has_few_rows(staged):
            keys = find_moved_keys(self.rewriter, stored, staged)
        else:
            keys = find_duplicate_keys_in_files(self.rewriter, files)
        if not keys.num_rows:
            return change
        staged_keys = find_staged_keys(self.rewriter, staged, keys)
        partition_changes, touched = self.rewriter.deduplicate_across_partitions(
            select_readable_files(self.rewriter, files), keys, staged_keys
        )
        return dataclasses.replace(
            change,
            added=[
                *(file for file in change.added if file.path not in touched),
                *(file for outcome in partition_changes for file in outcome.added),
            ],
            removed=[
                *change.removed,
                *(file for outcome in partition_changes for file in outcome.removed),
            ],
        )

    def collect_staged_files(self) -> Mapping[str, StagedFiles]:
        """Close the open files; return all staged files in no commit yet, by partition."""
        for partition, more in self.staging_writer.finish_files().items():
            before = self.staged_files.get(partition)
            self.staged_files[partition] = (
                more
                if before is None
                else StagedFiles([*before.files, *more.files], has_unique_keys=False)
            )
        return self.staged_files

    def write_change(
        self, change: TableChange, state: Mapping[str, object], rows_added: int
    ) -> CommitReceipt:
        """Move the files into the table's folder and commit them with the state."""
        before = 0 if self.start is None else self.start.rows
        rows_removed = sum(file.rows for file in change.removed)
        total = before - rows_removed + sum(file.rows for file in change.added)
        self.add_missing_columns()
        commit_state = dataclasses.replace(
            self.build_commit_state(state, total), keeps_keys=change.keeps_keys
        )
        if change.is_unique is not None:
            commit_state = dataclasses.replace(commit_state, is_unique=change.is_unique)
        with map_storage_errors(self.folder, self.table.name):
            at = change.changed_at.timestamp()
            files = move_into_table(
                change.added, self.staging_folder.path, self.folder, modified_at=at
            )
        change = dataclasses.replace(change, added=files)
        try:
            version = commit_change(self.folder, self.table, self.start, change, commit_state)
        except LakeError:
            # Back to the staging folder, which no reader and no vacuum looks into: the next attempt
            # commits them.
            for file in files:
                with suppress(OSError):
                    place = self.folder / file.path
                    place.replace(self.staging_folder.path / place.name)
            raise
        self.continue_from_commit(version, change, commit_state)
        return CommitReceipt(
            version=version,
            rows_written=rows_added,
            rows_total=total,
            files_removed=len(change.removed),
            rows_marked_deleted=change.rows_marked_deleted,
            rows_lost=change.rows_lost,
        )

    def build_commit_state(self, state: Mapping[str, object], rows: int) -> CommitState:
        """Return the state of the next commit."""
        self.sequence += 1
        return CommitState(
            account=self.account,
            key=self.table.unique_columns,
            state=dict(state),
            rows=rows,
            session=self.staging_folder.session_id,
            sequence=self.sequence,
            is_unique=self.is_known_unique,
        )

    def add_missing_columns(self) -> None:
        """Commit the columns that the stored table lacks: new in a release, or removed by hand."""
        start = self.start
        if start is None or len(start.schema) == len(self.schema):
            return
        known = self.known_state
        added = exclude_columns(self.schema, start.schema.names)
        commit_state = dataclasses.replace(
            self.build_commit_state(known, start.rows), keeps_keys=True
        )
        add_columns(start, added, commit_state, folder=self.folder)
        self.start = read_snapshot(self.folder, self.table.name, start.version + 1)

    def continue_from_commit(
        self, version: int, change: TableChange, commit_state: CommitState
    ) -> None:
        """Start the next commit from this one.

        The list of files is updated in memory, because reading a log of 10,000 files takes 0.3 s.
        If somebody else has committed by now, the next commit is refused.
        """
        self.staged_files = {}
        removed_paths = {file.path for file in change.removed}
        known = () if self.start is None else self.start.files
        files = (*(file for file in known if file.path not in removed_paths), *change.added)
        self.start = TableSnapshot(
            version=version,
            schema=new_table_schema(self.table) if self.start is None else self.start.schema,
            files=files,
            commit_state=commit_state,
        )
        # To a publication between two commits, which would open the log anew.
        hand_on_snapshot(self.folder, self.start)
        if version % COMMITS_PER_CHECKPOINT == COMMITS_PER_CHECKPOINT - 1:
            # The commit has succeeded; without a checkpoint the log is only slower to read.
            with suppress(Exception):
                create_checkpoint(self.folder, len(files))


def merge_schema(stored: pa.Schema, table: LakeTable) -> pa.Schema:
    """Return the stored columns, then those that only `table` has.

    Raises:
        LakeVersionError: a column has another type in the lake.
    """
    refuse_type_changes(stored, table)
    added = exclude_columns(table.schema, stored.names)
    pairs = zip([*stored.names, *added.names], [*stored.types, *added.types], strict=True)
    return pa.schema(list(pairs))


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


def refuse_missing_columns(start: TableSnapshot | None, table: LakeTable) -> None:
    """Refuse a stored table without a column of the key, or one that tells which row is newer.

    Any other missing column is added later, NULL in the stored rows.

    Raises:
        LakeVersionError: another program removed such a column; the text names it.
    """
    missing = (
        []
        if start is None
        else [one for one in table.required_columns if one not in start.schema.names]
    )
    if start is not None and start.files and missing:
        raise LakeVersionError(
            f"the column {', '.join(missing)} is no longer in the lake: another program removed "
            "it, and rows cannot be told apart without it. Read the whole stream again with "
            "sync_mode: full_refresh_overwrite; move a report or a history away with "
            f"`klaviyo-assets set-aside {table.name}`, and it starts from nothing",
            stream=table.name,
        )


def exclude_columns(schema: pa.Schema, names: Collection[str]) -> pa.Schema:
    """Return the columns of a schema that are not among `names`."""
    pairs = zip(schema.names, schema.types, strict=True)
    return pa.schema([(name, kind) for name, kind in pairs if name not in names])
