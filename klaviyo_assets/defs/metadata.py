"""What an asset shows: its columns, its table, and what the last sync did.

What belongs here: Dagster metadata values. What does not: the numbers themselves (`sync`, `api`).
"""

from collections.abc import Mapping
from datetime import datetime

import dagster as dg

from klaviyo_assets.defs.cursors import CURSOR, ROW_COUNT
from klaviyo_assets.model.stream import Detail, Join, Stream
from klaviyo_assets.streams import STREAMS

_TYPES = {"ids": "list<string>", "timestamp": "timestamp with time zone", "json": "json text"}

DELETED = dg.TableColumn(
    "deleted_at",
    _TYPES["timestamp"],
    "When a complete read first missed it, Klaviyo's clock; NULL while it exists.",
)


Metadata = dict[str, str | int | float | bool | dg.TableSchema | dg.JsonMetadataValue]
"""What Dagster takes as metadata, by name."""


def asset_key(name: str) -> dg.AssetKey:
    """Return the asset key of a stream."""
    return dg.AssetKey(["klaviyo", name])


def widened_by(stream: Stream) -> str | None:
    """Return the stream whose relation this one's is, with columns added; None where it is none."""
    match stream.source:
        case Join(left=name) | Detail(parent=name):
            return name
        case _:
            return None


def definition_metadata(stream: Stream) -> Metadata:
    """Return what is known of the table before any sync."""
    return {
        "dagster/table_name": f"klaviyo.{stream.name}",
        "dagster/column_schema": column_schema(stream),
    }


def column_schema(stream: Stream) -> dg.TableSchema:
    """Return the relation's columns in their order, each with its description.

    A relation that adds columns to another's has all of that one's first.
    """
    constraint = dg.TableColumnConstraints(nullable=False, unique=True)
    own = [
        dg.TableColumn(each.name, _TYPES.get(each.type, each.type), each.about)
        for each in stream.columns
    ]
    widened = widened_by(stream)
    if widened is not None:
        return dg.TableSchema([*column_schema(STREAMS[widened]).columns, *own])
    is_keyed_by_id = "id" in stream.key
    key = dg.TableColumn("id", "string", "Klaviyo's id; once in the table.", constraint)
    return dg.TableSchema(
        [
            *([key] if is_keyed_by_id else []),
            *own,
            dg.TableColumn("extra", "json text", "Attributes that no column holds; NULL: none."),
            dg.TableColumn(
                "synced_at", _TYPES["timestamp"], "When the row was read, Klaviyo's clock."
            ),
            *([DELETED] if stream.marks_deleted else []),
        ]
    )


def sync_metadata(
    stream: Stream,
    *,
    mode: str,
    mark: datetime | None,
    numbers: Mapping[str, int | float],
    row_count: int,
) -> Metadata:
    """Return what the contract promises of every materialization."""
    shown: Metadata = {
        "klaviyo/sync_mode": mode,
        **{f"klaviyo/{name}": number for name, number in numbers.items()},
        ROW_COUNT: row_count,
        **definition_metadata(stream),
    }
    if stream.cursor is not None:
        shown["klaviyo/cursor_field"] = stream.cursor.column
        if mark is not None:
            shown[CURSOR] = mark.isoformat()
    return shown
