"""Checks the integrity of the lake: damaged files, duplicate keys, NULLs, unreadable views."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from klaviyo_assets.errors import CorruptFileError, LakeError, MissingTableError, format_quantity
from klaviyo_assets.lake.delta.log import TableSnapshot, read_add_actions, read_snapshot
from klaviyo_assets.lake.disk import corrupt_file_error, map_read_errors, map_storage_errors
from klaviyo_assets.lake.layout import DATABASE_FILE, SPILL_FOLDER, table_folder
from klaviyo_assets.lake.parquet import DataFile
from klaviyo_assets.lake.read.database import read_published, wal_files
from klaviyo_assets.lake.read.duckdb import (
    has_duplicate_hashes,
    open_connection,
    query_duplicate_keys,
    quote_identifier,
    quote_literal,
    select_columns,
)
from klaviyo_assets.lake.read.views import stored_tables

ReportCheckProgress = Callable[[str, float], None]
"""Takes the table that is read, and which share of the work is done, 0 to 1."""


def find_table_problems(
    root: Path, report_progress: ReportCheckProgress | None
) -> Iterator[LakeError]:
    """Yield the problems of each table: damaged logs and files, and duplicate keys.

    Reads every file to its end, one row group at a time.
    """
    names = list(stored_tables(root))
    for position, name in enumerate(names):
        folder = table_folder(root, name)
        try:
            found = read_snapshot(folder, name)
        except LakeError as problem:
            yield problem
            continue
        if found is not None:
            damaged: list[LakeError] = []
            for number, file in enumerate(found.files):
                if report_progress is not None:
                    report_progress(name, (position + number / len(found.files)) / len(names))
                damaged += find_file_problem(folder, name, file)
            yield from damaged
            if not damaged:
                yield from find_duplicate_key_problems(root, name, found)


def find_database_problems(root: Path) -> Iterator[LakeError]:
    """Yield what keeps readers of klaviyo.duckdb from the lake; nothing without a database."""
    # Late: `read/duckdb.py` says why.
    import duckdb  # noqa: PLC0415

    path = root / DATABASE_FILE
    if not path.exists():
        return
    is_elsewhere = bool(read_published(root).lake_root)
    if leftover_files := wal_files(path):
        yield LakeError(
            f"{', '.join(each.name for each in leftover_files)} lies beside {path}: another "
            "program opened the database for writing, and was killed or is at work. What a reader "
            "sees is not what was published. Close that program, then run "
            "`klaviyo-assets publish`"
        )
        return
    try:
        for name in [] if is_elsewhere else find_unreadable_views(path):
            yield LakeError(
                f"{path} has a view that cannot be read: run `klaviyo-assets publish`", stream=name
            )
    except duckdb.Error:
        yield LakeError(
            f"{path} cannot be opened: another program has it open for writing, or it is damaged. "
            "Close that program, then run `klaviyo-assets publish`"
        )


def find_unreadable_views(database: Path) -> list[str]:
    """Return the names of the views that DuckDB cannot bind, for example because files are missing.

    Raises:
        duckdb.Error: the database cannot be opened.
    """
    import duckdb  # noqa: PLC0415 - as above

    found: list[str] = []
    with open_connection() as opened:
        opened.execute(f"ATTACH {quote_literal(str(database))} AS shown (READ_ONLY)")
        sql = "SELECT view_name FROM duckdb_views() WHERE NOT internal AND database_name = 'shown'"
        for (name,) in opened.execute(sql).fetchall():
            try:
                opened.execute(f"DESCRIBE shown.{quote_identifier(name)}")
            except duckdb.Error:
                found.append(name)
    return found


def find_file_problem(folder: Path, name: str, file: DataFile) -> Iterator[CorruptFileError]:
    """Yield an error if a file is missing, unreadable, or of another size than logged."""
    try:
        verify_file(folder / file.path, name, file)
    except CorruptFileError as problem:
        yield problem


def verify_file(path: Path, name: str, file: DataFile) -> None:
    """Read a file to its end, and compare its size and number of rows with the log.

    Raises:
        CorruptFileError: it is missing, has another size or number of rows, or cannot be read.
    """
    with map_read_errors(path, name):
        if path.stat().st_size != file.size:
            raise corrupt_file_error(path, name)
        with pq.ParquetFile(path, page_checksum_verification=True) as opened:
            rows = sum(opened.read_row_group(at).num_rows for at in range(opened.num_row_groups))
        if rows != file.rows:
            raise corrupt_file_error(path, name)


def find_duplicate_key_problems(
    root: Path, name: str, snapshot: TableSnapshot
) -> Iterator[LakeError]:
    """Yield an error if keys occur in the table more than once."""
    if snapshot.commit_state is None:
        return
    count = read_duplicate_keys(root, name, snapshot, snapshot.commit_state.key).num_rows
    if count:
        yield LakeError(
            f"{format_quantity(count, 'key has', plural='keys have')} more than one row. "
            "Materialize the asset once with sync_mode full_refresh_overwrite",
            stream=name,
        )


def read_duplicate_keys(
    root: Path, name: str, snapshot: TableSnapshot, key: Sequence[str]
) -> pa.Table:
    """Return the keys that occur in the table more than once."""
    schema = select_columns(snapshot.schema, key)
    paths = [table_folder(root, name) / file.path for file in snapshot.files]
    spill = root / "lake" / SPILL_FOLDER
    if not has_duplicate_hashes(paths, schema, spill=spill):
        return schema.empty_table()
    return query_duplicate_keys(paths, schema, spill=spill)


_NULL_COUNT_PREFIX = "null_count."


def read_null_counts(root: Path, name: str) -> Mapping[str, int] | None:
    """Return the number of NULLs by column, from the log; None where no sync wrote the table.

    Raises:
        CorruptFileError: the log cannot be read.
    """
    found = read_snapshot(table_folder(root, name), name)
    if found is None:
        return None
    actions = read_add_actions(found.table)
    return {
        column.removeprefix(_NULL_COUNT_PREFIX): sum(
            each or 0 for each in actions[column].to_pylist()
        )
        for column in actions.schema.names
        if column.startswith(_NULL_COUNT_PREFIX)
    }


def count_duplicate_keys(root: Path, name: str) -> int:
    """Return how many keys a stored table has more than once.

    Raises:
        MissingTableError: no sync wrote the table.
        CorruptFileError: a file or the log cannot be read.
        StorageError: the disk is full; keys that do not fit in memory are spilled to it.
    """
    folder = table_folder(root, name)
    found = read_snapshot(folder, name)
    if found is None or found.commit_state is None:
        raise MissingTableError(f"the table {name} was never read", stream=name)
    with map_storage_errors(folder, name):
        return read_duplicate_keys(root, name, found, found.commit_state.key).num_rows
