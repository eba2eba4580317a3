"""Asset keys, tags and metadata: what an asset shows of a sync, and what the next one reads."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import dagster as dg

from klaviyo_assets.errors import ConfigError, OtherLakeError
from klaviyo_assets.lake.identity import LakeLocation, parse_location
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.stream import KEY_COLUMN, Stream, relation_columns
from klaviyo_assets.model.window import parse_instant
from klaviyo_assets.streams import STREAMS

LAKE_METADATA_KEY = "klaviyo/lake"
"""Metadata of materializations and of marks: which lake they are of, and where it lay."""


def check_same_lake(
    key: dg.AssetKey, stream: Stream, *, last_lake: str | None, lake: Lake
) -> LakeLocation:
    """Return where the lake is, unless the asset's history is that of another one elsewhere.

    `last_lake` is what the history says; None where it says nothing.

    Raises:
        OtherLakeError: nothing was asked and nothing written; the text has both ways out.
        StorageError: the lake's folder cannot be written.
    """
    now = lake.read_location()
    known = parse_location(last_lake) if last_lake is not None else None
    if known is None or not now.is_other_lake(known):
        return now
    name = key.to_user_string()
    wipe = f"wipe its history (`dagster asset wipe {name}`, or in the UI)"
    begin = (
        f"{wipe} and launch its partitions again"
        if isinstance(stream.source, ReportEndpoint)
        else f"materialize it once with sync_mode full_refresh_overwrite, or {wipe}"
    )
    raise OtherLakeError(
        f"Dagster's history of {name} was written for the lake in {known.place}, and this run has "
        f"another one in {now.place}: was a disk not mounted, or KLAVIYO_DATA_DIR changed? Nothing "
        f"was read. To go on with the former lake, mount it there or set KLAVIYO_DATA_DIR to where "
        f"it lies; to begin anew in this one, {begin}",
        stream=stream.name,
    )


CURSOR_METADATA_KEY = "klaviyo/cursor"
ROW_COUNT_METADATA_KEY = "dagster/row_count"

_RECENT_OBSERVATIONS = 20
"""Observations looked through: others than ours (a freshness check, a script) carry no mark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastMetadata:
    """What Dagster knows of an asset before a sync.

    `cursor` (UTC) is that of the later of the last materialization and the last observation; None
    where there was none, where they were wiped, or where the stream has no cursor. `row_count` are
    those of the last materialization. `lake` is which lake the newest of these was of, as text.
    """

    cursor: datetime | None = None
    row_count: int | None = None
    lake: str | None = None


def read_last_metadata(instance: dg.DagsterInstance, key: dg.AssetKey) -> LastMetadata:
    """Return what the asset's metadata says.

    Raises:
        ConfigError: the text of the mark is not an instant.
    """
    materialized = instance.fetch_materializations(key, limit=1).records
    observed = instance.fetch_observations(key, limit=_RECENT_OBSERVATIONS).records
    events = [*materialized, *observed]
    lake = next(iter(_metadata_texts_newest_first(events, LAKE_METADATA_KEY)), None)
    return LastMetadata(
        cursor=_last_cursor(events, key), row_count=_materialized_row_count(materialized), lake=lake
    )


def read_last_lake(instance: dg.DagsterInstance, key: dg.AssetKey) -> str | None:
    """Return which lake the asset's last materialization was of, None where it does not say."""
    events = instance.fetch_materializations(key, limit=1).records
    return next(iter(_metadata_texts_newest_first(events, LAKE_METADATA_KEY)), None)


def _materialized_row_count(materialized: Sequence[dg.EventLogRecord]) -> int | None:
    shown = materialized[0].asset_materialization if materialized else None
    count = shown.metadata.get(ROW_COUNT_METADATA_KEY) if shown is not None else None
    return count.value if isinstance(count, dg.IntMetadataValue) else None


def _last_cursor(events: Iterable[dg.EventLogRecord], key: dg.AssetKey) -> datetime | None:
    for text in _metadata_texts_newest_first(events, CURSOR_METADATA_KEY):
        try:
            return parse_instant(text)
        except ValueError as error:
            raise ConfigError(
                f"{CURSOR_METADATA_KEY} of {key.to_user_string()} in asset metadata is {text!r}, "
                "not an ISO "
                "8601 instant; wipe the asset's materializations to go on from the lake's mark"
            ) from error
    return None


def _metadata_texts_newest_first(events: Iterable[dg.EventLogRecord], name: str) -> Iterable[str]:
    for event in sorted(events, key=lambda each: each.storage_id, reverse=True):
        shown = event.asset_materialization or event.event_log_entry.asset_observation
        value = shown.metadata.get(name) if shown is not None else None
        if value is not None and isinstance(value.value, str):
            yield value.value


_COLUMN_TYPES = {
    "ids": "list<string>",
    "timestamp": "timestamp with time zone",
    "json": "json text",
}


AssetMetadata = dict[str, str | int | float | bool | dg.TableSchema | dg.JsonMetadataValue]
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


def stream_name_of_asset(key: dg.AssetKey, metadata: Mapping[str, object]) -> str:
    """Return the stream of an asset by its definition's metadata, for a key that may be renamed."""
    return str(metadata.get("dagster/table_name") or key.path[-1]).removeprefix("klaviyo.")


def definition_metadata(stream: Stream) -> AssetMetadata:
    """Return what is known of the table before any sync."""
    return {
        "dagster/table_name": f"klaviyo.{stream.name}",
        "dagster/column_schema": table_column_schema(stream),
    }


def table_column_schema(stream: Stream) -> dg.TableSchema:
    """Return the relation's columns in their order, each with its description."""
    once = dg.TableColumnConstraints(nullable=False, unique=True)
    return dg.TableSchema(
        [
            dg.TableColumn(
                each.name,
                _COLUMN_TYPES.get(each.type, each.type),
                each.description,
                once if each is KEY_COLUMN else None,
            )
            for each in relation_columns(stream, STREAMS)
        ]
    )


def sync_metadata(
    stream: Stream,
    *,
    mode: str,
    cursor: datetime | None,
    numbers: Mapping[str, int | float],
    row_count: int,
) -> AssetMetadata:
    """Return what the contract promises of every materialization."""
    shown: AssetMetadata = {
        "klaviyo/sync_mode": mode,
        **{f"klaviyo/{name}": number for name, number in numbers.items()},
        ROW_COUNT_METADATA_KEY: row_count,
        **definition_metadata(stream),
    }
    if stream.cursor is not None:
        shown["klaviyo/cursor_field"] = stream.cursor.column
        if cursor is not None:
            shown[CURSOR_METADATA_KEY] = cursor.isoformat()
    return shown
