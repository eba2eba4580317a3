"""What is under way: unfinished runs of a report, whoever launched them.

What belongs here: reading runs and their tags. What does not: launching (`report_drain`).
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import dagster as dg

from klaviyo_assets.defs.partitions import (
    DRAIN,
    FAILED_METRICS,
    FAILED_SEPARATOR,
    RANGE_END,
    RANGE_START,
    SKIPPED,
    cell_of,
)
from klaviyo_assets.model.report import Days

PARTITION = "dagster/partition"

SKIPPED_WITHIN = timedelta(hours=8)
"""So long the sensor launches no run of a report that the key may not read: three requests a day
find out whether another key may."""

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True, slots=True)
class Area:
    """Days that a run is for; `metric_id` None: of any metric."""

    metric_id: str | None
    days: Days


EVERYTHING = Area(None, Days(date.min, date.max))


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """Unfinished runs of a report.

    `is_draining` tells whether one of them is the sensor's. `failed` counts its runs that failed
    lately, by metric (None: of all its metrics), `successes` those that did not. `was_skipped`
    tells whether the key could not read the report when one was launched some hours ago.
    """

    areas: Collection[Area]
    is_draining: bool
    failed: Mapping[str | None, int]
    successes: int
    was_skipped: bool

    def failures(self, metric_id: str | None) -> int:
        """Return how many runs for a metric failed lately, those for all metrics included."""
        return sum(self.failed.get(each, 0) for each in {metric_id, None})

    def has(self, metric_id: str, day: date) -> bool:
        """Return whether a run that has not ended is for this partition."""
        return any(day in area.days and area.metric_id in {None, metric_id} for area in self.areas)


def flight_of(
    instance: dg.DagsterInstance,
    name: str,
    key: dg.AssetKey,
    *,
    now: datetime,
    within: timedelta,
) -> Flight:
    """Return what of a report is under way, and how many of the sensor's runs failed `within`."""
    runs = [run for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)) if is_of(run, key)]
    lately = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS],
        tags={DRAIN: name},
        created_after=now - within,
    )
    ended = instance.get_runs(lately)
    failed = [run for run in ended if run.status is dg.DagsterRunStatus.FAILURE]
    skipped = dg.RunsFilter(tags={DRAIN: name, SKIPPED: "true"}, created_after=now - SKIPPED_WITHIN)
    return Flight(
        areas=[area_of(run.tags) for run in runs],
        is_draining=any(run.tags.get(DRAIN) == name for run in runs),
        failed=Counter(metric_id for run in failed for metric_id in failed_metrics(run.tags)),
        successes=len(ended) - len(failed),
        was_skipped=bool(instance.get_runs(skipped, limit=1)),
    )


def is_of(run: dg.DagsterRun, key: dg.AssetKey) -> bool:
    """Return whether a run materializes an asset; one that does not say which may."""
    return run.asset_selection is None or key in run.asset_selection


def failed_metrics(tags: Mapping[str, str]) -> Sequence[str | None]:
    """Return the metrics that a failed run could not fetch; None alone where it was all."""
    named = tags.get(FAILED_METRICS)
    return named.split(FAILED_SEPARATOR) if named is not None else [area_of(tags).metric_id]


def area_of(tags: Mapping[str, str]) -> Area:
    """Return what a run's tags say of its partitions; everything where they say nothing."""
    first = tags.get(RANGE_START) or tags.get(PARTITION)
    last = tags.get(RANGE_END) or first
    if first is None or last is None:
        return EVERYTHING
    try:
        start, end = cell_of(first), cell_of(last)
        days = Days(start.day, end.day)
    except ValueError:
        # Another asset's partitions, or a reversed range, which will be refused.
        return EVERYTHING
    return Area(start.metric_id if start.metric_id == end.metric_id else None, days)
