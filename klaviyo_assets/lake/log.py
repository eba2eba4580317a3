"""The Delta log of one table, read: what is current, and our mark in the newest commit of ours.

What belongs here: reading. What does not: adding a commit (`delta`), cleaning up (`upkeep`). Our
part of a commit is custom metadata under `OURS`; commits of other engines between ours are passed
over. Source: https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from klaviyo_assets.errors import LakeVersionError
from klaviyo_assets.lake.disk import broken, refusal
from klaviyo_assets.lake.layout import LAKE_VERSION, PARTITION_COLUMNS
from klaviyo_assets.lake.listing import files_of, partitions
from klaviyo_assets.lake.parquet import DataFile

OURS = "klaviyo_assets"
LOG = "_delta_log"

PARTITIONINGS = [list(columns) for columns in PARTITION_COLUMNS.values()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Our part of a commit: whose data, of which layout, how far (`state`), by which session.

    `key` are the columns by which rows are told apart: a check needs them without the stream.
    `keeps_keys`: whether every key that was there still is, `is_unique`: whether each is there
    once; False where nobody knows.
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

    def as_json(self) -> dict[str, object]:
        """Return the custom metadata of a commit."""
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
class Snapshot:
    """A table at one version. `schema` is without the partition column; `mark` our newest."""

    table: DeltaTable
    version: int
    schema: pa.Schema
    files: tuple[DataFile, ...]
    mark: Mark | None

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return sum(file.rows for file in self.files)

    @property
    def is_emptied(self) -> bool:
        """Tell whether rows were there at our last commit, and another engine took them all."""
        return not self.files and self.mark is not None and self.mark.rows > 0


def commit_path(folder: Path, version: int) -> Path:
    """Return the file of one commit."""
    return folder / LOG / f"{version:020d}.json"


def newest_version(folder: Path) -> int | None:
    """Return the newest version in the log without loading the table; None without a log."""
    return max(commits(folder), default=None)


def actions(path: Path, kind: str) -> Iterator[dict[str, object]]:
    """Yield the actions of one kind (`add`, `remove`, `commitInfo`) of a commit file."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            # Commit files have thousands of lines; only those that can match are parsed.
            if line.startswith(f'{{"{kind}":'):
                yield json.loads(line)[kind]


def newest_mark(folder: Path, version: int, stream: str) -> Mark | None:
    """Return our part of the newest commit of ours at or before `version`; None if there is none.

    Raises:
        CorruptFileError: a commit cannot be read.
        LakeVersionError: a version of this project with another layout wrote it.
    """
    while version >= 0 and commit_path(folder, version).exists():
        mark = mark_at(folder, version, stream)
        if mark is not None:
            return mark
        version -= 1
    return None


def marks(folder: Path, stream: str, *, after: int, upto: int) -> Iterator[Mark | None]:
    """Yield our part of each commit later than `after` up to `upto`; None where it has none.

    None, too, for a commit that is no longer in the log.

    Raises:
        CorruptFileError: a commit cannot be read.
        LakeVersionError: a version of this project with another layout wrote it.
    """
    for version in range(after + 1, upto + 1):
        is_there = commit_path(folder, version).exists()
        yield mark_at(folder, version, stream) if is_there else None


def mark_at(folder: Path, version: int, stream: str) -> Mark | None:
    """Return our part of a commit that is in the log; None where it is not ours.

    Raises:
        CorruptFileError: the commit cannot be read.
        LakeVersionError: a version of this project with another layout wrote it.
    """
    path = commit_path(folder, version)
    try:
        ours = [info[OURS] for info in actions(path, "commitInfo") if OURS in info]
        return read_mark(cast("dict[str, object]", ours[0]), stream) if ours else None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise broken(path, stream) from None


def read_mark(ours: Mapping[str, object], stream: str) -> Mark:
    """Return the mark that a commit of ours holds; keys that we do not know are passed over."""
    found = cast("int", ours["lake_version"])
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
    return Mark(
        account=str(ours["account"]),
        key=tuple(cast("list[str]", ours["key"])),
        state=cast("dict[str, object]", ours["state"]),
        rows=cast("int", ours["rows"]),
        session=str(ours["session"]),
        sequence=cast("int", ours["sequence"]),
        keeps_keys=ours.get("keeps_keys") is True,
        is_unique=ours.get("is_unique") is True,
        lake_version=found,
    )


def snapshot(folder: Path, stream: str, version: int | None = None) -> Snapshot | None:
    """Return the table as it is now, or at `version`; None where there is none.

    Raises:
        CorruptFileError: the log cannot be read.
        LakeVersionError: a later version, or another engine's feature, that we do not read.
    """
    if newest_version(folder) is None:
        return None
    try:
        table = DeltaTable(folder, version=version)
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as cause:
        raise log_error(cause, folder, stream) from None
    refuse_features(table, stream)
    by = partitions(table)
    schema = pa.schema(cast("Any", table.schema().to_arrow()))
    pairs = zip(schema.names, schema.types, strict=True)
    return Snapshot(
        table=table,
        version=table.version(),
        schema=pa.schema([(name, kind) for name, kind in pairs if name not in by]),
        files=tuple(files_of(table, folder)),
        mark=newest_mark(folder, table.version(), stream),
    )


def log_error(cause: BaseException, folder: Path, stream: str) -> Exception:
    """Return the error for a log that deltalake could not read."""
    if isinstance(cause, PermissionError) or "ermission denied" in str(cause):
        return refusal(PermissionError(13, ""), folder / LOG, stream)
    return broken(folder / LOG, stream)


def refuse_features(table: DeltaTable, stream: str) -> None:
    """Refuse a table that another engine gave features that `read_parquet` would not honour.

    Raises:
        LakeVersionError: deletion vectors, column mapping, or another partitioning.
    """
    if table.protocol().min_reader_version > 1 or partitions(table) not in PARTITIONINGS:
        raise LakeVersionError(
            "another program gave this table Delta features that klaviyo_assets does not read "
            "(deletion vectors, column mapping, other partitions). Copy it without them, or put it "
            f"away with `klaviyo-assets set-aside {stream}` and materialize the asset again",
            stream=stream,
        )


def commits(folder: Path) -> list[int]:
    """Return the versions whose commits are still in the log, the oldest first."""
    names = (path.stem for path in (folder / LOG).glob("*.json"))
    return sorted(int(name) for name in names if name.isdecimal())


def removed(path: Path) -> Iterator[str]:
    """Yield the paths that a commit took out."""
    for action in actions(path, "remove"):
        yield unquote(str(action["path"]))


def removed_since(folder: Path, *, after: int) -> Iterator[str]:
    """Yield the paths that commits later than version `after` took out, as far as the log goes."""
    for version in commits(folder):
        if version > after:
            yield from removed(commit_path(folder, version))
