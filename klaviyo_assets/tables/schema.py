"""The Arrow schema of a stream's table, and how a JSON value becomes a column.

What belongs here: names and types. What does not: values (`columns`, `arrays`).
"""

from collections.abc import Mapping
from types import MappingProxyType

import pyarrow as pa

from klaviyo_assets.model.column import EXTRA, ColumnType
from klaviyo_assets.model.stream import Detail, Join, Stream

KEY = "id"
PARENT_VERSION = "parent_version"
"""The parent's cursor when a detail was asked for; the sync fills it in."""
SYNCED_AT = "synced_at"
DELETED_AT = "deleted_at"
"""When a complete read first missed the record; pages leave it NULL, the lake fills it in."""
OURS = frozenset({KEY, PARENT_VERSION, EXTRA, SYNCED_AT, DELETED_AT})

MOMENT = pa.timestamp("us", tz="UTC")

ARROW_TYPES: Mapping[ColumnType, pa.DataType] = MappingProxyType(
    {
        "string": pa.string(),
        "integer": pa.int64(),
        "number": pa.float64(),
        "boolean": pa.bool_(),
        "timestamp": MOMENT,
        "date": pa.date32(),
        # Text, not a struct: accounts put any type under any key, and all records share a file.
        "json": pa.string(),
        "ids": pa.list_(pa.string()),
    }
)


def arrow_schema(stream: Stream, *, exclude: frozenset[str] = frozenset()) -> pa.Schema:
    """Return the key, the stream's columns in order, `extra`, `synced_at` and maybe `deleted_at`.

    Streams that mark deleted records have `deleted_at`. A detail has `parent_version` after its
    key, where the parent has a version. `exclude` names columns to leave out. That the key and
    `synced_at` are never null is not said here: the lake's tables say it of none, and take a batch
    as it comes only where its schema is theirs.

    Raises:
        TypeError: a join has no table of its own.
        ValueError: a column may not take a name that every table has.
    """
    if isinstance(stream.source, Join):
        raise TypeError(f"{stream.name} is a join of two tables and has none of its own")
    is_versioned = isinstance(stream.source, Detail) and stream.source.version is not None
    columns = [column for column in stream.columns if column.name not in exclude]
    names = [column.name for column in columns]
    if OURS.intersection(names):
        raise ValueError(f"{stream.name}: a column is named as one that every table has")
    return pa.schema(
        [
            pa.field(KEY, pa.string()),
            *([pa.field(PARENT_VERSION, MOMENT)] if is_versioned else []),
            *(pa.field(column.name, ARROW_TYPES[column.type]) for column in columns),
            pa.field(EXTRA, pa.string()),
            pa.field(SYNCED_AT, MOMENT),
            *([pa.field(DELETED_AT, MOMENT)] if stream.marks_deleted else []),
        ]
    )
