"""The mark as Dagster keeps it: in the metadata of materializations and observations.

What belongs here: reading and writing `klaviyo/cursor`. What does not: what follows from it
(`sync.plan`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import dagster as dg

from klaviyo_assets.defs.same_lake import LAKE
from klaviyo_assets.errors import ConfigError
from klaviyo_assets.model.window import instant

CURSOR = "klaviyo/cursor"
ROW_COUNT = "dagster/row_count"

_RECENT = 20
"""Observations looked through: others than ours (a freshness check, a script) carry no mark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What Dagster knows of an asset before a sync.

    `mark` (UTC) is that of the later of the last materialization and the last observation; None
    where there was none, where they were wiped, or where the stream has no cursor. `rows` are those
    of the last materialization. `lake` is which lake the newest of these was of, as text.
    """

    mark: datetime | None = None
    rows: int | None = None
    lake: str | None = None


def remembered(instance: dg.DagsterInstance, key: dg.AssetKey) -> Remembered:
    """Return what the asset's metadata says.

    Raises:
        ConfigError: the text of the mark is not an instant.
    """
    materialized = instance.fetch_materializations(key, limit=1).records
    observed = instance.fetch_observations(key, limit=_RECENT).records
    events = [*materialized, *observed]
    lake = next(iter(_texts_newest_first(events, LAKE)), None)
    return Remembered(mark=_mark(events, key), rows=_rows(materialized), lake=lake)


def remembered_lake(instance: dg.DagsterInstance, key: dg.AssetKey) -> str | None:
    """Return which lake the asset's last materialization was of, None where it does not say."""
    events = instance.fetch_materializations(key, limit=1).records
    return next(iter(_texts_newest_first(events, LAKE)), None)


def _rows(materialized: Sequence[dg.EventLogRecord]) -> int | None:
    shown = materialized[0].asset_materialization if materialized else None
    count = shown.metadata.get(ROW_COUNT) if shown is not None else None
    return count.value if isinstance(count, dg.IntMetadataValue) else None


def _mark(events: Iterable[dg.EventLogRecord], key: dg.AssetKey) -> datetime | None:
    for text in _texts_newest_first(events, CURSOR):
        try:
            return instant(text)
        except ValueError as error:
            raise ConfigError(
                f"{CURSOR} of {key.to_user_string()} in asset metadata is {text!r}, not an ISO "
                "8601 instant; wipe the asset's materializations to go on from the lake's mark"
            ) from error
    return None


def _texts_newest_first(events: Iterable[dg.EventLogRecord], name: str) -> Iterable[str]:
    for event in sorted(events, key=lambda each: each.storage_id, reverse=True):
        shown = event.asset_materialization or event.event_log_entry.asset_observation
        value = shown.metadata.get(name) if shown is not None else None
        if value is not None and isinstance(value.value, str):
            yield value.value
