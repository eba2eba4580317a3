"""Asking Klaviyo how many events there were: one request a metric and year.

What belongs here: which requests that takes, and sending them. What does not: one request
(`api/aggregates.py`), its answer (`tables/aggregates.py`), the comparison (`completeness`).
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from klaviyo_assets.api.aggregates import MOST_DAYS, count_request
from klaviyo_assets.api.client import Answer, Client
from klaviyo_assets.errors import PermanentError, SettingError
from klaviyo_assets.model.report import Cell
from klaviyo_assets.model.window import Window
from klaviyo_assets.tables.aggregates import read_counts
from klaviyo_assets.wording import quantity

STREAM = "events"


@dataclass(slots=True)
class Counted:
    """Klaviyo's counts; `refused` are metrics that it does not count, with its words.

    `asked_at` is when the first answer was given, UTC.
    """

    events: dict[Cell, int] = field(default_factory=dict[Cell, int])
    refused: dict[str, str] = field(default_factory=dict[str, str])
    asked_at: datetime | None = None


def years_of(window: Window) -> Iterator[Window]:
    """Yield a closed window cut into pieces that one request each may ask for, in order."""
    start, end = window.floor, window.ceiling
    while start < end:
        following = min(end, start + timedelta(days=MOST_DAYS))
        yield Window(start, following)
        start = following


def refuse_dear(metrics: Collection[str], window: Window, *, most: int) -> int:
    """Return how many requests counting costs.

    Raises:
        SettingError: more than `most`.
    """
    wanted = len(metrics) * sum(1 for _ in years_of(window))
    if wanted > most:
        raise SettingError(
            f"counting {quantity(len(metrics), 'metric')} from {window.floor:%Y-%m-%d} to "
            f"{window.ceiling:%Y-%m-%d} takes {quantity(wanted, 'request')}, and most_requests "
            f"allows {most}. Choose fewer days, or allow more: Klaviyo answers 60 a minute",
            stream=STREAM,
        )
    return wanted


def klaviyo_counts(
    client: Client, metrics: Collection[str], window: Window, *, base_url: str
) -> Counted:
    """Return how many events of each metric Klaviyo counts on each UTC day of a closed window.

    A metric that it refuses is told apart, unless it refuses all of them.

    Raises:
        KlaviyoAssetsError: Klaviyo cannot be reached, or refuses the key or every metric.
    """
    counted = Counted()
    for metric_id in metrics:
        try:
            for piece in years_of(window):
                _count(client, metric_id, piece, counted=counted, base_url=base_url)
        except PermanentError as error:
            counted.refused[metric_id] = error.message
            if len(counted.refused) == len(metrics):
                raise
    return counted


def _count(
    client: Client, metric_id: str, piece: Window, *, counted: Counted, base_url: str
) -> None:
    request = count_request(metric_id, piece, base_url=base_url)

    def read(answer: Answer) -> None:
        for day, number in read_counts(answer.body).items():
            cell = Cell(metric_id, day)
            counted.events[cell] = counted.events.get(cell, 0) + number
        counted.asked_at = counted.asked_at or answer.at

    client.read(request, read, stream=STREAM)
