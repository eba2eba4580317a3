"""How late events appear: first seen minus event time, by metric, and the lookback that suggests.

What belongs here: figures of many syncs put together, pure. What does not: measuring one sync
(`lake/first_seen.py`), where figures are kept (`defs`).

Figures are counts on a scale of steps, four a doubling from a minute on, so that those of many
syncs add up; a quantile is told as the end of its step, at most a fifth too high. Events that lie
behind the mark are what a lookback is for; those past it are as late as the last sync is old.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypedDict

from klaviyo_assets.lake import FirstSeen

STEPS_A_DOUBLING = 4

SUGGESTED_SHARE = 0.99
"""Of the events behind the mark so many would have come by the suggested lookback."""

PAUSE = timedelta(days=2)
"""After a longer one, events past the mark tell how old the last sync is, not how late they are."""

MOST_SECONDS = 60 * 86_400.0
"""Later than that is an import, or a start date moved earlier."""


class Figures(TypedDict):
    """Of one metric: events by step, those of them behind the mark, and the latest in seconds."""

    seen: dict[str, int]
    behind: dict[str, int]
    longest: float


@dataclass(slots=True)
class Lateness:
    """Of one metric, of many syncs."""

    seen: dict[int, int] = field(default_factory=dict[int, int])
    behind: dict[int, int] = field(default_factory=dict[int, int])
    longest_seconds: float = 0.0

    @property
    def events(self) -> int:
        """Return how many events were first seen."""
        return sum(self.seen.values())

    def quantile(self, share: float) -> timedelta:
        """Return the time within which that share of events was seen."""
        return quantile(self.seen, share, longest=self.longest_seconds)


def figures_of(measured: Iterable[FirstSeen], *, with_forward: bool) -> dict[str, Figures]:
    """Return the figures of one sync by metric; without events past the mark unless told."""
    found: dict[str, Figures] = {}
    for each in measured:
        is_told = each.value and each.longest_seconds <= MOST_SECONDS
        if not is_told or not (each.is_behind or with_forward):
            continue
        figures = found.setdefault(str(each.value), Figures(seen={}, behind={}, longest=0.0))
        for kind in ("seen", "behind") if each.is_behind else ("seen",):
            counts = figures[kind]
            counts[f"{each.step}"] = counts.get(f"{each.step}", 0) + each.rows
        figures["longest"] = max(figures["longest"], each.longest_seconds)
    return found


def together(syncs: Iterable[Mapping[str, Figures]]) -> dict[str, Lateness]:
    """Return the figures of many syncs by metric, in the order of ids."""
    found: dict[str, Lateness] = {}
    for sync in syncs:
        for metric, figures in sync.items():
            lateness = found.setdefault(metric, Lateness())
            for counts, more in (
                (lateness.seen, figures["seen"]),
                (lateness.behind, figures["behind"]),
            ):
                for step, rows in more.items():
                    counts[int(step)] = counts.get(int(step), 0) + rows
            lateness.longest_seconds = max(lateness.longest_seconds, figures["longest"])
    return dict(sorted(found.items()))


def quantile(counts: Mapping[int, int], share: float, *, longest: float) -> timedelta:
    """Return the end of the step that the share of all lies within; never beyond the latest."""
    left = math.ceil(share * sum(counts.values()))
    for step, rows in sorted(counts.items()):
        left -= rows
        if left <= 0:
            end = 60 * 2 ** ((step + 1) / STEPS_A_DOUBLING)
            return timedelta(seconds=min(end, longest))
    return timedelta()


def suggested_days(found: Sequence[Lateness]) -> int:
    """Return the lookback in whole days that would have brought nearly all late events."""
    waits = [
        quantile(each.behind, SUGGESTED_SHARE, longest=each.longest_seconds)
        for each in found
        if each.behind
    ]
    return math.ceil(max(waits, default=timedelta()) / timedelta(days=1))
