"""Vacuum: removes files that no version and no reader needs any more, and shortens logs.

A data file is deleted when all of this holds, and only inside its table's folder:

    1. neither the current version names it, nor one that was current within the grace;
    2. the database on disk does not name it: it was removed before the published version;
    3. it was not touched within the grace (moving it in and retiring it touch it);
    4. a commit named it once, or no session is alive that could be about to commit it;
    5. no replaced database that a process still has open names it;
    6. no view that we wrote into a user's database names it.

An erasure has a grace of zero. Then only the current version counts, whoever reads, and whatever a
file's time says, which another machine's clock may have set.

deltalake's own vacuum is not used: it commits twice, and its commits would make a concurrent writer
lose its race.
"""

import json
import re
import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from klaviyo_assets.lake.delta.log import (
    COMMIT_METADATA_KEY,
    DELTA_LOG_FOLDER,
    TableSnapshot,
    commit_file_path,
    create_checkpoint,
    hand_on_snapshot,
    list_commit_versions,
    read_actions,
    read_removed_paths,
    take_snapshot,
)
from klaviyo_assets.lake.disk import map_storage_errors, remove_dead_staging
from klaviyo_assets.lake.layout import (
    COMMITS_PER_CHECKPOINT,
    ERASURE_RECEIPTS_FOLDER,
    QUARANTINE_FOLDER,
    RESPONSE_CACHE_FOLDER,
    SPILL_FOLDER,
    STAGING_FOLDER,
    has_data_file_name,
    table_folder,
)
from klaviyo_assets.lake.read.database import find_files_in_use, find_target_files, read_published
from klaviyo_assets.seams import reach_crash_point

LOG_RETENTION = timedelta(days=1)
"""How long commits stay that a checkpoint covers: for readers that are loading the table."""

PART_FILE_RETENTION = timedelta(days=1)
"""How long a partial file stays beside the tables: longer than any write takes."""

UNNAMED_LOG_FILE = re.compile(r".+#\d+|.+\.tmp")
"""Names of commits and checkpoints until they are complete and linked to their final name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VacuumResult:
    """What was removed."""

    files_removed: int = 0
    bytes_freed: int = 0

    def __add__(self, other: "VacuumResult") -> "VacuumResult":
        """Return the sums of both."""
        return VacuumResult(
            files_removed=self.files_removed + other.files_removed,
            bytes_freed=self.bytes_freed + other.bytes_freed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderNeeds:
    """What readers need of a table: the version that the database shows, and older files."""

    published_version: int | None
    files: Collection[str]


def vacuum_table(
    folder: Path, name: str, *, now: datetime, grace: timedelta, needed: ReaderNeeds
) -> VacuumResult:
    """Vacuum one table; quick if there is nothing to remove.

    Raises:
        CorruptFileError: the log cannot be read.
        StorageError: an operation on the disk failed.
    """
    before = now - grace if grace else None
    with map_storage_errors(folder, name):
        # A table whose first commit was never made has only staging folders and unnamed commits.
        is_session_alive = remove_dead_staging(folder / STAGING_FOLDER)
        removed_commits = VacuumResult()
        if not is_session_alive:
            removed_commits = delete_untouched_files(
                folder, find_unnamed_commits(folder), before=before
            )
    found = take_snapshot(folder, name)
    if found is None:
        return removed_commits
    with map_storage_errors(folder, name):
        live_files, tombstones = find_live_files_and_tombstones(
            folder, found, since=before, published_version=needed.published_version
        )
        live_files.update(needed.files)
        to_delete = [
            path
            for path in list_parquet_files(folder)
            if path not in live_files
            and (path in tombstones or (not is_session_alive and has_data_file_name(path)))
        ]
        done = delete_untouched_files(folder, to_delete, before=before)
        write_checkpoint(folder, found)
        truncate_log(
            folder,
            now=now,
            retention=max(grace, LOG_RETENTION),
            published_version=needed.published_version,
        )
    hand_on_snapshot(folder, found)
    return done + removed_commits


def vacuum_tables(
    root: Path, names: Iterable[str], *, now: datetime, grace: timedelta
) -> VacuumResult:
    """Vacuum some tables below `root`, and return what was removed in all."""
    remove_part_files(root, before=now - PART_FILE_RETENTION)
    shown = read_published(root).versions
    # Called even without a grace: it forgets databases that are no longer open.
    paths_in_use = find_files_in_use(root, before=now - grace)
    in_targets = find_target_files(root) if grace else {}
    paths_in_use = paths_in_use if grace else {}
    needed = {
        one: ReaderNeeds(
            published_version=shown.get(one),
            files=paths_in_use.get(one, set()) | in_targets.get(one, set()),
        )
        for one in names
    }
    done = (
        vacuum_table(table_folder(root, one), one, now=now, grace=grace, needed=each)
        for one, each in needed.items()
    )
    return sum(done, start=VacuumResult())


def remove_part_files(root: Path, *, before: datetime) -> None:
    """Delete partial and spilled files that killed processes left beside the tables.

    Files that were touched since `before` stay: a process may be writing them.
    """
    lake = root / "lake"
    for path in [
        *lake.glob(f"{QUARANTINE_FOLDER}/*/*.part"),
        *lake.glob(f"{RESPONSE_CACHE_FOLDER}/*/*.part"),
        *lake.glob(f"{ERASURE_RECEIPTS_FOLDER}/*.part"),
        *lake.glob(f"{SPILL_FOLDER}/*"),
    ]:
        with suppress(OSError):
            if path.stat().st_mtime <= before.timestamp():
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def find_unnamed_commits(folder: Path) -> list[str]:
    """Return the files in a log whose writer was killed before it gave them their final name."""
    found = (
        path
        for path in (folder / DELTA_LOG_FOLDER).glob("*")
        if UNNAMED_LOG_FILE.fullmatch(path.name)
    )
    return [str(path.relative_to(folder)) for path in found]


def list_parquet_files(folder: Path) -> list[str]:
    """Return the Parquet files of the table's folder and its partitions, by paths as in the log."""
    places = [folder, *folder.glob("day=*/"), *folder.glob("metric=*/month=*/")]
    return [
        str(path.relative_to(folder))
        for place in places
        for path in place.glob("*.parquet")
        if path.is_file() and not path.is_symlink()
    ]


def find_live_files_and_tombstones(
    folder: Path, snapshot: TableSnapshot, *, since: datetime | None, published_version: int | None
) -> tuple[set[str], set[str]]:
    """Return the files that somebody may still read, and those that a commit in the log removed.

    Without `since`, only the files of the current version count as live.
    """
    live_files = {file.path for file in snapshot.files}
    tombstones: set[str] = set()
    for version in list_commit_versions(folder):
        path = commit_file_path(folder, version)
        removed_files = set(read_removed_paths(path))
        tombstones |= removed_files
        is_shown = published_version is not None and version > published_version
        if since is not None and (is_shown or read_commit_time(path) >= since.timestamp()):
            live_files |= removed_files
    return live_files, tombstones


def read_commit_time(path: Path) -> float:
    """Return when a commit was made, in Unix seconds."""
    for info in read_actions(path, "commitInfo"):
        stamp = info.get("timestamp")
        if isinstance(stamp, int):
            return stamp / 1000
    return path.stat().st_mtime


def delete_untouched_files(
    folder: Path, paths: list[str], *, before: datetime | None
) -> VacuumResult:
    """Delete the files that were not touched since `before`; all of them if it is None."""
    reach_crash_point("before deleting files")
    count = size = 0
    for name in paths:
        with suppress(FileNotFoundError):
            known = (folder / name).stat()
            if before is None or known.st_mtime <= before.timestamp():
                (folder / name).unlink()
                count, size = count + 1, size + known.st_size
    return VacuumResult(files_removed=count, bytes_freed=size)


def read_checkpoint_version(folder: Path) -> int:
    """Return the version of the newest checkpoint; -1 where there is none."""
    try:
        known = json.loads((folder / DELTA_LOG_FOLDER / "_last_checkpoint").read_bytes())
        return int(known["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return -1


def write_checkpoint(folder: Path, snapshot: TableSnapshot) -> None:
    """Write a checkpoint if the last one is many commits back."""
    if snapshot.version - read_checkpoint_version(folder) > COMMITS_PER_CHECKPOINT:
        create_checkpoint(folder, len(snapshot.files))


def truncate_log(
    folder: Path, *, now: datetime, retention: timedelta, published_version: int | None
) -> None:
    """Delete commits and checkpoints that a newer checkpoint covers and that nobody may still read.

    Two ranges stay: our newest commit and all after it, because it holds the state; and all commits
    after the published version, because they name the files that the next publisher retires.
    """
    covered = read_checkpoint_version(folder)
    versions = [version for version in list_commit_versions(folder) if version < covered]
    if published_version is not None:
        versions = [version for version in versions if version <= published_version]
    if len(versions) <= COMMITS_PER_CHECKPOINT:
        return
    oldest = (now - retention).timestamp()
    ours = find_newest_own_version(folder)
    for version in versions:
        path = commit_file_path(folder, version)
        if version >= ours or path.stat().st_mtime > oldest:
            break
        path.unlink(missing_ok=True)
    for path in (folder / DELTA_LOG_FOLDER).glob("*.checkpoint*.parquet"):
        number = path.name.split(".")[0]
        if number.isdecimal() and int(number) < covered and path.stat().st_mtime <= oldest:
            path.unlink(missing_ok=True)


def find_newest_own_version(folder: Path) -> int:
    """Return the version of our newest commit; 0 where there is none."""
    for version in reversed(list_commit_versions(folder)):
        if any(
            COMMIT_METADATA_KEY in info
            for info in read_actions(commit_file_path(folder, version), "commitInfo")
        ):
            return version
    return 0
