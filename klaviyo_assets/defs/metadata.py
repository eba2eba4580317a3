"""What an asset shows: its columns, its table, and what the last sync did.

What belongs here: Dagster metadata values. What does not: the numbers themselves (`sync`, `api`).
"""

from collections.abc import Mapping
from datetime import datetime

import dagster as dg

from klaviyo_assets.defs.cursors import CURSOR, ROW_COUNT
from klaviyo_assets.model.descriptions import KEY_COLUMN, relation_columns
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.streams import STREAMS

_TYPES = {"ids": "list<string>", "timestamp": "timestamp with time zone", "json": "json text"}


Metadata = dict[str, str | int | float | bool | dg.TableSchema | dg.JsonMetadataValue]
"""What Dagster takes as metadata, by name."""


STREAM_TAG = "klaviyo/stream"
"""The tag by which an asset is known as a stream's, whatever key somebody gives it."""


def asset_key(name: str) -> dg.AssetKey:
    """Return the asset key that `build_defs` gives a stream; users may give another one."""
    return dg.AssetKey(["klaviyo", name])


def asset_tags(stream: Stream) -> dict[str, str]:
    """Return the tags of a stream's asset."""
    tier = {"klaviyo/tier": stream.tier.name} if stream.tier is not None else {}
    return {STREAM_TAG: stream.name, **tier}


def stream_of(key: dg.AssetKey, metadata: Mapping[str, object]) -> str:
    """Return the stream of an asset by its definition's metadata, for a key that may be renamed."""
    return str(metadata.get("dagster/table_name") or key.path[-1]).removeprefix("klaviyo.")


def definition_metadata(stream: Stream) -> Metadata:
    """Return what is known of the table before any sync."""
    return {
        "dagster/table_name": f"klaviyo.{stream.name}",
        "dagster/column_schema": column_schema(stream),
    }


def column_schema(stream: Stream) -> dg.TableSchema:
    """Return the relation's columns in their order, each with its description."""
    once = dg.TableColumnConstraints(nullable=False, unique=True)
    return dg.TableSchema(
        [
            dg.TableColumn(
                each.name,
                _TYPES.get(each.type, each.type),
                each.about,
                once if each is KEY_COLUMN else None,
            )
            for each in relation_columns(stream, STREAMS)
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
