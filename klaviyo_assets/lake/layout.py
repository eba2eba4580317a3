"""The layout of the lake: its tables, the paths of their files, and the limits of file sizes.

KLAVIYO_DATA_DIR/
├── klaviyo.duckdb                      views over the current files; can be deleted
└── lake/
    ├── _identity.json                  the lake's own id, and its account's names
    ├── <stream>/                       one Delta table
    │   ├── _delta_log/                 the commits: files, cursor state, account, lake version
    │   ├── _staging/<session>/         files that no commit names yet
    │   └── [day=2024-05-01/ or [metric=<id>/]month=2024-05/]part-*.parquet
    ├── <stream>_history/               versions read, where the sync mode or a setting keeps them
    ├── _answers/<stream>/              responses to report requests: kept a day, used for six hours
    ├── _readers/                       databases that were replaced and may still be open
    ├── _receipts/                      what erasures removed, with hashes of the profiles' ids
    ├── _published.json, _tables.json   what klaviyo.duckdb shows, and its tables; can be deleted
    ├── _exports.json                   where exports were written, so that an erasure searches them
    ├── _targets.json                   users' databases with views of ours, and the files they name
    ├── _damaged/<table>-<time>/        tables that were set aside; nothing reads or deletes them
    └── _quarantine/<stream>/           records that no table can hold

An account can have several names: the id that Klaviyo gives it, and stand-ins for keys that may not
read that id. Commits carry the name of their time, so the file lists the names that mean the same
account.
"""

import json
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast
from uuid import uuid4

import pyarrow as pa

from klaviyo_assets.errors import LakeError
from klaviyo_assets.lake.disk import create_folder, hold_lock, map_storage_errors
from klaviyo_assets.model.report import NO_METRIC
from klaviyo_assets.model.stream import Partitioning, Stream

LAKE_VERSION = 1
"""The version of this layout, in every commit. A lake with a later version is refused."""

ROW_GROUP_ROWS = 50_000
ROW_GROUP_BYTES = 16 * 2**20
"""A row group ends at whichever limit comes first; bytes in memory, before compression.

A merge of small files holds three row groups: as read, as filtered, and the buffered one."""

FILE_BYTES = 128 * 2**20
"""A file ends with the row group that takes it over this size on disk."""

MAX_BUFFERED_BYTES = 16 * 2**20
"""Bytes of rows in memory beyond which they are staged: less than `sync/workers.py` buffers."""

MAX_KEYS_IN_MEMORY = 1_000_000
"""Keys of one commit and partition that are compared in memory (about 100 MB); more go to DuckDB.
"""

SMALL_FILE_BYTES = 32 * 2**20
MAX_SMALL_FILES = 4
"""A partition that a commit touches has at most about four files smaller than 32 MiB after it."""

COMMITS_PER_CHECKPOINT = 50
"""How many commits apart checkpoints are: a reader skips all commits before one."""

DATABASE_FILE = "klaviyo.duckdb"
STAGING_FOLDER = "_staging"
QUARANTINE_FOLDER = "_quarantine"
RESPONSE_CACHE_FOLDER = "_answers"
OPEN_READERS_FOLDER = "_readers"
SPILL_FOLDER = "_spill"
ERASURE_RECEIPTS_FOLDER = "_receipts"
EXPORTS_FILE = "_exports.json"
TARGETS_FILE = "_targets.json"
SET_ASIDE_FOLDER = "_damaged"
DAY_PARTITION = "day"
"""The Delta partition column: the UTC day of the cursor. Not in the files, nor in the views."""

METRIC_PARTITION = "metric"
MONTH_PARTITION = "month"
"""The Delta partition columns of reports: the conversion metric, encoded, and `YYYY-MM`."""

PARTITION_COLUMNS: Mapping[Partitioning, Mapping[str, pa.DataType]] = MappingProxyType(
    {
        "none": {},
        "day": {DAY_PARTITION: pa.date32()},
        "month": {MONTH_PARTITION: pa.string()},
        "metric and month": {METRIC_PARTITION: pa.string(), MONTH_PARTITION: pa.string()},
    }
)
"""The partition columns of each partitioning, in the order of the folders."""

SYNCED_AT_COLUMN = "synced_at"
DELETED_AT_COLUMN = "deleted_at"
SYNC_STARTED_AT_COLUMN = "sync_started_at"
HISTORY_SUFFIX = "_history"

# 63 characters: PostgreSQL's limit. Lower case: some file systems and all SQL engines ignore case.
TABLE_NAME_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeTable:
    """One stored table: its columns, its key, and which versions of a key are kept.

    `schema` has the key, the cursor and `synced_at` among its columns. With `kept_versions`
    "newest", of equal keys the row with the later cursor is kept (where `newest_by_cursor`), then
    the one that came in later. With "every", a stored key never changes: a history, whose key
    includes the version. `deletion_column`: where a row says since when it is missing, if the
    schema has that column. `history_columns`: a row in which one of these changed is a version of
    its own, also where its cursor is that of the version before. `keeps_unchanged_rows`: a stored
    row stays, with its `synced_at`, where an equal one is merged.
    """

    name: str
    schema: pa.Schema
    key: tuple[str, ...]
    cursor: str | None = None
    newest_by_cursor: bool = True
    partitioning: Partitioning = "none"
    kept_versions: Literal["newest", "every"] = "newest"
    deletion_column: str = DELETED_AT_COLUMN
    history_columns: tuple[str, ...] = ()
    keeps_unchanged_rows: bool = False

    def __post_init__(self) -> None:
        """Check the table, and reduce its schema to names and types.

        Raises:
            LakeError: the name is unsafe, or a column is missing or occurs twice.
        """
        # Every column of the stored table allows NULL, so that a later release can add columns.
        plain = pa.schema(list(zip(self.schema.names, self.schema.types, strict=True)))
        object.__setattr__(self, "schema", plain)
        check_table_name(self.name)
        lowered = [name.lower() for name in self.schema.names]
        if len(set(lowered)) != len(lowered):
            raise LakeError("two columns differ in case alone", stream=self.name)
        for column in self.required_columns:
            if column not in self.schema.names:
                raise LakeError(f"the column {column!r} is missing", stream=self.name)
        if self.partitioning == DAY_PARTITION and self.cursor is None:
            raise LakeError("a table by day needs a cursor", stream=self.name)
        clash = PARTITION_COLUMNS[self.partitioning].keys() & set(lowered)
        if clash:
            raise LakeError(f"columns named as partitions are: {sorted(clash)}", stream=self.name)

    @property
    def required_columns(self) -> tuple[str, ...]:
        """Return the columns that are never NULL: key, cursor and `synced_at`."""
        return tuple(dict.fromkeys(filter(None, (*self.key, self.cursor, SYNCED_AT_COLUMN))))

    @property
    def unique_columns(self) -> tuple[str, ...]:
        """Return the columns that no two stored rows share: the key; of a history also `synced_at`.

        Different values of the history columns can have been read beside the same cursor.
        """
        has_changes = self.kept_versions == "every" and self.history_columns
        added = (SYNCED_AT_COLUMN,) if has_changes else ()
        return tuple(dict.fromkeys((*self.key, *added)))

    @property
    def version_columns(self) -> tuple[str, ...]:
        """Return the columns that order the rows of one key; if empty, the order of arrival does.

        `synced_at` is not one of them, because clocks jump. A run that commits has read after the
        version on top of which it commits, so what arrives later is newer.
        """
        if self.cursor is not None and self.newest_by_cursor and self.cursor not in self.key:
            return (self.cursor,)
        return ()

    @property
    def can_change_partition(self) -> bool:
        """Return whether a key can come back in another partition: its day is not in the key."""
        return self.partitioning == DAY_PARTITION and self.cursor not in self.key


def build_table(stream: Stream, schema: pa.Schema, *, renews_synced_at: bool = False) -> LakeTable:
    """Return the table that a stream is stored in; `schema` comes from the room `decode`.

    With `renews_synced_at`, rows that come back unchanged do not keep theirs.
    """
    if stream.name.endswith(HISTORY_SUFFIX):
        raise LakeError(f"a stream must not be named like a history: {stream.name}")
    cursor = stream.cursor
    # A history of changes is made from all rows that a sync stages.
    has_rereads = cursor is not None and cursor.has_lookback and not stream.history_columns
    return LakeTable(
        name=stream.name,
        schema=schema,
        key=stream.key,
        cursor=None if cursor is None else cursor.column,
        newest_by_cursor=cursor is not None and cursor.is_version,
        partitioning=stream.partitioning,
        deletion_column=stream.deletion_column.name,
        history_columns=stream.history_columns,
        keeps_unchanged_rows=has_rereads and not renews_synced_at,
    )


def build_history_table(table: LakeTable) -> LakeTable:
    """Return the table of versions read: unique by key and cursor, or by key and sync."""
    pairs = zip(table.schema.names, table.schema.types, strict=True)
    columns = [(name, kind) for name, kind in pairs if name != table.deletion_column]
    version = table.cursor if table.cursor is not None else SYNC_STARTED_AT_COLUMN
    return LakeTable(
        name=table.name + HISTORY_SUFFIX,
        schema=pa.schema([*columns, (SYNC_STARTED_AT_COLUMN, pa.timestamp("us", tz="UTC"))]),
        key=tuple(dict.fromkeys((*table.key, version))),
        cursor=table.cursor,
        newest_by_cursor=False,
        partitioning=table.partitioning,
        kept_versions="every",
        history_columns=table.history_columns,
    )


def check_table_name(name: str) -> str:
    """Return `name` if it is safe as the name of a folder and of a relation.

    Raises:
        LakeError: it is not; nothing was written.
    """
    if TABLE_NAME_PATTERN.fullmatch(name) is None:
        raise LakeError(
            f"{name[:80]!r} cannot name a table: lower-case letters, digits and _, at most 63"
        )
    return name


METRIC_FOLDER_PATTERN = r"[A-Za-z0-9_-]{1,64}|~[0-9a-f]{40}"

DATA_FILE_PATTERN = re.compile(
    rf"({DAY_PARTITION}=\d{{4}}-\d\d-\d\d/|({METRIC_PARTITION}=({METRIC_FOLDER_PATTERN})/)?{MONTH_PARTITION}=\d{{4}}-\d\d/)?"
    r"part-[0-9a-f]{32}\.parquet"
)


def has_data_file_name(path: str) -> bool:
    """Return whether a path below a table's folder has the form of our data files."""
    return DATA_FILE_PATTERN.fullmatch(path) is not None


def parse_partition_values(partition: str) -> dict[str, str | None]:
    """Return the values of the partition columns that a partition's folder stands for."""
    pairs = (part.partition("=") for part in partition.split("/") if part)
    return {name: value for name, _, value in pairs}


def report_partition_folder(metric_id: str, day: date) -> str:
    """Return the folder of a report partition; without a metric it is that of the month.

    Metric ids come from outside. One that has other characters than Klaviyo's ids is replaced by
    its hash behind `~`, which no id of Klaviyo's contains. So no id can lead out of the folder, and
    no two ids share one.
    """
    month = f"{MONTH_PARTITION}={day.isoformat()[:7]}"
    if metric_id == NO_METRIC:
        return month
    name = metric_id
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", metric_id) is None:
        name = f"~{sha256(metric_id.encode()).hexdigest()[:40]}"
    return f"{METRIC_PARTITION}={name}/{month}"


def table_folder(root: Path, name: str) -> Path:
    """Return the folder of a table below the data folder."""
    return root / "lake" / check_table_name(name)


def quarantine_folder(root: Path, stream: str) -> Path:
    """Return the folder of a stream's records in quarantine."""
    return root / "lake" / QUARANTINE_FOLDER / check_table_name(stream)


def response_cache_folder(root: Path, stream: str) -> Path:
    """Return the folder of a stream's cached report responses."""
    return root / "lake" / RESPONSE_CACHE_FOLDER / check_table_name(stream)


def select_files_to_compact(sizes: Sequence[int]) -> list[int]:
    """Return which files of one partition are merged into one, as positions in `sizes` (bytes).

    The list is empty while there are at most `MAX_SMALL_FILES` small files. Beyond that it has the
    smallest, in ascending order, as long as the next is at most twice the sum of those before it.
    So a row is rewritten a number of times that grows with the logarithm of its partition, not with
    the number of commits.
    """
    small = sorted((size, at) for at, size in enumerate(sizes) if size < SMALL_FILE_BYTES)
    if len(small) <= MAX_SMALL_FILES:
        return []
    chosen: list[int] = []
    total = 0
    for size, at in small:
        if len(chosen) > 1 and size > 2 * total:
            break
        chosen.append(at)
        total += size
    return chosen


IDENTITY_FILE = "_identity.json"

ACCOUNT_STAND_IN_PREFIX = "key-"
"""Prefix of the name that stands for an account whose id the key may not read."""

_LOCK_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeIdentity:
    """A lake's id, and the names of its account.

    `id` is "" where the lake has none yet. `aliases` are other names that commits may carry and
    that mean `account`. As long as the account has only one name, both `account` and `aliases` are
    empty.
    """

    id: str = ""
    account: str = ""
    aliases: frozenset[str] = frozenset()

    def current_account_name(self, account: str) -> str:
        """Return the current name of an account in this lake."""
        return self.account if account in self.aliases else account


def read_identity(root: Path) -> LakeIdentity:
    """Return the stored identity; an empty one where the file is missing or damaged.

    Raises:
        StorageError: the file may exist, and cannot be read.
    """
    note = _identity_path(root)
    with map_storage_errors(note, None):
        try:
            raw = note.read_bytes()
        except FileNotFoundError:
            return LakeIdentity()
    try:
        known = json.loads(raw)
        return LakeIdentity(
            id=str(known["id"]),
            account=str(known["account"]),
            aliases=frozenset(map(str, cast("list[object]", known["also"]))),
        )
    except (ValueError, KeyError, TypeError):
        return LakeIdentity()


def ensure_identity(root: Path) -> LakeIdentity:
    """Return the stored identity; a lake without an id gets one.

    Raises:
        StorageError: the folder cannot be written, or the file cannot be read.
    """
    known = read_identity(root)
    if known.id:
        return known
    with (
        map_storage_errors(root, None),
        hold_lock(_identity_lock_path(root), timeout_seconds=_LOCK_TIMEOUT_SECONDS),
    ):
        known = read_identity(root)
        return known if known.id else _write_identity(root, replace(known, id=uuid4().hex))


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeLocation:
    """A lake's id, and the host, device and folder where it lies."""

    id: str
    host: str
    device: int
    folder: str

    def __str__(self) -> str:
        return f"{self.id} {self.device} {self.host}:{self.folder}"

    @property
    def place(self) -> str:
        """Return host and folder, for messages."""
        return f"{self.host}:{self.folder}"

    def is_other_lake(self, previous: "LakeLocation") -> bool:
        """Return whether this is another lake than `previous`, at another place.

        A lake whose folder was moved or copied still has its id. A new id at the same place means
        that somebody deleted the files, which is no other lake either.
        """
        is_moved = (self.place, self.device) != (previous.place, previous.device)
        return self.id != previous.id and is_moved


def read_location(root: Path) -> LakeLocation:
    """Return the lake's id and where it lies; a lake without an id gets one.

    Raises:
        StorageError: the folder cannot be written, or the file cannot be read.
    """
    with map_storage_errors(root, None):
        device = root.stat().st_dev
    identity = ensure_identity(root)
    return LakeLocation(id=identity.id, host=platform.node(), device=device, folder=str(root))


def parse_location(text: str) -> LakeLocation | None:
    """Return the location that `str` was applied to; None if the text is not one."""
    name, _, rest = text.partition(" ")
    device, _, place = rest.partition(" ")
    host, colon, folder = place.partition(":")
    if not (name and colon and device.isdecimal()):
        return None
    return LakeLocation(id=name, host=host, device=int(device), folder=folder)


def record_account(root: Path, account: str, *, aliases: Iterable[str]) -> bool:
    """Store the account's current name and its aliases; return whether anything changed.

    Raises:
        StorageError: the folder cannot be written, or the file cannot be read.
    """
    create_folder(root / "lake")
    with (
        map_storage_errors(root, None),
        hold_lock(_identity_lock_path(root), timeout_seconds=_LOCK_TIMEOUT_SECONDS),
    ):
        known = read_identity(root)
        former = {known.account} if known.account else set[str]()
        names = frozenset({*known.aliases, *former, *aliases} - {account})
        if known.account == account and names == known.aliases:
            return False
        _write_identity(
            root, LakeIdentity(id=known.id or uuid4().hex, account=account, aliases=names)
        )
        return True


def _identity_path(root: Path) -> Path:
    return root / "lake" / IDENTITY_FILE


def _identity_lock_path(root: Path) -> Path:
    return root / "lake" / "_identity.lock"


def _write_identity(root: Path, identity: LakeIdentity) -> LakeIdentity:
    """Write the file; the caller holds the lock."""
    part_file = root / "lake" / "_identity.part"
    content = {"id": identity.id, "account": identity.account, "also": sorted(identity.aliases)}
    # Removed first: never write into a file that a killed run left, or through a symbolic link.
    part_file.unlink(missing_ok=True)
    with part_file.open("x", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    part_file.replace(_identity_path(root))
    return identity
