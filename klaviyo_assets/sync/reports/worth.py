"""What is worth fetching first, and how much of it the quota can pay now.

What belongs here: which days are due, their order, and where to stop; pure. What does not: who
launches it (`defs`), what it costs (`cost`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol
from zoneinfo import ZoneInfo

from klaviyo_assets.model.report import Days
from klaviyo_assets.sync.reports.cover import cover, hull
from klaviyo_assets.sync.reports.zone import day_of


class DayFacts(Protocol):
    """What is stored of a day of a metric."""

    @property
    def fetched_at(self) -> datetime:
        """Return when it was fetched, UTC."""
        ...

    @property
    def is_final(self) -> bool:
        """Return whether its numbers had stopped moving."""
        ...


@dataclass(frozen=True, slots=True)
class Errand:
    """One launch: days of one metric, without a gap, that share a time frame."""

    metric_id: str
    days: Days


def due_days(
    stored: Mapping[date, DayFacts], *, bounds: Days, now: datetime, zone: ZoneInfo
) -> frozenset[date]:
    """Return the days of one metric that are missing, or still move and were not fetched today."""
    today = day_of(now, zone)
    return frozenset(
        day
        for day in bounds
        if day not in stored
        or (not stored[day].is_final and day_of(stored[day].fetched_at, zone) < today)
    )


def errands(due: Mapping[str, frozenset[date]], *, bounds: Days, most_days: int) -> list[Errand]:
    """Return launches that hold every day due, in the order of worth.

    The newest days come first, of equally new ones those of the metric that stands first in `due`.
    Each is one time frame long, so that as many as possible share its request.
    """
    ranked = [
        (frame.last, -rank, Errand(metric_id, hull([day for day in days if day in frame])))
        for rank, (metric_id, days) in enumerate(due.items())
        for frame in cover(days, bounds=bounds, most_days=most_days, widens=False)
    ]
    ordered = sorted(ranked, key=lambda each: (each[0], each[1]), reverse=True)
    return [errand for _, _, errand in ordered]


def affordable(
    wanted: Iterable[Errand], *, left: int, cost: Callable[[Errand], int]
) -> list[tuple[Errand, int]]:
    """Return the longest beginning of `wanted` that costs at most `left` requests, with the costs.

    `cost` tells the most that an errand costs after those it was called with before.
    """
    taken: list[tuple[Errand, int]] = []
    for errand in wanted:
        price = cost(errand)
        if price > left:
            break
        left -= price
        taken.append((errand, price))
    return taken
