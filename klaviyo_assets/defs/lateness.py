"""Lateness in metadata: each sync of events tells what it saw first, the comparison sums it up.

What belongs here: where the figures are kept and how they are shown. What does not: measuring
(`lake.first_seen`), adding up (`sync.lateness`).
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import cast

import dagster as dg

from klaviyo_assets.api.clock import utc_now
from klaviyo_assets.defs.switches import is_switched_on
from klaviyo_assets.defs.syncing import Syncing
from klaviyo_assets.defs.verdicts import ShownValue
from klaviyo_assets.lake import Lake, Since, first_seen
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.settings import Settings
from klaviyo_assets.sync.counts import STREAM
from klaviyo_assets.sync.lateness import (
    PAUSE,
    STEPS_A_DOUBLING,
    Figures,
    figures_of,
    suggested_days,
    together,
)
from klaviyo_assets.sync.reckoning import METRIC, MOMENT

FIRST_SEEN = "klaviyo/first_seen"

MOST_SYNCS = 1000
"""Materializations that are summed up: six weeks of hourly ones."""


LATE_EVENTS_SCHEDULE = "klaviyo_daily_late_events"


def unread_late_events(
    context: dg.AssetExecutionContext, stream: Stream, settings: Settings
) -> str | None:
    """Return the sentence for a sync of events where nothing looks for late ones; else None.

    That is so with no lookback, while the daily schedule is off or goes back no day.
    """
    if stream.name != STREAM or settings.lookback_days:
        return None
    switched_on = is_switched_on(context.instance, LATE_EVENTS_SCHEDULE, settings, run=context.run)
    if switched_on and settings.late_events_days:
        return None
    return (
        "late events are not looked for: one that Klaviyo takes in after its time was read is "
        f"never read. Switch on the schedule {LATE_EVENTS_SCHEDULE} with KLAVIYO_LATE_EVENTS_DAYS "
        "above 0 (KLAVIYO_AUTOMATION=recommended does), or set KLAVIYO_LOOKBACK_DAYS"
    )


def first_seen_metadata(syncing: Syncing, lake: Lake) -> dict[str, dg.JsonMetadataValue]:
    """Return how late the events were that this sync saw first; nothing for a first or full sync.

    Events past the mark count only where the last sync is not long ago: else they tell its age.
    """
    mark, version = syncing.pull.progress.former, syncing.pull.version_before
    is_events = syncing.stream.name == STREAM
    if not is_events or mark is None or version is None or not syncing.pull.tally.rows_written:
        return {}
    since = Since(version=version, mark=mark, value=METRIC, moment=MOMENT)
    measured = first_seen(lake.root, STREAM, since, steps_a_doubling=STEPS_A_DOUBLING)
    found = figures_of(measured, with_forward=utc_now() - mark <= PAUSE)
    return {FIRST_SEEN: dg.MetadataValue.json(dict(found))} if found else {}


def lateness_shown(
    instance: dg.DagsterInstance, events: dg.AssetKey, names: Mapping[str, str]
) -> dict[str, ShownValue]:
    """Return p50, p99 and the latest by metric over the last syncs, and the lookback they suggest.

    `names` are those of metrics by id.
    """
    records = instance.fetch_materializations(events, limit=MOST_SYNCS).records
    told = [
        value.value
        for each in records
        if each.asset_materialization is not None
        and (value := each.asset_materialization.metadata.get(FIRST_SEEN)) is not None
    ]
    found = together(cast("list[Mapping[str, Figures]]", told))
    if not found:
        return {}
    rows = [
        dg.TableRecord(
            {
                "metric": names.get(metric) or metric,
                "events": each.events,
                "p50": shown(each.quantile(0.5)),
                "p99": shown(each.quantile(0.99)),
                "max": shown(timedelta(seconds=each.longest_seconds)),
                "behind the mark": sum(each.behind.values()),
            }
        )
        for metric, each in found.items()
    ]
    return {
        "klaviyo/lateness": dg.MetadataValue.table(rows),
        "klaviyo/suggested_lookback_days": suggested_days(list(found.values())),
    }


def shown(span: timedelta) -> str:
    """Return a span as people say it: 2.4 d, 3.5 h, 7 min."""
    for unit, name in ((timedelta(days=1), "d"), (timedelta(hours=1), "h")):
        if span >= unit:
            return f"{span / unit:.1f} {name}"
    return f"{span / timedelta(minutes=1):.0f} min"
