"""Whether all events are there: what is stored beside what Klaviyo counts, by metric and UTC day.

What belongs here: the comparison and what follows from it, pure. What does not: counting (`lake`),
asking Klaviyo (`counts`), showing it (`defs`).

    stored, not shown when the day was last read again ┐
    stored, shown ───────────────────┐                 ├─▶ vanished at Klaviyo
    counted by Klaviyo ──────────────┼─ fewer than shown ┘
                                     └─ more than shown ──▶ missing here
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from klaviyo_assets.model.report import Cell, Days
from klaviyo_assets.model.window import Window

ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Events of one metric and day that are stored.

    `seen` are those that Klaviyo showed when the day was last read again, all of them where it
    never was: the others were there before, and were not shown any more.
    """

    rows: int
    seen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A metric and day on which what is stored is not what Klaviyo counts."""

    cell: Cell
    stored: int
    counted: int
    missing: int
    vanished: int


NONE = Stored(rows=0, seen=0)


def differences(stored: Mapping[Cell, Stored], counted: Mapping[Cell, int]) -> list[Difference]:
    """Return the cells that differ, in the order of days, then metrics.

    A cell that Klaviyo does not mention has no events there; every cell of either side counts.
    """
    found: list[Difference] = []
    for cell in sorted(stored.keys() | counted.keys(), key=lambda each: (each.day, each.metric_id)):
        here, there = stored.get(cell, NONE), counted.get(cell, 0)
        missing = max(0, there - here.seen)
        vanished = here.rows - here.seen + max(0, here.seen - there)
        if missing or vanished:
            found.append(
                Difference(
                    cell=cell,
                    stored=here.rows,
                    counted=there,
                    missing=missing,
                    vanished=vanished,
                )
            )
    return found


def short_days(found: Iterable[Difference]) -> dict[date, int]:
    """Return the days on which events are missing, with how many, in order."""
    days: dict[date, int] = {}
    for each in found:
        if each.missing:
            days[each.cell.day] = days.get(each.cell.day, 0) + each.missing
    return dict(sorted(days.items()))


def vanished_days(found: Iterable[Difference]) -> frozenset[date]:
    """Return the days on which Klaviyo no longer has what is stored."""
    return frozenset(each.cell.day for each in found if each.vanished)


def in_a_row(days: Iterable[date]) -> list[Days]:
    """Return the days as stretches without a gap, in order."""
    found: list[Days] = []
    for day in sorted(set(days)):
        if found and found[-1].last + ONE_DAY == day:
            found[-1] = Days(found[-1].first, day)
        else:
            found.append(Days(day, day))
    return found


def compared_window(
    mark: datetime, *, start: datetime | None, first: date, tolerance: timedelta
) -> Window:
    """Return what is compared: from a day on, and up to some time before the mark.

    `start` is where reading began, None: at the first event. The newest hours are left alone:
    Klaviyo's counts lag, and what lies past the mark is read again anyway. Empty where nothing
    is old enough.

              first, or start        mark - tolerance     mark
    ────────────────┼───────────────────────┼──────────────┼─────▶ UTC
    compared ───────[═══════════════════════)
    """
    floor = datetime(first.year, first.month, first.day, tzinfo=UTC)
    end = (mark - tolerance).astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return Window(floor if start is None else max(floor, start), end)
