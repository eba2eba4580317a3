"""Putting one comparison together: what is stored, what Klaviyo counts, and where they differ.

What belongs here: which days and metrics, in which order. What does not: the comparison itself
(`completeness`), the requests (`counts`), what is thought of the outcome (`defs`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from klaviyo_assets.api.client import Client
from klaviyo_assets.errors import MissingTableError
from klaviyo_assets.lake import Counting, DayCount, Lake, day_counts, first_day
from klaviyo_assets.model.report import Cell
from klaviyo_assets.model.window import Window
from klaviyo_assets.settings import Settings
from klaviyo_assets.sync.completeness import Difference, Stored, compared_window, differences
from klaviyo_assets.sync.counts import STREAM, Counted, klaviyo_counts, refuse_dear
from klaviyo_assets.sync.progress import mark_from_json
from klaviyo_assets.sync.reports.metrics import Metric, stored_metrics
from klaviyo_assets.wording import quantity

METRIC, MOMENT = "metric_id", "datetime"

MOST_YEARS = 10
"""Klaviyo takes events dated as early as 2000: a wrong clock must not cost a request a year."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What to compare: the last `days` before the mark, 0 for all that is stored.

    `read_again` has the days that were read again whole, and since when.
    """

    days: int
    tolerance: timedelta
    most_requests: int
    read_again: Mapping[date, datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reckoning:
    """The outcome, over a window in UTC.

    `refused` are metrics that Klaviyo does not count, `without_metric` stored events that no count
    can hold; `asked_at` is when Klaviyo gave its first answer.
    """

    window: Window
    names: Mapping[str, str]
    found: Sequence[Difference]
    stored: int
    counted: int
    without_metric: int
    refused: Mapping[str, str]
    asked_at: datetime | None


def reckon(
    wish: Wish, *, client: Client, lake: Lake, settings: Settings, say: Callable[[str], None]
) -> Reckoning:
    """Compare; ask Klaviyo once a metric and year. `say` is told what that costs.

    Raises:
        MissingTableError: events were never read.
        SettingError: it would cost more requests than allowed.
        KlaviyoAssetsError: Klaviyo cannot be asked, or the lake cannot be read.
    """
    window = wished_window(wish, lake, settings)
    rows = day_counts(
        lake.root,
        STREAM,
        Counting(value=METRIC, moment=MOMENT, window=window, since=wish.read_again),
    )
    names = metrics_to_count(stored_metrics(lake), rows, settings)
    requests = refuse_dear(names, window, most=wish.most_requests)
    say(
        f"{quantity(requests, 'request')} for the counts of {quantity(len(names), 'metric')} from "
        f"{window.floor:%Y-%m-%d} to {window.ceiling:%Y-%m-%d %H:%M} UTC"
    )
    counted = klaviyo_counts(client, names, window, base_url=settings.base_url)
    return compared(window, rows, counted, names)


def compared(
    window: Window, rows: Sequence[DayCount], counted: Counted, names: Mapping[str, str]
) -> Reckoning:
    """Return how the rows stored differ from what was counted, of metrics that were counted."""
    asked = names.keys() - counted.refused.keys()
    stored = {
        Cell(row.value, row.day): Stored(rows=row.rows, seen=row.seen)
        for row in rows
        if row.value in asked
    }
    events = {cell: count for cell, count in counted.events.items() if cell.metric_id in asked}
    return Reckoning(
        window=window,
        names=names,
        found=differences(stored, events),
        stored=sum(each.rows for each in stored.values()),
        counted=sum(events.values()),
        without_metric=sum(row.rows for row in rows if row.value is None),
        refused=counted.refused,
        asked_at=counted.asked_at,
    )


def wished_window(wish: Wish, lake: Lake, settings: Settings) -> Window:
    """Return what is compared; empty where nothing is old enough.

    Raises:
        MissingTableError: events were never read.
    """
    state = lake.state(STREAM)
    mark = mark_from_json(state.state) if state is not None else None
    if mark is None:
        raise MissingTableError("no event was ever read; materialize klaviyo/events first")
    days = wish.days or MOST_YEARS * 365
    first = mark.date() - timedelta(days=days)
    if not wish.days:
        first = max(first, first_day(lake.root, STREAM) or first)
    return compared_window(mark, start=settings.start, first=first, tolerance=wish.tolerance)


def metrics_to_count(
    known: Sequence[Metric], rows: Sequence[DayCount], settings: Settings
) -> dict[str, str]:
    """Return the metrics to ask about, with the name where it is known, in the order of ids.

    Those of the setting where it names some; else all that the account has, and all that are
    stored.
    """
    names = {metric.id: metric.name or "" for metric in known}
    wanted = settings.event_metric_ids or {*names, *(row.value for row in rows)}
    return {each: names.get(each, "") for each in sorted(filter(None, wanted))}
