"""DuckDB in this process: connections, SQL over a table's files, search for duplicate keys.

To import DuckDB takes 70 ms, and to start it 15 to 30 ms. So it is imported late and started once
per process, in memory, while a sync waits for its first page: it then writes klaviyo.duckdb in 10
ms. A DuckDB started for that file alone took 40 to 80 ms of a run of two seconds, and again for
each of the dozen streams of the hourly job.
"""

import atexit
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from klaviyo_assets.errors import LakeVersionError
from klaviyo_assets.lake.parquet import conform_rows

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFiles:
    """A table at one version: its columns and the absolute paths of its files.

    The paths are texts: `Path` objects take three times the memory.

    If `paths_macro` is given, the SELECT has that macro instead of the paths: see
    `create_paths_macro`.
    """

    schema: pa.Schema
    paths: tuple[str, ...]
    paths_macro: str = ""


PATH_SEPARATOR = "\n"


def select_table_files(table: TableFiles) -> str:
    """Return the SELECT of a stored table, its columns in order; without files it has no rows."""
    pairs = zip(table.schema.names, table.schema.types, strict=True)
    types = {name: duckdb_type(kind) for name, kind in pairs}
    if not table.paths:
        nulls = (
            f"CAST(NULL AS {kind}) AS {quote_identifier(name)}" for name, kind in types.items()
        )
        return f"SELECT {', '.join(nulls)} WHERE false"
    entries = (
        f"{quote_literal(name)}: "
        f"{{name: {quote_literal(name)}, type: {quote_literal(kind)}, default_value: NULL}}"
        for name, kind in types.items()
    )
    columns = ", ".join(quote_identifier(name) for name in types)
    macro = table.paths_macro
    paths = f"{quote_identifier(macro)}()" if macro else select_paths(table.paths)
    arguments = f"{paths}, hive_partitioning = false, schema = MAP {{{', '.join(entries)}}}"
    return f"SELECT {columns} FROM read_parquet({arguments})"


def select_paths(paths: Sequence[str]) -> str:
    """Return the SQL expression of a list of paths.

    It is one text that DuckDB splits: of a list, each literal takes 10 kB of memory, in the process
    that creates a view and in each that reads it. No path has a line feed: the setting refuses one.
    """
    return f"string_split({quote_literal(PATH_SEPARATOR.join(paths))}, chr(10))"


def create_paths_macro(name: str, paths: Sequence[str], *, catalog: str) -> str:
    """Return the statement that makes a macro return these paths, whatever it returned before.

    Views call it, so that a commit to a table replaces one macro, and no view and no comment of
    one. DuckDB looks for it in the database of the view, also where that is attached by another
    name and where a reader has a macro of the same name.
    """
    macro = f"{quote_identifier(catalog)}.main.{quote_identifier(name)}"
    return f"CREATE OR REPLACE MACRO {macro}() AS {select_paths(paths)}"


def quote_identifier(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


DUCKDB_TYPES: Sequence[tuple[pa.DataType, str]] = (
    (pa.string(), "VARCHAR"),
    (pa.large_string(), "VARCHAR"),
    (pa.string_view(), "VARCHAR"),
    (pa.binary(), "BLOB"),
    (pa.bool_(), "BOOLEAN"),
    (pa.int8(), "TINYINT"),
    (pa.int16(), "SMALLINT"),
    (pa.int32(), "INTEGER"),
    (pa.int64(), "BIGINT"),
    (pa.float32(), "FLOAT"),
    (pa.float64(), "DOUBLE"),
    (pa.date32(), "DATE"),
    (pa.timestamp("us"), "TIMESTAMP"),
    (pa.timestamp("us", tz="UTC"), "TIMESTAMP WITH TIME ZONE"),
)


def duckdb_type(kind: pa.DataType) -> str:
    """Return the DuckDB type of a column.

    Raises:
        LakeVersionError: another program added a column of a type that we do not write.
    """
    for known, name in DUCKDB_TYPES:
        if kind == known:
            return name
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"{duckdb_type(kind.value_type)}[]"
    raise LakeVersionError(f"a column of type {kind}, which klaviyo_assets does not write")


# DuckDB must not load extensions from the network, whatever the name of a path or function.
OFFLINE_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}

NEW_DATABASE_CATALOG = "beside"
"""The catalog name of a database while it is written; its views do not contain it."""

DUCKDB_STORAGE_VERSION = "v1.0.0"
"""The storage format of the files that we write: every DuckDB since 1.0 reads it."""

_SHARED_LOCK = Lock()


def load_duckdb() -> None:
    """Import and start DuckDB: 100 ms of work, to be done while something else is awaited."""
    _shared_connection(os.getpid())


def open_connection() -> "duckdb.DuckDBPyConnection":
    """Return a new in-memory connection, in UTC, that loads nothing from the network."""
    made = _connect()
    made.execute("SET TimeZone = 'UTC'")
    return made


@contextmanager
def open_new_database(path: Path) -> "Generator[duckdb.DuckDBPyConnection]":
    """Open a database file as `NEW_DATABASE_CATALOG`, to write it.

    The file is complete when the block has ended.

    Raises:
        duckdb.Error: it cannot be written.
    """
    with _SHARED_LOCK, _shared_connection(os.getpid()).cursor() as cursor:
        options = f"STORAGE_VERSION {quote_literal(DUCKDB_STORAGE_VERSION)}"
        cursor.execute(
            f"ATTACH {quote_literal(str(path))} AS {quote_identifier(NEW_DATABASE_CATALOG)} "
            f"({options})"
        )
        try:
            yield cursor
        finally:
            cursor.execute(f"DETACH {quote_identifier(NEW_DATABASE_CATALOG)}")


@cache
def _shared_connection(process: int) -> "duckdb.DuckDBPyConnection":  # noqa: ARG001 - what it is cached by
    """Return this process's DuckDB; a forked process needs its own, for it has lost the threads."""
    # Left in the cache at exit, the connection would be reported as a leak.
    atexit.register(_shared_connection.cache_clear)
    return _connect()


def _connect() -> "duckdb.DuckDBPyConnection":
    import duckdb  # noqa: PLC0415 - late, see the module docstring

    return duckdb.connect(":memory:", config=OFFLINE_CONFIG)


DUCKDB_MEMORY_LIMIT = "256MB"


def query_duplicate_keys(paths: Sequence[str], key: pa.Schema, *, spill: Path) -> pa.Table:
    """Return the keys that occur in the files more than once, in the columns of `key`.

    `spill` is a temporary folder for what does not fit in memory.

    Raises:
        duckdb.Error: a file cannot be read, or the disk is full.
    """
    keys = select_table_files(TableFiles(schema=key, paths=tuple(paths)))
    with open_bounded_connection(spill) as opened:
        repeats = f"SELECT {quote_key_columns(key)} FROM ({keys}) GROUP BY ALL HAVING count(*) > 1"
        return conform_rows(opened.sql(repeats).to_arrow_table(), key)


Hashes = npt.NDArray[np.uint64]

HASH_FILES = 200
"""Files whose keys one query hashes: DuckDB holds some memory for each file of a query."""

HASH_BATCH_ROWS = 16 * 1024
"""Hashes that DuckDB hands over at a time."""

MAX_HASHES_IN_MEMORY = 256 * 1024
"""Hashes, of 8 bytes each, that are sorted in memory; beyond them, sorted ones go to files.

They are there three times while they are sorted. With a million of them, and 128 Ki at a time, the
search took 20 MiB more and no less CPU.
"""

HASH_BUCKETS = 64
"""Files of hashes, by their highest bits: of a billion keys, each has 125 MB."""


def has_duplicate_hashes(paths: Sequence[str], key: pa.Schema, *, spill: Path) -> bool:
    """Return whether two keys have the same 64-bit hash; if not, every key occurs once.

    DuckDB hashes the keys, and numpy sorts the hashes, a bucket at a time. For 24 million keys in
    6,000 files that takes 4 to 5 s of CPU and 58 MiB on a busy machine, 16 of them code; DuckDB's
    own GROUP BY of as many took 307 MiB, or 186 with one thread and a limit of 128 MB.

    Raises:
        duckdb.Error: a file cannot be read.
        OSError: the disk is full.
    """
    with ExitStack() as stack:
        buckets: list[BinaryIO] = []
        waiting: list[Hashes] = []
        for hashes in _hash_keys(paths, key):
            waiting.append(hashes)
            if sum(map(len, waiting)) >= MAX_HASHES_IN_MEMORY:
                buckets = buckets or _open_buckets(spill, stack)
                _write_hashes(waiting, buckets)
                waiting = []
        if not buckets:
            return _has_equal_numbers(_concatenate(waiting))
        _write_hashes(waiting, buckets)
        del waiting
        return any(_has_equal_numbers(_read_hashes(each)) for each in buckets)


def _hash_keys(paths: Sequence[str], key: pa.Schema) -> Iterator[Hashes]:
    with open_connection() as opened:
        # A second thread reads ahead: no faster beside the sorting, and 10 MiB more.
        opened.execute("SET threads = 1")
        # Each file is read once: what is cached of 7,500 takes 7 MiB.
        opened.execute("SET enable_external_file_cache = false")
        for start in range(0, len(paths), HASH_FILES):
            some = TableFiles(schema=key, paths=tuple(paths[start : start + HASH_FILES]))
            hashes = opened.sql(
                f"SELECT hash({quote_key_columns(key)}) AS hashed FROM ({select_table_files(some)})"
            )
            for batch in hashes.to_arrow_reader(HASH_BATCH_ROWS):
                yield batch.column(0).to_numpy()


def _open_buckets(spill: Path, stack: ExitStack) -> list[BinaryIO]:
    """Return new files in a folder below `spill`, which the stack closes and removes."""
    spill.mkdir(parents=True, exist_ok=True)
    folder = stack.enter_context(TemporaryDirectory(dir=spill))
    names = (Path(folder, str(number)) for number in range(HASH_BUCKETS))
    return [stack.enter_context(each.open("w+b")) for each in names]


def _concatenate(hashes: Sequence[Hashes]) -> Hashes:
    return np.concatenate([np.empty(0, np.uint64), *hashes])


def _write_hashes(hashes: Sequence[Hashes], buckets: Sequence[BinaryIO]) -> None:
    ordered = np.sort(_concatenate(hashes))
    width = 2**64 // len(buckets)
    starts = np.searchsorted(ordered, np.arange(len(buckets), dtype=np.uint64) * np.uint64(width))
    for bucket, some in zip(buckets, np.split(ordered, starts[1:]), strict=True):
        bucket.write(some.data)


def _read_hashes(bucket: BinaryIO) -> Hashes:
    bucket.seek(0)
    return np.frombuffer(bucket.read(), np.uint64)


def _has_equal_numbers(hashes: Hashes) -> bool:
    ordered = np.sort(hashes)
    return bool((ordered[1:] == ordered[:-1]).any())


def open_bounded_connection(spill: Path) -> "duckdb.DuckDBPyConnection":
    """Return a connection that spills to a folder beyond its memory limit."""
    opened = open_connection()
    opened.execute(f"SET memory_limit = '{DUCKDB_MEMORY_LIMIT}'")
    opened.execute(f"SET temp_directory = {quote_literal(str(spill))}")
    return opened


def quote_key_columns(key: pa.Schema) -> str:
    """Return the columns of a key, quoted, for a SELECT."""
    return ", ".join(quote_identifier(name) for name in key.names)


def select_columns(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """Return some columns of a schema, in the order of `names`."""
    kinds = dict(zip(schema.names, schema.types, strict=True))
    return pa.schema([(name, kinds[name]) for name in names])
