"""What is in the lake now: a relation over current files, and columns of a stored table.

What belongs here: reading. What does not: the SQL of relations (`relations`), and the database that
others open (`database`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from klaviyo_assets.errors import MissingTableError
from klaviyo_assets.lake.current import current
from klaviyo_assets.lake.engine import connection
from klaviyo_assets.lake.layout import HISTORY, table_folder
from klaviyo_assets.lake.log import snapshot
from klaviyo_assets.lake.parquet import columns_of
from klaviyo_assets.lake.published import published
from klaviyo_assets.lake.relations import Plain, Relation, query
from klaviyo_assets.lake.sql import Shown
from klaviyo_assets.model.stream import Merges

if TYPE_CHECKING:
    import duckdb


def relation_now(root: Path, name: str, relations: Sequence[Relation]) -> "duckdb.DuckDBPyRelation":
    """Return a relation as it is now, over a connection of its own in memory.

    Raises:
        MissingTableError: a table it is made of was never read.
    """
    known = {one.name: one for one in (*published(root).relations, *relations)}
    relation = known.get(name, Plain(name=name))
    found: dict[str, Shown] = {}
    optional = (relation.events, relation.events + HISTORY) if isinstance(relation, Merges) else ()
    for table in (*relation.tables, *optional):
        one = current(root, table)
        if one is None and table in optional:
            continue
        if one is None:
            raise MissingTableError(
                f"the table {table} was never read; materialize klaviyo/{table} first",
                stream=name,
            )
        found[table] = one.shown
    return connection().sql(str(query(relation, found)))


def columns_now(root: Path, name: str, columns: Sequence[str]) -> pa.Table:
    """Return some columns of a whole stored table, in memory; empty where it was never read.

    A column that the table lacks, because no release that has it wrote it yet, is NULL.

    Raises:
        CorruptFileError: a file is missing or damaged.
    """
    folder = table_folder(root, name)
    found = snapshot(folder, name)
    if found is None:
        return pa.schema([(column, pa.string()) for column in columns]).empty_table()
    known = dict(zip(found.schema.names, found.schema.types, strict=True))
    schema = pa.schema([(column, known.get(column, pa.null())) for column in columns])
    parts = [columns_of(folder / file.path, schema, name) for file in found.files]
    return pa.concat_tables(parts) if parts else schema.empty_table()
