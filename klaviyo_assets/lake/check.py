"""Checking the lake: is every byte there, every key once, and does klaviyo.duckdb show it.

What belongs here: reading everything. What does not: mending it, which the last commit of each run
does where a key lies on two days (`moved`), and a full refresh otherwise. Files have checksums of
their pages, so that a flipped bit is found even where it decompresses.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from klaviyo_assets.errors import CorruptFileError, LakeError
from klaviyo_assets.lake.current import stored_tables
from klaviyo_assets.lake.disk import broken, reading
from klaviyo_assets.lake.engine import connection
from klaviyo_assets.lake.layout import DATABASE, SPILL, table_folder
from klaviyo_assets.lake.log import Snapshot, snapshot
from klaviyo_assets.lake.parquet import DataFile
from klaviyo_assets.lake.published import published, side_files
from klaviyo_assets.lake.repeats import has_equal_hashes, repeated
from klaviyo_assets.lake.sql import literal, quoted
from klaviyo_assets.wording import quantity


def problems(root: Path) -> Iterator[LakeError]:
    """Yield what is wrong, table by table: damaged logs and files, and keys that are there twice.

    Reads every file whole, a row group at a time.
    """
    for name in stored_tables(root):
        folder = table_folder(root, name)
        try:
            found = snapshot(folder, name)
        except LakeError as problem:
            yield problem
            continue
        if found is not None:
            damaged = list(damages(folder, name, found))
            yield from damaged
            if not damaged:
                yield from doubles(root, name, found)


def database_problems(root: Path) -> Iterator[LakeError]:
    """Yield what keeps a reader of klaviyo.duckdb from the lake; nothing where there is none."""
    # Not at import: a sync imports DuckDB late, as `engine` says.
    import duckdb  # noqa: PLC0415

    path = root / DATABASE
    if not path.exists():
        return
    is_elsewhere = bool(published(root).lake_root)
    if left := side_files(path):
        yield LakeError(
            f"{', '.join(each.name for each in left)} lies beside {path}: another program opened "
            "the database for writing, and was killed or is at work. What a reader sees is not "
            "what was published. Close that program, then run `klaviyo-assets publish`"
        )
        return
    try:
        for name in [] if is_elsewhere else unreadable_views(path):
            yield LakeError(
                f"{path} has a view that cannot be read: run `klaviyo-assets publish`", stream=name
            )
    except duckdb.Error:
        yield LakeError(
            f"{path} cannot be opened: another program has it open for writing, or it is damaged. "
            "Close that program, then run `klaviyo-assets publish`"
        )


def unreadable_views(database: Path) -> list[str]:
    """Return the names of the views that DuckDB cannot make sense of, or find no files for.

    Raises:
        duckdb.Error: the database cannot be opened.
    """
    import duckdb  # noqa: PLC0415 - as above

    found: list[str] = []
    with connection() as opened:
        opened.execute(f"ATTACH {literal(str(database))} AS shown (READ_ONLY)")
        sql = "SELECT view_name FROM duckdb_views() WHERE NOT internal AND database_name = 'shown'"
        for (name,) in opened.execute(sql).fetchall():
            try:
                opened.execute(f"DESCRIBE shown.{quoted(name)}")
            except duckdb.Error:
                found.append(name)
    return found


def damages(folder: Path, name: str, found: Snapshot) -> Iterator[CorruptFileError]:
    """Yield an error for each file that is missing, of another size or unreadable."""
    for file in found.files:
        try:
            read_whole(folder / file.path, name, file)
        except CorruptFileError as problem:
            yield problem


def read_whole(path: Path, name: str, file: DataFile) -> None:
    """Read a file to its end.

    Raises:
        CorruptFileError: it is missing, has another size or number of rows, or cannot be read.
    """
    with reading(path, name):
        if path.stat().st_size != file.size:
            raise broken(path, name)
        with pq.ParquetFile(path, page_checksum_verification=True) as opened:
            rows = sum(opened.read_row_group(at).num_rows for at in range(opened.num_row_groups))
        if rows != file.rows:
            raise broken(path, name)


def doubles(root: Path, name: str, found: Snapshot) -> Iterator[LakeError]:
    """Yield an error where keys are in the table twice."""
    if found.mark is None:
        return
    count = repeated_keys(root, name, found, found.mark.key).num_rows
    if count:
        yield LakeError(
            f"{quantity(count, 'key is', plural='keys are')} there more than once. "
            "Materialize the asset once with sync_mode full_refresh_overwrite",
            stream=name,
        )


def repeated_keys(root: Path, name: str, found: Snapshot, key: Sequence[str]) -> pa.Table:
    """Return the keys that are in the table twice."""
    kinds = dict(zip(found.schema.names, found.schema.types, strict=True))
    schema = pa.schema([(column, kinds[column]) for column in key])
    paths = [table_folder(root, name) / file.path for file in found.files]
    spill = root / "lake" / SPILL
    if not has_equal_hashes(paths, schema, spill=spill):
        return schema.empty_table()
    return repeated(paths, schema, spill=spill)
