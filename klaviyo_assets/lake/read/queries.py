"""Queries of the lake as it is now: relations, columns, rows by day, delays of new rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from klaviyo_assets.errors import MissingTableError
from klaviyo_assets.lake.delta.log import (
    TableSnapshot,
    read_current_snapshot,
    read_path_changes,
    read_snapshot,
)
from klaviyo_assets.lake.disk import map_storage_errors
from klaviyo_assets.lake.layout import (
    DATABASE_FILE,
    DAY_PARTITION,
    SYNCED_AT_COLUMN,
    table_folder,
)
from klaviyo_assets.lake.parquet import DataFile, read_columns
from klaviyo_assets.lake.read.database import read_published
from klaviyo_assets.lake.read.duckdb import (
    TableFiles,
    open_connection,
    quote_identifier,
    quote_literal,
    select_columns,
    select_table_files,
)
from klaviyo_assets.lake.read.views import (
    PlainRelation,
    Relation,
    build_select,
    load_current_table,
    optional_tables,
)
from klaviyo_assets.model.window import Window

if TYPE_CHECKING:
    import duckdb


def query_relation(
    root: Path, name: str, relations: Sequence[Relation]
) -> "duckdb.DuckDBPyRelation":
    """Return a relation as it is now, on its own in-memory connection.

    Raises:
        MissingTableError: no sync wrote a table that the relation needs.
    """
    known = {one.name: one for one in (*read_published(root).relations, *relations)}
    relation = known.get(name, PlainRelation(name=name))
    found: dict[str, TableFiles] = {}
    optional = optional_tables(relation)
    for table in (*relation.required_tables, *optional):
        one = load_current_table(root, table)
        if one is None and table in optional:
            continue
        if one is None:
            raise MissingTableError(
                f"the table {table} was never read; materialize klaviyo/{table} first",
                stream=name,
            )
        found[table] = one.files
    return open_connection().sql(str(build_select(relation, found)))


def open_published_views(
    root: Path, *, memory_limit: str | None = None
) -> "duckdb.DuckDBPyConnection":
    """Open `klaviyo.duckdb` for queries alone, in UTC; the caller closes it.

    No file can be read but those that its views name, none can be written, and no extension is
    loaded from the network. `memory_limit` is DuckDB's setting, such as `512MB`; without it a query
    may take most of the machine's memory.

    Raises:
        MissingTableError: there is no database yet.
        StorageError: it cannot be opened.
    """
    # Late: `read/duckdb.py` says why.
    import duckdb  # noqa: PLC0415

    path = root / DATABASE_FILE
    if not path.is_file():
        raise MissingTableError(f"there is no {path}: nothing was synced yet")
    folder = read_published(root).lake_root or str(root / "lake")
    with map_storage_errors(path, None):
        opened = duckdb.connect(str(path), read_only=True)
    opened.execute("SET TimeZone = 'UTC'")
    if memory_limit is not None:
        opened.execute(f"SET memory_limit = {quote_literal(memory_limit)}")
    opened.execute(f"SET allowed_directories = [{quote_literal(folder)}]")
    opened.execute("SET enable_external_access = false")
    opened.execute("SET lock_configuration = true")
    return opened


def count_relation_rows(root: Path, name: str) -> int:
    """Return how many rows a published relation has.

    Raises:
        MissingTableError: no sync wrote a table that the relation needs.
        StorageError: a file cannot be read.
    """
    with map_storage_errors(root / "lake" / name, name):
        return len(query_relation(root, name, ()))


def read_relation_columns(root: Path, name: str, columns: Sequence[str]) -> pa.Table:
    """Return some columns of a relation of the last `publish`, NULL where it has none of that name.

    Raises:
        MissingTableError: no sync wrote a table that the relation needs.
        StorageError: a file cannot be read.
    """
    with map_storage_errors(root / "lake" / name, name):
        relation = query_relation(root, name, ())
        known = set(relation.columns)
        shown = [
            f"{quote_identifier(each)}" if each in known else f"NULL AS {each}" for each in columns
        ]
        return relation.project(", ".join(shown)).to_arrow_table()


def read_table_columns(root: Path, name: str, columns: Sequence[str]) -> pa.Table:
    """Return some columns of a whole stored table, in memory; empty where no sync wrote it.

    A column is NULL if the table does not have it yet, because an earlier release wrote it.

    Raises:
        CorruptFileError: a file is missing or damaged.
    """
    found = load_current_table(root, name)
    if found is None:
        return pa.schema([(column, pa.string()) for column in columns]).empty_table()
    known = dict(zip(found.files.schema.names, found.files.schema.types, strict=True))
    schema = pa.schema([(column, known.get(column, pa.null())) for column in columns])
    parts = [read_columns(Path(path), schema, name) for path in found.files.paths]
    return pa.concat_tables(parts) if parts else schema.empty_table()


@dataclass(frozen=True, slots=True)
class DayCount:
    """The number of rows of one UTC day with one value.

    `rows_synced_since` counts those that were read at or after the time that the query gives for
    the day.
    """

    value: str | None
    day: date
    rows: int
    rows_synced_since: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DayCountQuery:
    """What to count: rows by `value_column` whose `time_column` is in the window.

    The table must be partitioned by the day of `time_column`. `synced_since` gives, for some days,
    the time from which on a row counts in `rows_synced_since`.
    """

    value_column: str
    time_column: str
    window: Window
    synced_since: Mapping[date, datetime]


def count_rows_by_day(root: Path, name: str, query: DayCountQuery) -> list[DayCount]:
    """Return the counts by day and value, in no order; none where no sync wrote the table.

    Raises:
        CorruptFileError: the log cannot be read.
        StorageError: a file cannot be read.
    """
    folder = table_folder(root, name)
    found = read_snapshot(folder, name)
    if found is None:
        return []
    columns = [query.value_column, query.time_column, SYNCED_AT_COLUMN]
    paths = [file.path for file in found.files if _can_overlap_window(file, query.window)]
    shown = _build_table_files(folder, found, paths, columns)
    with map_storage_errors(folder, name), open_connection() as opened:
        rows = opened.sql(_build_day_count_sql(shown, query)).fetchall()
    return [DayCount(*each) for each in rows]


def first_stored_day(root: Path, name: str) -> date | None:
    """Return the first UTC day of which a table partitioned by day has rows; None without."""
    found = read_snapshot(table_folder(root, name), name)
    return min(_partition_days(found.files), default=None) if found is not None else None


def _partition_days(files: Sequence[DataFile]) -> Iterator[date]:
    for file in files:
        day = file.partition.removeprefix(f"{DAY_PARTITION}=")
        if day != file.partition:
            yield date.fromisoformat(day)


def _can_overlap_window(file: DataFile, window: Window) -> bool:
    """Return whether rows of a file can lie in the window, by its partition's day."""
    return all(
        window.floor.date() <= day <= window.ceiling.date() for day in _partition_days([file])
    )


def _build_day_count_sql(table: TableFiles, query: DayCountQuery) -> str:
    moment, value = quote_identifier(query.time_column), quote_identifier(query.value_column)
    start, end = query.window.start, query.window.end
    bounds = [
        *([f"{moment} >= {_timestamp_literal(start)}"] if start is not None else []),
        *([f"{moment} < {_timestamp_literal(end)}"] if end is not None else []),
    ]
    cases = " ".join(
        f"WHEN DATE {quote_literal(day.isoformat())} THEN {_timestamp_literal(since)}"
        for day, since in query.synced_since.items()
    )
    day = f"CAST({moment} AS DATE)"
    seen = f"{quote_identifier(SYNCED_AT_COLUMN)} >= CASE {day} {cases} END" if cases else "true"
    return (
        f"SELECT {value}, {day} AS day, count(*), "
        f"count(*) FILTER (coalesce({seen}, true)) "
        f"FROM ({select_table_files(table)}) WHERE {' AND '.join(bounds) or 'true'} GROUP BY ALL"
    )


def _timestamp_literal(moment: datetime) -> str:
    return f"TIMESTAMPTZ {quote_literal(moment.astimezone(UTC).isoformat())}"


ID_COLUMN = "id"


@dataclass(frozen=True, slots=True)
class ArrivalDelay:
    """New rows with one value and one step of delay.

    `is_before_high_water_mark`: their time lies before the high-water mark of the previous sync.
    `max_delay_seconds` is the longest delay among them.
    """

    value: str | None
    is_before_high_water_mark: bool
    delay_step: int
    rows: int
    max_delay_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalQuery:
    """What to measure: rows that came after `version`, by `value_column`, timed by `time_column`.

    `high_water_mark` is that of the sync which wrote `version`.
    """

    version: int
    high_water_mark: datetime
    value_column: str
    time_column: str


def measure_arrival_delays(
    root: Path, name: str, query: ArrivalQuery, *, steps_per_doubling: int
) -> list[ArrivalDelay]:
    """Return the rows that came in since a version, by value and by how late they came.

    A row's delay is the time from its `time_column` to its `synced_at`. Step 0 ends at one minute,
    and `steps_per_doubling` steps later at two. Rows that are dated later than they were read are
    left out. The result is empty if a commit since the version is no longer in the log.

    Raises:
        CorruptFileError: the log cannot be read.
        StorageError: a file cannot be read.
    """
    folder = table_folder(root, name)
    now = read_current_snapshot(folder, name)
    if now is None or now.version == query.version:
        return []
    changes = read_path_changes(folder, after=query.version, up_to=now.version)
    if changes is None:
        return []
    added_paths, removed_paths = changes
    added = [file.path for file in now.files if file.path in added_paths]
    touched = {path.rpartition("/")[0] for path in added}
    known = ({file.path for file in now.files} | removed_paths) - added_paths
    earlier = [path for path in known if path.rpartition("/")[0] in touched]
    sql = _build_arrival_sql(
        _build_table_files(
            folder, now, added, [ID_COLUMN, query.value_column, query.time_column, SYNCED_AT_COLUMN]
        ),
        _build_table_files(folder, now, earlier, [ID_COLUMN]),
        query,
        steps_per_doubling,
    )
    with map_storage_errors(folder, name), open_connection() as opened:
        rows = opened.sql(sql).fetchall()
    return [ArrivalDelay(*each) for each in rows]


def _build_table_files(
    folder: Path, found: TableSnapshot, paths: Sequence[str], columns: Sequence[str]
) -> TableFiles:
    paths_of_files = tuple(f"{folder}/{path}" for path in paths)
    return TableFiles(schema=select_columns(found.schema, columns), paths=paths_of_files)


def _build_arrival_sql(
    added: TableFiles, earlier: TableFiles, query: ArrivalQuery, steps: int
) -> str:
    moment = quote_identifier(query.time_column)
    late = f"epoch({quote_identifier(SYNCED_AT_COLUMN)}) - epoch({moment})"
    mark = f"TIMESTAMPTZ {quote_literal(query.high_water_mark.isoformat())}"
    return (
        f"SELECT {quote_identifier(query.value_column)}, {moment} < {mark} AS behind, "
        f"CAST(floor({steps} * log2(greatest({late}, 60) / 60)) AS INTEGER) AS step, "
        f"count(*), max({late}) "
        f"FROM ({select_table_files(added)}) AS n ANTI JOIN ({select_table_files(earlier)}) AS o "
        f"ON n.{ID_COLUMN} = o.{ID_COLUMN} "
        f"WHERE {late} >= 0 GROUP BY ALL"
    )
