"""Units: one message through one channel, its total over a time frame, and its parts by day.

What belongs here: what is known of each unit while a time frame is being placed. What does not:
what to ask next (`place`, `halving`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime

from klaviyo_assets.errors import MalformedPageError
from klaviyo_assets.model.report import Days
from klaviyo_assets.sync.reports.learned import Learned, UnitKey
from klaviyo_assets.tables.report_answers import ReportRow

SUMS = ("recipients", "delivered", "conversions", "conversion_value")
"""What adds up over days: everybody gets a message once. Uniques and rates are not summed here."""

PLACING = ("recipients", "delivered")
"""What shows on which days a message was sent; the others may move from one answer to the next."""

TOLERANCE = 0.005
"""Half a cent a part: values are rounded, counts are whole."""


@dataclass(frozen=True, slots=True)
class TimedRow:
    """A row of an answer, and when Klaviyo gave that answer, UTC."""

    row: ReportRow
    fetched_at: datetime


@dataclass(slots=True)
class Unit:
    """A total over a time frame, and what of it has been found by day.

    `open` holds the days that may still have a part. `is_exact` tells that exactly the open days
    do, with the recipients that `Learned` has: a sum has proven it.
    """

    key: UnitKey
    total: TimedRow
    open: set[date]
    is_exact: bool = False
    is_lost: bool = False
    is_checked: bool = False
    is_wrong: bool = False
    parts: dict[date, TimedRow] = field(default_factory=dict[date, TimedRow])

    def may_have(self, days: Days) -> bool:
        """Return whether some of it was, or can have been, sent on some of the days."""
        return any(day in self.open or day in self.parts for day in days)


class Board:
    """The units of one time frame. What is found out about days is noted in `learned`, too."""

    def __init__(self, learned: Learned, *, lasting: date) -> None:
        """Hold no unit yet; that nothing was sent is remembered of days up to `lasting`."""
        self.units: dict[UnitKey, Unit] = {}
        self.learned = learned
        self.lasting = lasting
        self.notes: list[str] = []

    def settle(self, key: UnitKey, day: date, row: TimedRow | None) -> None:
        """Take a unit's exact row of a day, None where it has none.

        If that makes its parts add up to its total, nothing of it is open any more.
        """
        unit = self.units[key]
        unit.open.discard(day)
        self.note(key, Days(day, day), value(row, "recipients"))
        if row is not None:
            unit.parts[day] = row
        if unit.parts and not differences(unit.parts.values(), unit.total, PLACING):
            unit.open.clear()

    def clear(self, key: UnitKey, days: Days) -> None:
        """Know that nothing of a unit was sent on these days."""
        self.units[key].open.difference_update(days)
        self.note(key, days, 0)

    def note(self, key: UnitKey, days: Days, recipients: float) -> None:
        """Remember what was sent in a stretch; of none only what has been counted for good."""
        if recipients > 0 or days.last <= self.lasting:
            self.learned.note(key, days, recipients)
        elif days.first <= self.lasting:
            self.learned.note(key, Days(days.first, self.lasting), recipients)

    def open_days(self) -> set[date]:
        """Return the days on which something may still be missing."""
        return {day for unit in self.units.values() for day in unit.open}

    def rows_of(self, day: date) -> tuple[TimedRow, ...]:
        """Return what was found for a day so far."""
        found = (unit.parts.get(day) for unit in self.units.values())
        return tuple(row for row in found if row is not None)


def by_unit(rows: Iterable[TimedRow], message_field: str) -> dict[UnitKey, TimedRow]:
    """Return the rows of one answer by unit; a row that pages bring twice is there once.

    Raises:
        MalformedPageError: two rows of a unit differ.
    """
    found: dict[UnitKey, TimedRow] = {}
    for timed in rows:
        groupings = timed.row.groupings
        key = (groupings.get(message_field) or "", groupings.get("send_channel") or "")
        if found.setdefault(key, timed).row != timed.row:
            raise MalformedPageError(
                f"the answer has two rows for message {key[0]!a} and channel {key[1]!a} that "
                "differ: tell this project's developers"
            )
    return found


def value(timed: TimedRow | None, statistic: str) -> float:
    """Return a statistic, 0 where there is none."""
    return (timed.row.statistics.get(statistic) or 0.0) if timed is not None else 0.0


def is_same(one: float, other: float) -> bool:
    """Return whether two counts are the same."""
    return abs(one - other) < 0.5  # noqa: PLR2004 - counts are whole


def is_blank(timed: TimedRow | None) -> bool:
    """Return whether a row has none of the sums, so that no day can be told from it."""
    return not any(value(timed, each) for each in SUMS)


def differences(
    parts: Iterable[TimedRow | None], total: TimedRow, statistics: Iterable[str]
) -> Mapping[str, tuple[float, float]]:
    """Return the statistics in which the parts do not add up to the total: their sum, the total."""
    found = list(parts)
    sums = {each: sum(value(part, each) for part in found) for each in statistics}
    allowed = TOLERANCE * (len(found) + 1)
    return {
        each: (added, value(total, each))
        for each, added in sums.items()
        if abs(added - value(total, each)) > allowed + 1e-9 * abs(added)
    }


def told(key: UnitKey, found: Mapping[str, tuple[float, float]], days: Days) -> str:
    """Return the sentence about parts that do not add up to their total over `days`."""
    listed = ", ".join(f"{name} {sums:g}, not {total:g}" for name, (sums, total) in found.items())
    return f"message {key[0]!a} ({key[1]}), {days.first} to {days.last}: days add up to {listed}"
