"""A lake with rows of real streams that a test writes by hand."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from klaviyo_assets.decode.schema import arrow_schema
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import build_table
from klaviyo_assets.lake.read.views import Relation, build_relations
from klaviyo_assets.streams import MERGE_RULES, STREAMS
from klaviyo_assets_tests.integration.lake.lake_fixtures import merge_rows

RELATIONS: Sequence[Relation] = build_relations(STREAMS, MERGE_RULES)
"""Every relation, as the product builds them."""

Row = Mapping[str, object]


def write_stream(
    lake: Lake,
    name: str,
    rows: Sequence[Row],
    *,
    synced_at: datetime,
    exclude: frozenset[str] = frozenset(),
) -> None:
    """Write rows of a stream; columns that a row does not name are NULL.

    `exclude` are columns that a privacy setting leaves out of the table.
    """
    stream = STREAMS[name]
    schema = arrow_schema(stream, exclude=exclude)
    listed = [{"synced_at": synced_at, **row} for row in rows]
    batch = pa.RecordBatch.from_pylist(listed, schema=schema)
    merge_rows(lake, build_table(stream, schema), [batch])


def publish_lake(lake: Lake) -> Path:
    """Publish all relations; return the path of klaviyo.duckdb."""
    assert lake.publish(RELATIONS) == ()
    return lake.root / "klaviyo.duckdb"
