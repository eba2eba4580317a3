"""Checks what is stored: damaged files, duplicate keys, NULLs, unreadable views, and missing ids.

Ids are compared with those in another tool's tables, month by month.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from klaviyo_assets.errors import (
    CorruptFileError,
    LakeError,
    MissingTableError,
    SettingError,
    StorageError,
    format_quantity,
)
from klaviyo_assets.lake.delta.log import (
    TableSnapshot,
    read_current_snapshot,
    read_snapshot,
)
from klaviyo_assets.lake.disk import (
    corrupt_file_error,
    is_statement_error,
    map_read_errors,
    map_storage_errors,
    query_error,
)
from klaviyo_assets.lake.layout import DATABASE_FILE, SPILL_FOLDER, table_folder
from klaviyo_assets.lake.parquet import DataFile
from klaviyo_assets.lake.read.database import read_published, wal_files
from klaviyo_assets.lake.read.duckdb import (
    TableFiles,
    has_duplicate_hashes,
    open_bounded_connection,
    open_connection,
    query_duplicate_keys,
    quote_identifier,
    quote_literal,
    select_columns,
)
from klaviyo_assets.lake.read.views import (
    Relation,
    build_select,
    load_current_tables,
    stored_tables,
)
from klaviyo_assets.model.view import ComparedStream, MonthComparison, StreamComparison

if TYPE_CHECKING:
    import duckdb

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
        unreadable = () if is_elsewhere else find_unreadable_views(path).items()
        for name, cause in unreadable:
            yield (
                query_error(cause, path, name)
                if is_statement_error(cause)
                else LakeError(
                    f"{path} has a view that cannot be read: run `klaviyo-assets publish`",
                    stream=name,
                )
            )
    except duckdb.Error:
        yield LakeError(
            f"{path} cannot be opened: another program has it open for writing, or it is damaged. "
            "Close that program, then run `klaviyo-assets publish`"
        )


def find_missing_views(root: Path) -> Iterator[LakeError]:
    """Yield an error for each relation that the last publisher could not make a view of."""
    published = read_published(root)
    for relation in published.relations if published.view_digests else ():
        is_possible = published.versions.keys() >= {*relation.required_tables}
        if is_possible and relation.name not in published.view_digests:
            yield LakeError(
                f"{root / DATABASE_FILE} lacks this view: run `klaviyo-assets publish`, which says "
                "why",
                stream=relation.name,
            )


def find_unreadable_views(database: Path) -> dict[str, Exception]:
    """Return the views that DuckDB cannot bind, each with why: files are missing, for example.

    Raises:
        duckdb.Error: the database cannot be opened.
    """
    import duckdb  # noqa: PLC0415 - as above

    found: dict[str, Exception] = {}
    with open_connection() as opened:
        opened.execute(f"ATTACH {quote_literal(str(database))} AS shown (READ_ONLY)")
        sql = "SELECT view_name FROM duckdb_views() WHERE NOT internal AND database_name = 'shown'"
        for (name,) in opened.execute(sql).fetchall():
            try:
                opened.execute(f"DESCRIBE shown.{quote_identifier(name)}")
            except duckdb.Error as cause:
                found[str(name)] = cause
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
    folder = table_folder(root, name)
    paths = [f"{folder}/{file.path}" for file in snapshot.files]
    spill = root / "lake" / SPILL_FOLDER
    if not has_duplicate_hashes(paths, schema, spill=spill):
        return schema.empty_table()
    return query_duplicate_keys(paths, schema, spill=spill)


def read_null_counts(root: Path, name: str) -> Mapping[str, int] | None:
    """Return the number of NULLs of each column that has any, from the log; None without a table.

    Raises:
        CorruptFileError: the log cannot be read.
    """
    found = read_current_snapshot(table_folder(root, name), name)
    if found is None:
        return None
    counts: Counter[str] = Counter()
    for file in found.files:
        counts.update(file.null_counts)
    return counts


def count_duplicate_keys(root: Path, name: str) -> int:
    """Return how many keys a stored table has more than once.

    Raises:
        MissingTableError: no sync wrote the table.
        CorruptFileError: a file or the log cannot be read.
        StorageError: the disk is full; keys that do not fit in memory are spilled to it.
    """
    folder = table_folder(root, name)
    found = read_current_snapshot(folder, name)
    if found is None or found.commit_state is None:
        raise MissingTableError(f"the table {name} was never read", stream=name)
    with map_storage_errors(folder, name):
        return read_duplicate_keys(root, name, found, found.commit_state.key).num_rows


OTHER_CATALOG = "other"
EXAMPLE_IDS = 5
UNKNOWN_MONTH = "unknown"

NUMBER_TYPES = ("BIGINT", "INTEGER", "DOUBLE", "HUGEINT", "UBIGINT")


@dataclass(frozen=True, slots=True)
class TheirTables:
    """Another tool's tables: a DuckDB database with a schema, or a folder of Parquet files.

    In a folder a table is `<table>.parquet`, or `<table>/` with files at any depth. `spill` is a
    temporary folder for what does not fit in memory.
    """

    place: Path
    schema: str
    spill: Path

    def qualify(self, table: str) -> str:
        """Return the full name of a table as SQL."""
        return ".".join(map(quote_identifier, (OTHER_CATALOG, self.schema, table)))


def compare_streams(
    root: Path,
    relations: Mapping[str, Relation],
    theirs: TheirTables,
    compared: Sequence[ComparedStream],
) -> list[StreamComparison]:
    """Return each stream that both sides have, by month of UTC; nothing is written there.

    Their table is the first of the names that is there.

    Raises:
        SettingError: there is no such place, or it has none of the tables.
        MissingTableError: the lake is empty.
        StorageError: a file cannot be read.
    """
    found, _ = load_current_tables(root)
    if not found:
        raise MissingTableError(f"no lake in {root} (KLAVIYO_DATA_DIR): nothing was synced yet")
    tables = {name: one.files for name, one in found.items()}
    with _open_tables(theirs) as (opened, names):
        pairs = list(_find_pairs(compared, relations, tables, names))
        if not pairs:
            raise SettingError(
                f"{theirs.place} has none of the tables that are compared: in schema "
                f"{theirs.schema} there are {', '.join(sorted(names)) or 'none'}"
            )
        with map_storage_errors(theirs.place, None):
            return [
                _compare_stream(opened, each, theirs, table, ours) for each, table, ours in pairs
            ]


def _find_pairs(
    compared: Sequence[ComparedStream],
    relations: Mapping[str, Relation],
    tables: Mapping[str, TableFiles],
    theirs: Mapping[str, str],
) -> Iterator[tuple[ComparedStream, str, str]]:
    """Yield each stream that is stored, the other tool's table, and the SELECT of ours."""
    for each in compared:
        table = next((theirs[name] for name in each.their_tables if name in theirs), None)
        relation = relations.get(each.stream)
        ours = None if relation is None else build_select(relation, tables)
        if table is not None and ours is not None:
            yield each, table, ours


@contextmanager
def _open_tables(
    theirs: TheirTables,
) -> "Generator[tuple[duckdb.DuckDBPyConnection, dict[str, str]]]":
    """Yield a connection that reads the other side, and its tables: lower-case name to name."""
    if not theirs.place.exists():
        raise SettingError(f"there is no {theirs.place}")
    import duckdb  # noqa: PLC0415 - late, see `read/duckdb.py`

    with open_bounded_connection(theirs.spill) as opened:
        if theirs.place.is_dir():
            opened.execute(f"ATTACH ':memory:' AS {OTHER_CATALOG}")
            opened.execute(
                f"CREATE SCHEMA IF NOT EXISTS {OTHER_CATALOG}.{quote_identifier(theirs.schema)}"
            )
            for name, files in _list_parquet_tables(theirs.place):
                opened.execute(
                    f"CREATE VIEW {theirs.qualify(name)} AS FROM read_parquet("
                    f"{quote_literal(files)}, union_by_name = true)"
                )
        else:
            place = quote_literal(str(theirs.place))
            try:
                opened.execute(f"ATTACH {place} AS {OTHER_CATALOG} (READ_ONLY)")
            except duckdb.Error:
                raise StorageError(
                    f"{theirs.place} cannot be opened: it is no DuckDB database, a later DuckDB "
                    "wrote it, or another program has it open for writing"
                ) from None
        rows = opened.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_catalog = $1 "
            "AND lower(table_schema) = lower($2)",
            [OTHER_CATALOG, theirs.schema],
        ).fetchall()
        yield opened, {str(name).lower(): str(name) for (name,) in rows}


def _list_parquet_tables(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the tables of a folder, each with the pattern of its files."""
    for path in sorted(folder.iterdir()):
        if path.suffix == ".parquet" and path.is_file():
            yield path.stem, str(path)
        elif path.is_dir() and any(path.rglob("*.parquet")):
            yield path.name, f"{path}/**/*.parquet"


def _compare_stream(
    opened: "duckdb.DuckDBPyConnection",
    compared: ComparedStream,
    theirs: TheirTables,
    table: str,
    ours: str,
) -> StreamComparison:
    full, shown = theirs.qualify(table), f"{theirs.schema}.{table}"
    described = opened.execute(f"DESCRIBE {full}").fetchall()
    kinds = {str(name).lower(): str(kind) for name, kind, *_ in described}
    if "id" not in kinds:
        raise SettingError(f"{shown} has no column id, by which {compared.stream} are compared")
    sides = (
        f"here AS (SELECT id, min({_month(quote_identifier(compared.time))}) AS month "
        f"FROM ({ours}) GROUP BY id), "
        f"there AS (SELECT CAST(id AS VARCHAR) AS id, min({_their_month(compared, kinds)}) "
        f"AS month FROM {full} WHERE id IS NOT NULL GROUP BY 1)"
    )
    months = opened.execute(
        f"WITH {sides} SELECT coalesce(h.month, t.month, '{UNKNOWN_MONTH}') AS month, count(h.id), "
        "count(t.id), count(*) FILTER (t.id IS NULL), count(*) FILTER (h.id IS NULL) "
        "FROM here AS h FULL JOIN there AS t ON t.id = h.id GROUP BY 1 ORDER BY 1"
    ).fetchall()
    examples = opened.execute(
        f"WITH {sides} SELECT id FROM there ANTI JOIN here USING (id) ORDER BY id "
        f"LIMIT {EXAMPLE_IDS}"
    ).fetchall()
    return StreamComparison(
        stream=compared.stream,
        table=shown,
        months=tuple(
            MonthComparison(
                month=month, here=here, there=there, only_here=only_here, only_there=only_there
            )
            for month, here, there, only_here, only_there in months
        ),
        examples=tuple(each for (each,) in examples),
    )


def _month(moment: str) -> str:
    return f"strftime(TRY_CAST({moment} AS TIMESTAMP WITH TIME ZONE), '%Y-%m')"


def _their_month(compared: ComparedStream, kinds: Mapping[str, str]) -> str:
    """Return the SQL of the month of a row there, by the first of the times that it has."""
    found: list[str] = []
    for name in compared.their_times:
        column, _, member = name.partition(".")
        kind = kinds.get(column)
        if kind is None:
            continue
        value = quote_identifier(column)
        if member:
            json = f"to_json({value})" if kind.startswith("STRUCT") else value
            value = f"json_extract_string({json}, {quote_literal(f'$.{member}')})"
        elif kind in NUMBER_TYPES:
            value = f"to_timestamp({value})"
        found.append(_month(value))
    return f"coalesce({', '.join([*found, 'NULL'])})"
