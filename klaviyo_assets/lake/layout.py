"""The layout: which tables the lake holds, where their files lie, and how big files get.

KLAVIYO_DATA_DIR/
├── klaviyo.duckdb                      views over the current files; can be deleted
└── lake/
    ├── <stream>/                       one Delta table
    │   ├── _delta_log/                 the commits: files, mark, account, lake version
    │   ├── _staging/<session>/         files that no commit names yet
    │   └── [day=2024-05-01/ or metric=<id>/month=2024-05/]part-*.parquet
    ├── <stream>_history/               every version seen, where the sync mode asks for it
    ├── _answers/<stream>/              answers to report requests, for a day
    ├── _readers/                       databases that were replaced and may still be open
    ├── _receipts/                      what erasures removed, of whom by hash
    ├── _exports.json                   where exports were written, for an erasure to look there
    ├── _damaged/<table>-<time>/        tables that were set aside; nobody reads or deletes them
    └── _quarantine/<stream>/           records that could not be stored
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import pyarrow as pa

from klaviyo_assets.errors import LakeError
from klaviyo_assets.model.stream import Partitioning, Stream

LAKE_VERSION = 1
"""The version of this layout, in every commit. A lake of a later one is refused."""

ROW_GROUP_ROWS = 50_000
ROW_GROUP_BYTES = 16 * 2**20
"""A row group ends at whichever comes first; bytes in memory, before compression.

Merging small files holds three: as read, as filtered, and those that wait to be written.
"""

FILE_BYTES = 128 * 2**20
"""A file ends with the row group that takes it over this size on disk."""

MAX_BUFFERED_BYTES = 16 * 2**20
"""Rows in memory, in bytes, beyond which they are staged: fewer than may wait (`sync.pace`)."""

MAX_KEYS_IN_MEMORY = 1_000_000
"""Keys of one commit and partition that are compared in memory, some 100 MB; more go to DuckDB."""

SMALL_FILE_BYTES = 32 * 2**20
MAX_SMALL_FILES = 4
"""A partition that a commit touches keeps at most about four files smaller than 32 MiB."""

COMMITS_PER_CHECKPOINT = 50
"""A checkpoint, which spares a reader the commits before it, is written this often."""

DATABASE_FILE = "klaviyo.duckdb"
STAGING_FOLDER = "_staging"
QUARANTINE_FOLDER = "_quarantine"
RESPONSE_CACHE_FOLDER = "_answers"
OPEN_READERS_FOLDER = "_readers"
SPILL_FOLDER = "_spill"
ERASURE_RECEIPTS_FOLDER = "_receipts"
EXPORTS_FILE = "_exports.json"
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
    """One table as the lake keeps it: its columns, its key, and which version of a key stays.

    `schema` has the key, the cursor and `synced_at` among its columns. `kept_versions` is "newest"
    (of equal keys the later cursor where `newest_by_cursor`, then the one that came in later) or
    "every" (a key that is there already stays as it is: a history, whose key holds the version).
    """

    name: str
    schema: pa.Schema
    key: tuple[str, ...]
    cursor: str | None = None
    newest_by_cursor: bool = True
    partitioning: Partitioning = "none"
    kept_versions: Literal["newest", "every"] = "newest"

    def __post_init__(self) -> None:
        """Refuse nonsense, and drop what a schema says beyond names and types.

        Raises:
            LakeError: the name could leave the folder, or a column is missing or there twice.
        """
        # NULL is allowed in every column of the stored table, so that a release can add some.
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
    def version_columns(self) -> tuple[str, ...]:
        """Return the columns that tell which row of a key is the newest; else the order tells it.

        `synced_at` is none of them: it is by a clock, and clocks jump. Whoever commits has read
        after the version that the commit goes through against, so what comes in later is newer.
        """
        if self.cursor is not None and self.newest_by_cursor and self.cursor not in self.key:
            return (self.cursor,)
        return ()

    @property
    def can_change_partition(self) -> bool:
        """Return whether a key can come back in another partition: it does not hold its day."""
        return self.partitioning == DAY_PARTITION and self.cursor not in self.key


def build_table(stream: Stream, schema: pa.Schema) -> LakeTable:
    """Return the table that a stream is stored in; `schema` comes from the room `tables`."""
    if stream.name.endswith(HISTORY_SUFFIX):
        raise LakeError(f"a stream must not be named like a history: {stream.name}")
    cursor = stream.cursor
    return LakeTable(
        name=stream.name,
        schema=schema,
        key=stream.key,
        cursor=None if cursor is None else cursor.column,
        newest_by_cursor=cursor is not None and cursor.is_version,
        partitioning=stream.partitioning,
    )


def build_history_table(table: LakeTable) -> LakeTable:
    """Return the table of all versions sent: unique by key and cursor, or by key and sync."""
    pairs = zip(table.schema.names, table.schema.types, strict=True)
    columns = [(name, kind) for name, kind in pairs if name != DELETED_AT_COLUMN]
    version = table.cursor if table.cursor is not None else SYNC_STARTED_AT_COLUMN
    return LakeTable(
        name=table.name + HISTORY_SUFFIX,
        schema=pa.schema([*columns, (SYNC_STARTED_AT_COLUMN, pa.timestamp("us", tz="UTC"))]),
        key=tuple(dict.fromkeys((*table.key, version))),
        cursor=table.cursor,
        newest_by_cursor=False,
        partitioning=table.partitioning,
        kept_versions="every",
    )


def check_table_name(name: str) -> str:
    """Return `name` if it is safe as a folder and as a relation.

    Raises:
        LakeError: it is not; nothing was touched.
    """
    if TABLE_NAME_PATTERN.fullmatch(name) is None:
        raise LakeError(
            f"{name[:80]!r} cannot name a table: lower-case letters, digits and _, at most 63"
        )
    return name


METRIC_FOLDER_PATTERN = r"[A-Za-z0-9_-]{1,64}|~[0-9a-f]{40}"

DATA_FILE_PATTERN = re.compile(
    rf"({DAY_PARTITION}=\d{{4}}-\d\d-\d\d/|{METRIC_PARTITION}=({METRIC_FOLDER_PATTERN})/{MONTH_PARTITION}=\d{{4}}-\d\d/)?"
    r"part-[0-9a-f]{32}\.parquet"
)


def has_data_file_name(path: str) -> bool:
    """Tell whether a path below a table's folder is one of the names that we give."""
    return DATA_FILE_PATTERN.fullmatch(path) is not None


def parse_partition_values(partition: str) -> dict[str, str | None]:
    """Return the partition columns' values that the folder of a partition stands for."""
    pairs = (part.partition("=") for part in partition.split("/") if part)
    return {name: value for name, _, value in pairs}


def report_partition_folder(metric_id: str, day: date) -> str:
    """Return the folder of a report's partition.

    Metric ids come from outside: what is not plainly an id is told by its hash, behind a sign that
    no id of Klaviyo's has. So no id can leave the folder, and no two share one.
    """
    name = metric_id
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", metric_id) is None:
        name = f"~{sha256(metric_id.encode()).hexdigest()[:40]}"
    return f"{METRIC_PARTITION}={name}/{MONTH_PARTITION}={day.isoformat()[:7]}"


def table_folder(root: Path, name: str) -> Path:
    """Return the folder of a table below the data folder."""
    return root / "lake" / check_table_name(name)


def quarantine_folder(root: Path, stream: str) -> Path:
    """Return the folder of the records of a stream that could not be stored."""
    return root / "lake" / QUARANTINE_FOLDER / check_table_name(stream)


def response_cache_folder(root: Path, stream: str) -> Path:
    """Return the folder of the answers to report requests that are kept for a day."""
    return root / "lake" / RESPONSE_CACHE_FOLDER / check_table_name(stream)


def select_files_to_compact(sizes: Sequence[int]) -> list[int]:
    """Return which files of one partition are merged into one, as positions in `sizes` (bytes).

    Nothing up to `MAX_SMALL_FILES` small files. Beyond that the smallest, in ascending order, as
    long
    as the next is at most twice the sum of those before: a row is rewritten a number of times that
    grows with the logarithm of its partition, not with the number of commits.
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
