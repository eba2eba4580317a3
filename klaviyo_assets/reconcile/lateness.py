"""Measures how late events appear: the time from an event to the sync that first saw it.

From this follows which lookback would find them. Delays are counted by metric in steps, four for
each doubling from a minute on, so that the counts of many syncs can be added. A quantile is the end
of its step, which is at most a fifth too high. A lookback is for events before the high-water mark;
those after it are as late as the last sync is old.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypedDict

from klaviyo_assets.lake.read.queries import ArrivalDelay

DELAY_STEPS_PER_DOUBLING = 4

LOOKBACK_COVERAGE_SHARE = 0.99
"""Share of the events before the high-water mark that the suggested lookback would have found."""

MAX_SYNC_INTERVAL = timedelta(days=2)
"""After a longer interval, the delay of new events is only the age of the last sync."""

MAX_DELAY_SECONDS = 60 * 86_400.0
"""A longer delay comes from an import, or from a start date that was moved back."""


class LatenessCounts(TypedDict):
    """The counts of one metric in one sync, as asset metadata has them.

    `seen`: events by step. `behind`: those before the high-water mark. `longest`: seconds.
    """

    seen: dict[str, int]
    behind: dict[str, int]
    longest: float


@dataclass(slots=True)
class MetricLateness:
    """One metric in many syncs, by step: all events, and those before the high-water mark."""

    seen: Counter[int] = field(default_factory=Counter[int])
    behind: Counter[int] = field(default_factory=Counter[int])
    max_delay_seconds: float = 0.0

    @property
    def event_count(self) -> int:
        """Return how many events were counted."""
        return self.seen.total()

    def quantile(self, share: float) -> timedelta:
        """Return the delay within which this share of the events was seen."""
        return delay_quantile(self.seen, share, max_delay_seconds=self.max_delay_seconds)


def count_lateness(
    measurements: Iterable[ArrivalDelay], *, should_include_new: bool
) -> dict[str, LatenessCounts]:
    """Return one sync's counts by metric; events past the high-water mark are optional."""
    found: dict[str, LatenessCounts] = {}
    for each in measurements:
        is_counted = each.is_before_high_water_mark or should_include_new
        if not each.value or not is_counted or each.max_delay_seconds > MAX_DELAY_SECONDS:
            continue
        metric = found.setdefault(each.value, LatenessCounts(seen={}, behind={}, longest=0.0))
        for kind in ("seen", "behind") if each.is_before_high_water_mark else ("seen",):
            counts = metric[kind]
            counts[f"{each.delay_step}"] = counts.get(f"{each.delay_step}", 0) + each.rows
        metric["longest"] = max(metric["longest"], each.max_delay_seconds)
    return found


def merge_lateness_counts(
    syncs: Iterable[Mapping[str, LatenessCounts]],
) -> dict[str, MetricLateness]:
    """Return the sums of many syncs by metric, ordered by id."""
    found: dict[str, MetricLateness] = {}
    for sync in syncs:
        for metric, counts in sync.items():
            merged = found.setdefault(metric, MetricLateness())
            merged.seen.update({int(step): rows for step, rows in counts["seen"].items()})
            merged.behind.update({int(step): rows for step, rows in counts["behind"].items()})
            merged.max_delay_seconds = max(merged.max_delay_seconds, counts["longest"])
    return dict(sorted(found.items()))


def delay_quantile(
    counts: Mapping[int, int], share: float, *, max_delay_seconds: float
) -> timedelta:
    """Return the end of the step within which this share of events lies; the maximum at most."""
    left = math.ceil(share * sum(counts.values()))
    for step, rows in sorted(counts.items()):
        left -= rows
        if left <= 0:
            end = 60 * 2 ** ((step + 1) / DELAY_STEPS_PER_DOUBLING)
            return timedelta(seconds=min(end, max_delay_seconds))
    return timedelta()


def suggest_lookback_days(metric_lateness: Sequence[MetricLateness]) -> int:
    """Return the lookback in whole days that would have found nearly all late events."""
    delays = [
        delay_quantile(
            each.behind, LOOKBACK_COVERAGE_SHARE, max_delay_seconds=each.max_delay_seconds
        )
        for each in metric_lateness
        if each.behind
    ]
    return math.ceil(max(delays, default=timedelta()) / timedelta(days=1))
