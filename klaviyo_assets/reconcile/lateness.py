"""How late events appear: first seen minus event time, by metric, and the lookback that suggests.

Figures are counts on a scale of steps, four a doubling from a minute on, so that those of many
syncs add up; a quantile is told as the end of its step, at most a fifth too high. Events that lie
behind the mark are what a lookback is for; those past it are as late as the last sync is old.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypedDict

from klaviyo_assets.lake.read.queries import ArrivalDelay

DELAY_STEPS_PER_DOUBLING = 4

LOOKBACK_COVERAGE_SHARE = 0.99
"""Of the events behind the mark so many would have come by the suggested lookback."""

MAX_SYNC_INTERVAL = timedelta(days=2)
"""After a longer one, events past the mark tell how old the last sync is, not how late they are."""

MAX_DELAY_SECONDS = 60 * 86_400.0
"""Later than that is an import, or a start date moved earlier."""


class LatenessCounts(TypedDict):
    """Of one metric: events by step, those of them behind the mark, and the latest in seconds."""

    seen: dict[str, int]
    behind: dict[str, int]
    longest: float


@dataclass(slots=True)
class MetricLateness:
    """Of one metric, of many syncs."""

    seen: dict[int, int] = field(default_factory=dict[int, int])
    behind: dict[int, int] = field(default_factory=dict[int, int])
    max_delay_seconds: float = 0.0

    @property
    def event_count(self) -> int:
        """Return how many events were first seen."""
        return sum(self.seen.values())

    def quantile(self, share: float) -> timedelta:
        """Return the time within which that share of events was seen."""
        return delay_quantile(self.seen, share, max_delay_seconds=self.max_delay_seconds)


def count_lateness(
    measurements: Iterable[ArrivalDelay], *, should_include_new: bool
) -> dict[str, LatenessCounts]:
    """Return the figures of one sync by metric; without events past the mark unless told."""
    found: dict[str, LatenessCounts] = {}
    for each in measurements:
        is_told = each.value and each.max_delay_seconds <= MAX_DELAY_SECONDS
        if not is_told or not (each.is_before_high_water_mark or should_include_new):
            continue
        figures = found.setdefault(str(each.value), LatenessCounts(seen={}, behind={}, longest=0.0))
        for kind in ("seen", "behind") if each.is_before_high_water_mark else ("seen",):
            counts = figures[kind]
            counts[f"{each.delay_step}"] = counts.get(f"{each.delay_step}", 0) + each.rows
        figures["longest"] = max(figures["longest"], each.max_delay_seconds)
    return found


def merge_lateness_counts(
    syncs: Iterable[Mapping[str, LatenessCounts]],
) -> dict[str, MetricLateness]:
    """Return the figures of many syncs by metric, in the order of ids."""
    found: dict[str, MetricLateness] = {}
    for sync in syncs:
        for metric, figures in sync.items():
            lateness = found.setdefault(metric, MetricLateness())
            for counts, more in (
                (lateness.seen, figures["seen"]),
                (lateness.behind, figures["behind"]),
            ):
                for step, rows in more.items():
                    counts[int(step)] = counts.get(int(step), 0) + rows
            lateness.max_delay_seconds = max(lateness.max_delay_seconds, figures["longest"])
    return dict(sorted(found.items()))


def delay_quantile(
    counts: Mapping[int, int], share: float, *, max_delay_seconds: float
) -> timedelta:
    """Return the end of the step that the share of all lies within; never beyond the latest."""
    left = math.ceil(share * sum(counts.values()))
    for step, rows in sorted(counts.items()):
        left -= rows
        if left <= 0:
            end = 60 * 2 ** ((step + 1) / DELAY_STEPS_PER_DOUBLING)
            return timedelta(seconds=min(end, max_delay_seconds))
    return timedelta()


def suggest_lookback_days(metric_lateness: Sequence[MetricLateness]) -> int:
    """Return the lookback in whole days that would have brought nearly all late events."""
    waits = [
        delay_quantile(
            each.behind, LOOKBACK_COVERAGE_SHARE, max_delay_seconds=each.max_delay_seconds
        )
        for each in metric_lateness
        if each.behind
    ]
    return math.ceil(max(waits, default=timedelta()) / timedelta(days=1))
