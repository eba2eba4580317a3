"""What is compared with another tool's tables, as values."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedStream:
    """A stream, and where other tools have it.

    `time` is our column that dates a row; `their_tables` and `their_times` are the names that other
    tools use, the likeliest first. A time with a dot is a member of a JSON column or a struct.
    """

    stream: str
    time: str
    their_tables: tuple[str, ...]
    their_times: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthComparison:
    """The ids of one UTC month, `YYYY-MM`, or "unknown": here, there, and on one side alone."""

    month: str
    here: int
    there: int
    only_here: int
    only_there: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamComparison:
    """A stream beside a table of another tool, by month in order.

    `examples` are some of the ids that are only there.
    """

    stream: str
    table: str
    months: tuple[MonthComparison, ...]
    examples: tuple[str, ...]

    @property
    def total(self) -> MonthComparison:
        """Return the sums of all months."""
        return MonthComparison(
            month="all",
            here=sum(each.here for each in self.months),
            there=sum(each.there for each in self.months),
            only_here=sum(each.only_here for each in self.months),
            only_there=sum(each.only_there for each in self.months),
        )
