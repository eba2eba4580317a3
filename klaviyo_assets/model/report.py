"""Reports: what Klaviyo computes on request, by conversion metric and day, against a daily quota.

What belongs here: the shape of a report and of the days it is asked for. What does not: the body
(`api/reports.py`), the rows (`tables/reports.py`), which days to ask for (`sync/reports`).
Source: https://developers.klaviyo.com/en/reference/reporting_api_overview, revision 2026-07-15.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta


@dataclass(frozen=True, slots=True, order=True)
class Days:
    """`[first, last]` in the account's time zone, both ends inclusive, as a time frame has them."""

    first: date
    last: date

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        if self.last < self.first:
            raise ValueError(f"days end before they begin: {self.first} to {self.last}")

    def __len__(self) -> int:
        """Return the number of days."""
        return (self.last - self.first).days + 1

    def __iter__(self) -> Iterator[date]:
        """Yield the days, ascending."""
        return (self.first + timedelta(days=number) for number in range(len(self)))

    def __contains__(self, day: object) -> bool:
        """Return whether a day lies inside."""
        return isinstance(day, date) and self.first <= day <= self.last


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One partition of a report: a conversion metric and a day in the account's time zone.

    An id from outside that no table could hold becomes one that it can, everywhere alike.
    """

    metric_id: str
    day: date

    def __post_init__(self) -> None:
        """Make the id storable."""
        if not self.metric_id.isprintable():
            object.__setattr__(self, "metric_id", storable(self.metric_id))


def storable(text: str) -> str:
    """Return text without NUL, at which programs end it, and without halves of characters."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report endpoint as a source.

    `subject` is what rows are about: `campaign` or `flow`. `interval` is set where the answer is a
    series; without one an answer is a total over its time frame. `most_days` is the longest time
    frame of one request. `rates` are the statistics that are no sums, each with what it is a share
    of.
    """

    path: str
    type: str
    subject: str
    interval: str | None
    most_days: int
    group_by: tuple[str, ...]
    statistics: tuple[str, ...]
    rates: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def message_field(self) -> str:
        """Return the grouping that names a message: what a filter restricts an answer to."""
        return f"{self.subject}_message_id"
