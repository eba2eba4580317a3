"""Reports, which Klaviyo computes on request: their endpoints, partitions and date ranges."""

from calendar import monthrange
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Literal

ONE_DAY = timedelta(days=1)

NO_METRIC = ""
"""Stands for the conversion metric of a report that has none: its partitions are days alone."""


@dataclass(frozen=True, slots=True, order=True)
class DateRange:
    """`[first, last]` in the account's time zone, both ends inclusive, as in Klaviyo's reports."""

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

    def is_within(self, other: "DateRange") -> bool:
        """Return whether every day of this range lies in `other`."""
        return other.first <= self.first and self.last <= other.last


def contiguous_ranges(days: Iterable[date]) -> list[DateRange]:
    """Return the days as ranges without gaps, ascending; neighbouring days share a range."""
    return merge_ranges(DateRange(day, day) for day in days)


def merge_ranges(ranges: Iterable[DateRange]) -> list[DateRange]:
    """Return the days of all ranges in as few ranges as possible, ascending."""
    merged: list[DateRange] = []
    for each in sorted(ranges):
        if merged and each.first <= merged[-1].last + ONE_DAY:
            merged[-1] = DateRange(merged[-1].first, max(merged[-1].last, each.last))
        else:
            merged.append(each)
    return merged


@dataclass(frozen=True, slots=True, order=True)
class ReportPartition:
    """One partition of a report: a conversion metric and a day in the account's time zone.

    `metric_id` is `NO_METRIC` where the report takes none. Of a report by month, `day` is the
    month's first.
    An id that a table cannot store is replaced by one that it can, in all places alike.
    """

    metric_id: str
    day: date

    def __post_init__(self) -> None:
        """Make the id storable."""
        if not self.metric_id.isprintable():
            object.__setattr__(self, "metric_id", storable_text(self.metric_id))


def storable_text(text: str) -> str:
    """Return text with U+FFFD for NUL, which ends a C string, and `?` for lone surrogates."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


CHANNEL_GROUPING = "send_channel"
VARIATION_GROUPING = "variation"

MetricRole = Literal["conversion", "event"]
"""What the metric of a partition is: the one that counts as conversion, or the one counted."""

TOTAL_DIMENSION = "total"
"""Stands for the dimension in rows of metric aggregates that are not grouped."""

ReportPeriod = Literal["day", "month"]
"""What one partition of a report covers, in the account's time zone."""


@dataclass(frozen=True, slots=True)
class Quotient:
    """What a rate divides: two statistics of the same row."""

    part: str
    whole: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportEndpoint:
    """A report endpoint, as the source of a stream.

    `subject`: what rows are about, as `campaign` or `form`. `group_by` is empty where the request
    takes no groupings, and rows are by subject. `interval`: set for a series; without one
    a response is a total over the time frame. `period`: by what the rows are stored. Totals are
    allocated to days, since messages have days; a total over a month is stored as it is, and
    requested month by month. `max_days`: the longest time frame of one request.
    `metric`: None where the request takes none. `dimensions`: of metric aggregates, each a request
    of its own beside the one that does not group. `rates`: the statistics that are quotients of two
    others. `first_day`: Klaviyo has no numbers of the days before it.
    """

    path: str
    type: str
    subject: str
    interval: str | None
    max_days: int
    group_by: tuple[str, ...]
    statistics: tuple[str, ...]
    rates: Mapping[str, Quotient] = field(default_factory=dict[str, Quotient])
    metric: MetricRole | None = "conversion"
    dimensions: tuple[str, ...] = ()
    first_day: date | None = None
    period: ReportPeriod = "day"

    @property
    def has_metric(self) -> bool:
        """Return whether its partitions are by metric."""
        return self.metric is not None

    @property
    def metric_column(self) -> str:
        """Return the column of the metric's id."""
        return "conversion_metric_id" if self.metric == "conversion" else "metric_id"

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the dimensions by which one time frame is requested, a request each."""
        return (TOTAL_DIMENSION, *self.dimensions)

    @property
    def is_allocated(self) -> bool:
        """Return whether its totals are allocated to days."""
        return self.interval is None and self.period == "day"

    def days_of(self, day: date) -> DateRange:
        """Return the days of the partition that a day belongs to."""
        if self.period == "day":
            return DateRange(day, day)
        first = day.replace(day=1)
        return DateRange(first, first.replace(day=monthrange(first.year, first.month)[1]))

    def partition_days(self, days: DateRange) -> list[date]:
        """Return the first day of each partition that lies wholly within the days, ascending."""
        if self.period == "day":
            return list(days)
        firsts = (day for day in days if day.day == 1)
        return [day for day in firsts if self.days_of(day).is_within(days)]

    @property
    def message_field(self) -> str:
        """Return the grouping that identifies a message, which is also the field of the filter."""
        return f"{self.subject}_message_id"

    @property
    def groupings(self) -> tuple[str, ...]:
        """Return the groupings of a row."""
        return self.group_by or (f"{self.subject}_id",)

    @property
    def key_groupings(self) -> tuple[str, ...]:
        """Return the groupings that identify a row within its partition; names do not."""
        if self.metric == "conversion":
            variation = [VARIATION_GROUPING] if VARIATION_GROUPING in self.group_by else []
            return (f"{self.subject}_id", self.message_field, *variation, CHANNEL_GROUPING)
        return self.groupings
