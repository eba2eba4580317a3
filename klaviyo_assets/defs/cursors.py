"""The mark as Dagster keeps it: in the metadata of materializations and observations.

What belongs here: reading and writing `klaviyo/cursor`. What does not: what follows from it
(`sync.plan`).
"""

from collections.abc import Iterable
from datetime import datetime

import dagster as dg

from klaviyo_assets.errors import ConfigError
from klaviyo_assets.model.window import instant

CURSOR = "klaviyo/cursor"

_RECENT = 20
"""Observations looked through: others than ours (a freshness check, a script) carry no mark."""


def metadata_mark(instance: dg.DagsterInstance, key: dg.AssetKey) -> datetime | None:
    """Return the mark of the later of the last materialization and the last observation, UTC.

    None where the asset was never materialized, was wiped, or its stream has no cursor.

    Raises:
        ConfigError: the text there is not an instant.
    """
    events = [
        *instance.fetch_materializations(key, limit=1).records,
        *instance.fetch_observations(key, limit=_RECENT).records,
    ]
    for text in _marks_newest_first(events):
        try:
            return instant(text)
        except ValueError as error:
            raise ConfigError(
                f"{CURSOR} of {key.to_user_string()} in asset metadata is {text!r}, not an ISO "
                "8601 instant; wipe the asset's materializations to go on from the lake's mark"
            ) from error
    return None


def _marks_newest_first(events: Iterable[dg.EventLogRecord]) -> Iterable[str]:
    for event in sorted(events, key=lambda each: each.storage_id, reverse=True):
        shown = event.asset_materialization or event.event_log_entry.asset_observation
        value = shown.metadata.get(CURSOR) if shown is not None else None
        if value is not None and isinstance(value.value, str):
            yield value.value
