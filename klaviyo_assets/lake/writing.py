"""One table in one session: the version it started from, what is staged, and its commits.

What belongs here: from staged files to a commit. What does not: rows in memory, and the order
between a table and its history (`session`).
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from klaviyo_assets.errors import (
    CorruptFileError,
    LakeConflictError,
    LakeError,
    LakeVersionError,
)
from klaviyo_assets.lake.delta import Change, commit, conflict, delta_types, widen
from klaviyo_assets.lake.disk import Staging, clear_dead, told
from klaviyo_assets.lake.gone import Gone, Noticed, gone
from klaviyo_assets.lake.layout import CHECKPOINT_COMMITS, STAGING, SYNCED_AT, Table
from klaviyo_assets.lake.log import Mark, Snapshot, marks, newest_version, snapshot
from klaviyo_assets.lake.moved import (
    are_few,
    moved_keys,
    repeated_keys_of,
    sound_parts,
    staged_among,
)
from klaviyo_assets.lake.parquet import DataFile
from klaviyo_assets.lake.rebase import TRIES, Rebase, keeps_all_keys, rows_read_since
from klaviyo_assets.lake.rewrite import Part, Rewriter, Staged
from klaviyo_assets.lake.shrink import ShrinkGuard
from klaviyo_assets.lake.staging import Stage, placed


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A commit that went through, or that was not needed: `change` is empty then.

    `taken_over` counts the rows that others committed meanwhile and that were put beside its own.
    """

    version: int
    change: Change
    rows: int
    rows_total: int
    taken_over: int = 0


class TableWriter:
    """Writes one table, from the version it found on. `state` of its commits is opaque here."""

    def __init__(
        self,
        table: Table,
        folder: Path,
        start: Snapshot | None,
        *,
        account: str,
        clock: Callable[[], datetime],
    ) -> None:
        """Prepare the staging folder, and remove those of dead sessions.

        Raises:
            LakeVersionError: a column has another type in the lake.
            StorageError: the folder cannot be written.
        """
        self.table, self.folder, self.start = table, folder, start
        self.account, self.clock = account, clock
        self.sequence = 0
        self.took_over = False
        self.schema = table.schema if start is None else widened(start.schema, table)
        with told(folder, table.name):
            clear_dead(folder / STAGING)
            self.staging = Staging(folder / STAGING)
        self.stage = Stage(table, self.staging.folder)
        self.waiting: dict[str, Staged] = {}
        """What is staged and in no commit yet, by partition."""

    def begin_from(self, version: int) -> None:
        """Take `version` for the one that was found; others may have committed since.

        Raises:
            CorruptFileError: the log cannot be read.
        """
        self.start = snapshot(self.folder, self.table.name, version)

    def close(self) -> None:
        """Drop what was not committed. Safe to call twice."""
        self.stage.abandon()
        self.staging.close()

    def commit(
        self,
        state: Mapping[str, object],
        *,
        replace: bool,
        noticed: Noticed | None = None,
        is_last: bool = True,
        guard: ShrinkGuard | None = None,
    ) -> Written:
        """Commit what is staged, and `state`; return what was done.

        `noticed` is for a replacement: rows that it does not bring stay, and are marked. Without
        it they leave. With `guard` it is refused where it takes away too much. The last commit sees
        to it that no key lies in two partitions; those before it say that nobody looked, so that
        the next session does where this one is killed.

        Raises:
            ShrinkError: as the guard says.
            LakeConflictError: another writer committed since the start.
            CorruptFileError: a stored file that has to be read is missing or damaged.
            StorageError: the disk refused.
        """
        start = self.start
        try:
            with told(self.folder, self.table.name):
                change, came_in, living = self.change(
                    replace=replace, noticed=noticed, is_last=is_last
                )
        except CorruptFileError:
            # Upkeep of the writer that came first may have removed what our version still names.
            if self.is_stale:
                raise conflict(self.table.name) from None
            raise
        if start is not None and replace and guard is not None:
            self.check_shrink(guard, change, came_in, living=None if noticed is None else living)
        if start is not None and not change.added and not change.removed:
            known = None if start.mark is None or start.is_emptied else start.mark.state
            is_told = not is_last or self.is_known_unique
            if known == state and is_told:
                self.waiting = {}
                return Written(version=start.version, change=change, rows=0, rows_total=start.rows)
        return self.write(change, state, came_in)

    def commit_rebased(
        self,
        state: Mapping[str, object],
        wanted: Rebase,
        *,
        replace: bool,
        noticed: Noticed | None = None,
        guard: ShrinkGuard | None = None,
    ) -> Written:
        """Commit as `commit` does, on top of what others committed since the start.

        Where the staged rows replace the table, the rows that others read meanwhile stay, too, and
        the state is theirs and ours in one.

        Raises:
            LakeConflictError: one of them may have taken keys away, or others came first time and
                again.
            ShrinkError, CorruptFileError, StorageError: as for `commit`.
        """
        taken_over = 0
        for tries_left in reversed(range(TRIES)):
            if self.is_stale:
                files = self.go_on_from_newest()
                if replace:
                    taken_over += self.take_over(files, wanted)
                    state = wanted.state_of(self.known_state)
            try:
                done = self.commit(state, replace=replace, noticed=noticed, guard=guard)
            except LakeConflictError:
                if not tries_left:
                    raise
            else:
                return dataclasses.replace(done, taken_over=taken_over)
        raise conflict(self.table.name)

    def go_on_from_newest(self) -> list[DataFile]:
        """Start from the newest version instead; return the files that were added since.

        Raises:
            LakeConflictError: a commit since the start may have taken keys away.
            LakeVersionError: a column has another type now.
        """
        name, start = self.table.name, self.start
        after = -1 if start is None else start.version
        newest = snapshot(self.folder, name)
        if newest is None or not keeps_all_keys(
            self.folder, name, after=after, upto=newest.version
        ):
            raise conflict(name)
        self.schema = widened(newest.schema, self.table)
        self.start = newest
        known = frozenset(() if start is None else (file.path for file in start.files))
        return [file for file in newest.files if file.path not in known]

    def take_over(self, files: Sequence[DataFile], wanted: Rebase) -> int:
        """Stage the rows of stored files that others read meanwhile; return how many."""
        count = 0
        with told(self.folder, self.table.name):
            for batches in rows_read_since(self.rewriter, files, wanted):
                self.stage.take(batches)
                count += sum(batch.num_rows for batch in batches)
                self.took_over = True
        return count

    @property
    def is_known_unique(self) -> bool:
        """Tell whether each key is there once in the version that the next commit starts from.

        Only a commit of ours says so, and only of itself: of another program's nothing is known.
        """
        if not self.table.can_move:
            return True
        if self.start is None:
            return False
        at = self.start.version
        found = marks(self.folder, self.table.name, after=at - 1, upto=at)
        return all(mark is not None and mark.is_unique for mark in found)

    @property
    def known_state(self) -> Mapping[str, object]:
        """Return the state in the version that the next commit starts from."""
        return {} if self.start is None or self.start.mark is None else self.start.mark.state

    @property
    def is_stale(self) -> bool:
        """Tell whether somebody committed since the version that this writer knows."""
        newest = newest_version(self.folder)
        return newest is not None and (self.start is None or newest > self.start.version)

    @property
    def rewriter(self) -> Rewriter:
        """Return what rewrites files of this table into the staging folder."""
        # Rows taken over are staged after ours, and were read before or after them.
        clock = (SYNCED_AT,) if self.took_over else ()
        return Rewriter(self.table, self.schema, self.folder, self.staging.folder, clock)

    def change(
        self, *, replace: bool, noticed: Noticed | None, is_last: bool
    ) -> tuple[Change, int, int]:
        """Work out the files to add and remove, and how many of the staged rows stay.

        Then how many stored rows were looked for and had no mark before; 0 without `noticed`.
        """
        staged = self.staged()
        stored: dict[str, list[DataFile]] = defaultdict(list)
        known = () if self.start is None else self.start.files
        for file in () if replace else known:
            stored[file.partition].append(file)
        outcomes = [self.rewriter.partition(stored[each], files) for each, files in staged.items()]
        added = [file for outcome in outcomes for file in outcome.added]
        left = Gone() if noticed is None else gone(self.rewriter, known, added, noticed)
        change = Change(
            added=[*added, *left.files],
            removed=known if replace else [file for one in outcomes for file in one.removed],
            at=self.clock(),
            deleted=left.marked,
            lost=left.lost,
            keeps_keys=not replace,
            is_unique=is_last or not self.table.can_move,
        )
        if is_last and self.table.can_move:
            change = self.without_moved(change, () if replace else known, staged)
        return change, sum(outcome.rows for outcome in outcomes), left.living

    def check_shrink(
        self, guard: ShrinkGuard, change: Change, came_in: int, *, living: int | None
    ) -> None:
        """Refuse a replacement that takes away too much; where no marks are kept, by numbers.

        Raises:
            ShrinkError: as the guard says.
        """
        name, column = self.table.name, self.table.cursor or ""
        if living is not None:
            guard.check(before=living, missing=change.deleted, stream=name)
            return
        stored = () if self.start is None else self.start.files
        before = sum(file.rows for file in stored if not guard.overlooks(file.high.get(column)))
        guard.check(before=before, missing=before - came_in, stream=name)

    def without_moved(
        self, change: Change, stored: Sequence[DataFile], staged: Mapping[str, Staged]
    ) -> Change:
        """Return the change without rows that another of their key in another partition beats."""
        was_unique = not stored or self.is_known_unique
        grown = sum(file.rows for file in change.added) - sum(file.rows for file in change.removed)
        if was_unique and stored and not grown:
            # Each key that came in was in its partition before, so it is in no other.
            return change
        gone = {file.path for file in change.removed}
        parts = [
            *(Part(one, self.folder, is_staged=False) for one in stored if one.path not in gone),
            *(Part(one, self.staging.folder, is_staged=True) for one in change.added),
        ]
        if was_unique and are_few(staged):
            keys = moved_keys(self.rewriter, stored, staged)
        else:
            keys = repeated_keys_of(self.rewriter, parts)
        if not keys.num_rows:
            return change
        came = staged_among(self.rewriter, staged, keys)
        outcomes, touched = self.rewriter.unique(sound_parts(self.rewriter, parts), keys, came)
        return dataclasses.replace(
            change,
            added=[
                *(file for file in change.added if file.path not in touched),
                *(file for outcome in outcomes for file in outcome.added),
            ],
            removed=[
                *change.removed,
                *(file for outcome in outcomes for file in outcome.removed),
            ],
        )

    def staged(self) -> Mapping[str, Staged]:
        """Close what is open and return all that is in no commit yet, by partition."""
        for partition, more in self.stage.finished().items():
            before = self.waiting.get(partition)
            self.waiting[partition] = (
                more if before is None else Staged([*before.files, *more.files], is_clean=False)
            )
        return self.waiting

    def write(self, change: Change, state: Mapping[str, object], came_in: int) -> Written:
        """Move the files into the table's folder and commit them with the state."""
        before = 0 if self.start is None else self.start.rows
        gone = sum(file.rows for file in change.removed)
        total = before - gone + sum(file.rows for file in change.added)
        self.widen()
        mark = dataclasses.replace(self.mark(state, total), keeps_keys=change.keeps_keys)
        if change.is_unique is not None:
            mark = dataclasses.replace(mark, is_unique=change.is_unique)
        with told(self.folder, self.table.name):
            at = change.at.timestamp()
            files = placed(change.added, self.staging.folder, self.folder, at=at)
        change = dataclasses.replace(change, added=files)
        try:
            version = commit(self.folder, self.table, self.start, change, mark)
        except LakeError:
            # Back to where no reader and no upkeep looks: another attempt may commit them.
            for file in files:
                with suppress(OSError):
                    place = self.folder / file.path
                    place.replace(self.staging.folder / place.name)
            raise
        self.go_on(version, change, mark)
        return Written(version=version, change=change, rows=came_in, rows_total=total)

    def mark(self, state: Mapping[str, object], rows: int) -> Mark:
        """Return our part of the next commit."""
        self.sequence += 1
        return Mark(
            account=self.account,
            key=self.table.key,
            state=dict(state),
            rows=rows,
            session=self.staging.name,
            sequence=self.sequence,
            is_unique=self.is_known_unique,
        )

    def widen(self) -> None:
        """Add the columns that the stored table lacks: a later release, or a hand, changed it."""
        start = self.start
        if start is None or len(start.schema) == len(self.schema):
            return
        known = self.known_state
        added = without(self.schema, start.schema.names)
        mark = dataclasses.replace(self.mark(known, start.rows), keeps_keys=True)
        widen(start, added, mark, folder=self.folder)
        self.start = snapshot(self.folder, self.table.name, start.version + 1)

    def go_on(self, version: int, change: Change, mark: Mark) -> None:
        """Start the next commit from this one.

        What is known of the files is carried on: reading a log of 10,000 files takes 0.3 s. If
        somebody else has committed by now, the next commit finds the table ahead of the snapshot.
        """
        self.waiting = {}
        start = self.start
        if start is None:
            self.start = snapshot(self.folder, self.table.name, version)
            return
        gone = {file.path for file in change.removed}
        files = (*(file for file in start.files if file.path not in gone), *change.added)
        with told(self.folder, self.table.name):
            start.table.update_incremental()
        self.start = dataclasses.replace(start, version=version, files=files, mark=mark)
        if version % CHECKPOINT_COMMITS == CHECKPOINT_COMMITS - 1:
            # The commit has gone through; without a checkpoint the log is only slower to read.
            with suppress(Exception):
                start.table.create_checkpoint()


def widened(stored: pa.Schema, table: Table) -> pa.Schema:
    """Return the stored columns, then those of the table that are not among them.

    Raises:
        LakeVersionError: a column has another type in the lake.
    """
    delta_types(stored, table)
    added = without(table.schema, stored.names)
    pairs = zip([*stored.names, *added.names], [*stored.types, *added.types], strict=True)
    return pa.schema(list(pairs))


def refuse_gaps(start: Snapshot | None, table: Table) -> None:
    """Refuse to write on where the stored rows lack a column that tells rows or versions apart.

    Any other column that is missing is added, NULL in the rows that are there.

    Raises:
        LakeVersionError: another program took it out; the text names it.
    """
    gone = [] if start is None else [one for one in table.needed if one not in start.schema.names]
    if start is not None and start.files and gone:
        raise LakeVersionError(
            f"the column {', '.join(gone)} is no longer in the lake: another program took it out, "
            "and the rows there cannot be told apart without it. Read the stream again whole with "
            "sync_mode: full_refresh_overwrite; put a report or a history away with "
            f"`klaviyo-assets set-aside {table.name}`, and it begins anew",
            stream=table.name,
        )


def without(schema: pa.Schema, names: Collection[str]) -> pa.Schema:
    """Return the columns of a schema that are not among `names`."""
    pairs = zip(schema.names, schema.types, strict=True)
    return pa.schema([(name, kind) for name, kind in pairs if name not in names])
