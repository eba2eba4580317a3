"""Holds what is known of each message and channel: its total over a timeframe, its rows by day."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime

from klaviyo_assets.decode.reports import ReportRow
from klaviyo_assets.errors import MalformedPageError
from klaviyo_assets.model.report import DateRange
from klaviyo_assets.reports.send_schedule import MessageChannel, SendDays

ADDITIVE_STATISTICS = ("recipients", "delivered", "conversions", "conversion_value")
"""Statistics that add up over days, since everybody gets a message once: no uniques, no rates."""

SEND_STATISTICS = ("recipients", "delivered")
"""Statistics that show the send days of a message; others may change between two responses."""

STATISTIC_TOLERANCE = 0.005
"""Half a cent for each summand: values are rounded, counts are whole."""


@dataclass(frozen=True, slots=True)
class TimedRow:
    """A row of a response, and when Klaviyo sent it, UTC."""

    row: ReportRow
    fetched_at: datetime


@dataclass(slots=True)
class MessageTotals:
    """The total of a message over a timeframe, and the rows found for single days.

    `open_days`: days that may have sends but have no row yet. `is_proven`: exactly the open days
    have sends, with the recipients in `SendDays`, since these add up to the total.
    """

    key: MessageChannel
    total: TimedRow
    open_days: set[date]
    is_proven: bool = False
    has_unknown_days: bool = False
    is_checked: bool = False
    has_mismatch: bool = False
    rows_by_day: dict[date, TimedRow] = field(default_factory=dict[date, TimedRow])

    def can_have_sends(self, date_range: DateRange) -> bool:
        """Return whether the message was, or may have been, sent on some of the days."""
        return any(day in self.open_days or day in self.rows_by_day for day in date_range)


class AllocationState:
    """The messages of one timeframe. Findings about send days also go into `send_days`."""

    def __init__(self, send_days: SendDays, *, latest_settled_day: date) -> None:
        """Start without messages; days without sends are recorded up to `latest_settled_day`."""
        self.messages: dict[MessageChannel, MessageTotals] = {}
        self.send_days = send_days
        self.latest_settled_day = latest_settled_day
        self.warnings: list[str] = []

    def assign_row(self, key: MessageChannel, day: date, row: TimedRow | None) -> None:
        """Set the exact row of a message on a day; None where it has none.

        If its rows now add up to its total, no day of it is open any more.
        """
        message = self.messages[key]
        message.open_days.discard(day)
        self.record_recipients(key, DateRange(day, day), statistic_value(row, "recipients"))
        if row is not None:
            message.rows_by_day[day] = row
        if message.rows_by_day and not find_sum_mismatches(
            message.rows_by_day.values(), message.total, SEND_STATISTICS
        ):
            message.open_days.clear()

    def exclude_days(self, key: MessageChannel, date_range: DateRange) -> None:
        """Record that a message was not sent on these days."""
        self.messages[key].open_days.difference_update(date_range)
        self.record_recipients(key, date_range, 0)

    def record_recipients(
        self, key: MessageChannel, date_range: DateRange, recipients: float
    ) -> None:
        """Record the recipients in a range; that there were none, only up to the settled day."""
        if recipients > 0 or date_range.last <= self.latest_settled_day:
            self.send_days.record_recipients(key, date_range, recipients)
        elif date_range.first <= self.latest_settled_day:
            self.send_days.record_recipients(
                key, DateRange(date_range.first, self.latest_settled_day), recipients
            )

    def open_days(self) -> set[date]:
        """Return the days on which a row may still be missing."""
        return {day for message in self.messages.values() for day in message.open_days}

    def rows_of_day(self, day: date) -> tuple[TimedRow, ...]:
        """Return the rows found for a day so far."""
        found = (message.rows_by_day.get(day) for message in self.messages.values())
        return tuple(row for row in found if row is not None)


def group_by_message(
    rows: Iterable[TimedRow], message_field: str
) -> dict[MessageChannel, TimedRow]:
    """Return the rows of one response by message and channel, without duplicates.

    Raises:
        MalformedPageError: two rows of one message and channel differ.
    """
    found: dict[MessageChannel, TimedRow] = {}
    for timed in rows:
        groupings = timed.row.groupings
        key = (groupings.get(message_field) or "", groupings.get("send_channel") or "")
        if found.setdefault(key, timed).row != timed.row:
            raise MalformedPageError(
                f"the response has two rows for message {key[0]!a} and channel {key[1]!a} that "
                "differ: tell the developers of klaviyo_assets"
            )
    return found


def statistic_value(timed: TimedRow | None, statistic: str) -> float:
    """Return a statistic, 0 where there is none."""
    return (timed.row.statistics.get(statistic) or 0.0) if timed is not None else 0.0


def is_same_count(one: float, other: float) -> bool:
    """Return whether two counts are the same."""
    return abs(one - other) < 0.5  # noqa: PLR2004 - counts are whole


def is_empty_row(timed: TimedRow | None) -> bool:
    """Return whether all additive statistics are 0, so that the row shows no send day."""
    return not any(statistic_value(timed, each) for each in ADDITIVE_STATISTICS)


def find_sum_mismatches(
    rows: Iterable[TimedRow | None], total: TimedRow, statistics: Iterable[str]
) -> Mapping[str, tuple[float, float]]:
    """Return the statistics whose sum over `rows` is not the total, each as (sum, total)."""
    found = list(rows)
    sums = {each: sum(statistic_value(row, each) for row in found) for each in statistics}
    allowed = STATISTIC_TOLERANCE * (len(found) + 1)
    return {
        each: (added, statistic_value(total, each))
        for each, added in sums.items()
        if abs(added - statistic_value(total, each)) > allowed + 1e-9 * abs(added)
    }


def describe_mismatch(
    key: MessageChannel, mismatches: Mapping[str, tuple[float, float]], date_range: DateRange
) -> str:
    """Return the sentence about rows that do not add up to their total over `date_range`."""
    listed = ", ".join(
        f"{name} {sums:g}, not {total:g}" for name, (sums, total) in mismatches.items()
    )
    return (
        f"message {key[0]!a} ({key[1]}), {date_range.first} to {date_range.last}: days "
        f"add up to {listed}"
    )
