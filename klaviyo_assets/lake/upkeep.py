"""Upkeep: what no version and no reader needs any more is removed.

What belongs here: retired files, files that never made it into a commit, commits that a kill kept
from their names (`N.json#1`), half files of killed processes, checkpoints, old commits. What does
not: merging small files, which commits do as they go (`layout.compacted`). Upkeep never commits, so
it cannot get in the way of a writer; deltalake's own vacuum would.

A data file is deleted when all of this holds, and only inside its table's folder:

    1. the current version does not name it, nor does one that ended within the grace;
    2. the database on disk does not name it: it went before the version that was published;
    3. it was not touched within the grace (placing and retiring a file touch it);
    4. it was in a commit once, or no session is alive that could be about to commit it;
    5. no replaced database that a process still has open names it.

To erase somebody means a grace of zero: then only the current version counts, whoever reads, and
whatever a file's time says, which another machine's clock may have set.
"""

import json
import re
import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from klaviyo_assets.lake.disk import clear_dead, told
from klaviyo_assets.lake.layout import (
    ANSWERS,
    CHECKPOINT_COMMITS,
    QUARANTINE,
    RECEIPTS,
    SPILL,
    STAGING,
    is_data_file,
    table_folder,
)
from klaviyo_assets.lake.log import (
    LOG,
    OURS,
    Snapshot,
    actions,
    commit_path,
    commits,
    removed,
    snapshot,
)
from klaviyo_assets.lake.open_readers import files_in_use
from klaviyo_assets.lake.published import published

LOG_KEPT = timedelta(days=1)
"""How long commits stay that a checkpoint covers: for readers that are loading the table."""

HALVES_KEPT = timedelta(days=1)
"""How long a half file stays beside the tables: longer than anybody takes to write one."""

UNNAMED = re.compile(r".+#\d+|.+\.tmp")
"""What a commit or a checkpoint is called until it is whole and linked to its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """What was removed."""

    files_removed: int
    bytes_freed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """What readers need of a table: the version that the database shows, and files of others."""

    shown: int | None
    files: Collection[str]


def tidy(folder: Path, name: str, *, now: datetime, grace: timedelta, needed: Needed) -> Upkeep:
    """Tidy one table; quick where nothing is to be done.

    Raises:
        CorruptFileError: the log cannot be read.
        StorageError: the disk refused.
    """
    before = now - grace if grace else None
    with told(folder, name):
        # A table whose first commit was never made has these alone.
        alive = clear_dead(folder / STAGING)
        unnamed = Upkeep(files_removed=0, bytes_freed=0)
        if not alive:
            unnamed = delete(folder, unnamed_commits(folder), before=before)
    found = snapshot(folder, name)
    if found is None:
        return unnamed
    with told(folder, name):
        held, tombs = known_files(folder, found, since=before, shown=needed.shown)
        held.update(needed.files)
        doomed = [
            path
            for path in data_files(folder)
            if path not in held and (path in tombs or (not alive and is_data_file(path)))
        ]
        done = delete(folder, doomed, before=before)
        write_checkpoint(folder, found)
        shorten_log(folder, now=now, keep=max(grace, LOG_KEPT), shown=needed.shown)
    return Upkeep(
        files_removed=done.files_removed + unnamed.files_removed,
        bytes_freed=done.bytes_freed + unnamed.bytes_freed,
    )


def tidied(root: Path, names: Iterable[str], *, now: datetime, grace: timedelta) -> Upkeep:
    """Tidy some tables below `root`, and return what was removed in all."""
    clear_halves(root, before=now - HALVES_KEPT)
    shown = published(root).versions
    # Without a grace, too, the databases that nobody has open any more are forgotten.
    used = files_in_use(root, before=now - grace)
    used = used if grace else {}
    needed = {one: Needed(shown=shown.get(one), files=used.get(one, set())) for one in names}
    done = [
        tidy(table_folder(root, one), one, now=now, grace=grace, needed=each)
        for one, each in needed.items()
    ]
    return Upkeep(
        files_removed=sum(one.files_removed for one in done),
        bytes_freed=sum(one.bytes_freed for one in done),
    )


def clear_halves(root: Path, *, before: datetime) -> None:
    """Delete half files that killed processes left beside the tables, and what they had spilled.

    What was touched since `before` stays: somebody may be writing it.
    """
    lake = root / "lake"
    left = [*lake.glob(f"{QUARANTINE}/*/*.part"), *lake.glob(f"{ANSWERS}/*/*.part")]
    for path in [*left, *lake.glob(f"{RECEIPTS}/*.part"), *lake.glob(f"{SPILL}/*")]:
        with suppress(OSError):
            if path.stat().st_mtime <= before.timestamp():
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def unnamed_commits(folder: Path) -> list[str]:
    """Return the files in a log whose writer was killed before they got their names."""
    found = (path for path in (folder / LOG).glob("*") if UNNAMED.fullmatch(path.name))
    return [str(path.relative_to(folder)) for path in found]


def data_files(folder: Path) -> list[str]:
    """Return the Parquet files of the table's folder and its partitions, as in the log."""
    places = [folder, *folder.glob("day=*/"), *folder.glob("metric=*/month=*/")]
    return [
        str(path.relative_to(folder))
        for place in places
        for path in place.glob("*.parquet")
        if path.is_file() and not path.is_symlink()
    ]


def known_files(
    folder: Path, found: Snapshot, *, since: datetime | None, shown: int | None
) -> tuple[set[str], set[str]]:
    """Return the files that somebody may still read, and those that a commit in the log removed.

    Without `since` nobody but the current version counts.
    """
    held = {file.path for file in found.files}
    tombs: set[str] = set()
    for version in commits(folder):
        path = commit_path(folder, version)
        gone = set(removed(path))
        tombs |= gone
        is_shown = shown is not None and version > shown
        if since is not None and (is_shown or committed_at(path) >= since.timestamp()):
            held |= gone
    return held, tombs


def committed_at(path: Path) -> float:
    """Return when a commit was made, in seconds since 1970."""
    for info in actions(path, "commitInfo"):
        stamp = info.get("timestamp")
        if isinstance(stamp, int):
            return stamp / 1000
    return path.stat().st_mtime


def delete(folder: Path, doomed: list[str], *, before: datetime | None) -> Upkeep:
    """Delete the files that were not touched since `before`; all of them where that is None."""
    count = size = 0
    for name in doomed:
        with suppress(FileNotFoundError):
            known = (folder / name).stat()
            if before is None or known.st_mtime <= before.timestamp():
                (folder / name).unlink()
                count, size = count + 1, size + known.st_size
    return Upkeep(files_removed=count, bytes_freed=size)


def last_checkpoint(folder: Path) -> int:
    """Return the version of the newest checkpoint; -1 where there is none."""
    try:
        known = json.loads((folder / LOG / "_last_checkpoint").read_bytes())
        return int(known["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return -1


def write_checkpoint(folder: Path, found: Snapshot) -> None:
    """Write a checkpoint where the last one is many commits back."""
    if found.version - last_checkpoint(folder) > CHECKPOINT_COMMITS:
        found.table.create_checkpoint()


def shorten_log(folder: Path, *, now: datetime, keep: timedelta, shown: int | None) -> None:
    """Delete commits and checkpoints that a newer checkpoint covers and nobody may still read.

    What stays: the newest commit of ours and all after it, because it holds the mark; everything
    after the version that was published, because its removals say what to retire.
    """
    covered = last_checkpoint(folder)
    versions = [version for version in commits(folder) if version < covered]
    if shown is not None:
        versions = [version for version in versions if version <= shown]
    if len(versions) <= CHECKPOINT_COMMITS:
        return
    oldest = (now - keep).timestamp()
    ours = newest_of_ours(folder)
    for version in versions:
        path = commit_path(folder, version)
        if version >= ours or path.stat().st_mtime > oldest:
            break
        path.unlink(missing_ok=True)
    for path in (folder / LOG).glob("*.checkpoint*.parquet"):
        number = path.name.split(".")[0]
        if number.isdecimal() and int(number) < covered and path.stat().st_mtime <= oldest:
            path.unlink(missing_ok=True)


def newest_of_ours(folder: Path) -> int:
    """Return the version of the newest commit of ours; 0 where there is none."""
    for version in reversed(commits(folder)):
        if any(OURS in info for info in actions(commit_path(folder, version), "commitInfo")):
            return version
    return 0
