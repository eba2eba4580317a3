"""What is worth fetching first, and how much of it the quota can pay now.

What belongs here: which days are due, their order, and where to stop; pure. What does not: who
launches it (`defs`), what it costs (`cost`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import takewhile
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


def errands(
    due: Mapping[str, frozenset[date]],
    *,
    bounds: Days,
    most_days: int,
    before_all: str | None = None,
) -> list[Errand]:
    """Return launches that hold every day due, in the order of worth.

    Those of the metric `before_all` come first. Of each kind the newest days come first, of equally
    new ones those of the metric that stands first in `due`. Each is one time frame long, so that as
    many as possible share its request.
    """
    ranked = [
        (
            metric_id == before_all,
            frame.last,
            -rank,
            Errand(metric_id, hull([day for day in days if day in frame])),
        )
        for rank, (metric_id, days) in enumerate(due.items())
        for frame in cover(days, bounds=bounds, most_days=most_days, widens=False)
    ]
    ordered = sorted(ranked, key=lambda each: each[:3], reverse=True)
    return [errand for _, _, _, errand in ordered]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one run fetches: days of metrics that stand side by side among the partitions.

    Dagster knows a run's partitions by the two ends of a rectangle, so a batch is one.
    """

    metric_ids: tuple[str, ...]
    days: Days

    @property
    def partitions(self) -> int:
        """Return the number of partitions."""
        return len(self.metric_ids) * len(self.days)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How much a run may hold: `left` requests of the day, `requests` and `partitions` of a run."""

    left: int
    requests: int
    partitions: int


def next_batch(
    wanted: Sequence[Errand],
    order: Sequence[str],
    *,
    limits: BatchLimits,
    cost: Callable[[Errand], int],
) -> tuple[Batch, int] | None:
    """Return what one run fetches of `wanted`, which stands in the order of worth, and its cost.

    It holds the first errand and those of the same worth beside it: the same metric's next time
    frames where they come next, else the same days of the metrics beside it in the `order` of the
    partitions. None where the first costs more than is left of the day, or nothing is wanted. What
    the day can pay is taken first whatever it costs: cut in two, it would cost more. `cost` tells
    the most that an errand costs after those it was called with before.
    """
    if not wanted or (price := cost(wanted[0])) > limits.left:
        return None
    batch = Batch((wanted[0].metric_id,), wanted[0].days)
    for grown, errand in _growing(batch, wanted, order):
        if grown.partitions > limits.partitions:
            break
        more = price + cost(errand)
        if more > min(limits.left, limits.requests):
            break
        batch, price = grown, more
    return batch, price


def _growing(
    batch: Batch, wanted: Sequence[Errand], order: Sequence[str]
) -> Iterator[tuple[Batch, Errand]]:
    """Yield ever larger batches, each with the errand that was added."""
    past = list(takewhile(lambda each: each.metric_id == wanted[0].metric_id, wanted[1:]))
    if past:
        for errand in past:
            if batch.days.first - errand.days.last != timedelta(days=1):
                return
            batch = Batch(batch.metric_ids, Days(errand.days.first, batch.days.last))
            yield batch, errand
        return
    same = {each.metric_id: each for each in wanted if each.days == batch.days}
    place = order.index(wanted[0].metric_id)
    for metric_id in takewhile(same.__contains__, order[place + 1 :]):
        batch = Batch((*batch.metric_ids, metric_id), batch.days)
        yield batch, same[metric_id]
    for metric_id in takewhile(same.__contains__, reversed(order[:place])):
        batch = Batch((metric_id, *batch.metric_ids), batch.days)
        yield batch, same[metric_id]
