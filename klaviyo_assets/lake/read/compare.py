"""Compares ids of the lake with those in another tool's tables, month by month."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from klaviyo_assets.errors import MissingTableError, SettingError, StorageError
from klaviyo_assets.lake.disk import map_storage_errors
from klaviyo_assets.lake.read.duckdb import (
    TableFiles,
    open_bounded_connection,
    quote_identifier,
    quote_literal,
)
from klaviyo_assets.lake.read.views import Relation, build_select, load_current_tables
from klaviyo_assets.model.comparison import ComparedStream, MonthComparison, StreamComparison

if TYPE_CHECKING:
    import duckdb

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
