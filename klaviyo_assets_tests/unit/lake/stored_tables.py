"""Tables of streams as the lake stores them, and views over them as klaviyo.duckdb has them."""

from collections.abc import Mapping
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from klaviyo_assets.decode.schema import arrow_schema
from klaviyo_assets.lake.read.computed import build_view_relation
from klaviyo_assets.lake.read.duckdb import TableFiles, select_columns
from klaviyo_assets.lake.read.views import build_select, relation_from_json, relation_to_json
from klaviyo_assets.model.view import View
from klaviyo_assets.streams import STREAMS

Row = dict[str, object]


def store_table(folder: Path, name: str, rows: list[Row], *, without: str = "") -> TableFiles:
    """Return the table of a stream with these values; all others are NULL."""
    schema = arrow_schema(STREAMS[name])
    kept = select_columns(schema, [each for each in schema.names if each != without])
    table = pa.Table.from_pylist(rows, schema=kept)
    pq.write_table(table, folder / f"{name}.parquet")
    return TableFiles(schema=table.schema, paths=(str(folder / f"{name}.parquet"),))


def query_view(view: View, tables: Mapping[str, TableFiles], sql: str) -> list[tuple[object, ...]]:
    """Return the rows of a query over a view, which it names `it`; the reader's zone is Lima's.

    The relation is the one that a later process reads back.
    """
    relation = relation_from_json(relation_to_json(build_view_relation(view)))
    select_sql = build_select(relation, tables)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'America/Lima'")
        connection.execute(f"CREATE VIEW it AS {select_sql}")
        return connection.execute(sql).fetchall()
