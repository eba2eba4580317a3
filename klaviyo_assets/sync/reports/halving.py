"""Finding the days of messages of which nobody tells when they were sent, by halving.

What belongs here: the search, pure. What does not: messages that a campaign tells the days of
(`place`). WhatsApp campaigns cannot be listed and deleted ones are gone, but reports have them.

    A                   B                     two stretches, each with messages of its own
    [══════╪══════] · · [══════╪══════]
           └───────────────────┘              one question: the newer half of A, the older half of B

The rest of that question must be known to hold nothing of either: a message whose days are not all
wanted may have been sent beside its stretch, too.
"""

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from klaviyo_assets.api.reports import MOST_IDS
from klaviyo_assets.model.report import Days
from klaviyo_assets.sync.reports.cover import hull
from klaviyo_assets.sync.reports.learned import UnitKey
from klaviyo_assets.sync.reports.units import PLACING, Board, TimedRow, differences, is_blank, told

ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Part:
    """A time frame to ask about again, for these messages; none means all."""

    days: Days
    message_ids: tuple[str, ...]


Rows = Mapping[UnitKey, TimedRow]
"""An answer: one row a unit, over the whole time frame that was asked for."""

Questions = Generator[Part, Rows, None]
"""Yields what to ask, takes the answer."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Days, and the totals over them of the units that are looked for there."""

    days: Days
    rows: Rows

    @property
    def middle(self) -> date:
        """Return the first day of the newer half."""
        return self.days.first + timedelta(days=len(self.days) // 2)

    @property
    def older(self) -> Days:
        """Return the older half."""
        return Days(self.days.first, self.middle - ONE_DAY)

    @property
    def newer(self) -> Days:
        """Return the newer half, the longer one of an odd number of days."""
        return Days(self.middle, self.days.last)

    def outside(self, part: Days) -> Iterator[Days]:
        """Yield what lies before and after a part of the days."""
        if self.days.first < part.first:
            yield Days(self.days.first, part.first - ONE_DAY)
        if part.last < self.days.last:
            yield Days(part.last + ONE_DAY, self.days.last)


def part_of(days: Days, units: Iterable[UnitKey]) -> Part:
    """Return the question about some units; about all messages where a filter cannot hold them.

    Several requests with a filter each would cost more than one without.
    """
    ids = tuple(sorted({message_id for message_id, _ in units}))
    return Part(days, ids if len(ids) <= MOST_IDS and all(ids) else ())


def present(found: Rows, units: Iterable[UnitKey]) -> dict[UnitKey, TimedRow]:
    """Return those of the units that an answer has something of."""
    return {key: found[key] for key in units if not is_blank(found.get(key))}


def halve(board: Board, rows: Rows, days: Days, *, wanted: Collection[date]) -> Questions:
    """Ask until every unit of `rows`, its totals over `days`, has its rows on the days wanted.

    All units are searched for together: units in one stretch share its question, and two stretches
    share one. A unit whose total is found whole in one half is not looked for in the other. What
    is known of days without it, from its `open` days, is not asked for again.
    """
    stretches = _beginnings(board, rows, days)
    while stretches:
        narrow: list[Stretch] = []
        for stretch in stretches:
            narrow += yield from _narrowed(board, stretch, wanted)
        halves: list[Stretch] = []
        for pair in _pairs(board, narrow):
            halves += yield from _split(board, *pair, wanted=wanted)
        stretches = halves


def _beginnings(board: Board, rows: Rows, days: Days) -> list[Stretch]:
    """Return a stretch for each set of units that may have been sent on the same days."""
    together: dict[Days, dict[UnitKey, TimedRow]] = {}
    for key, row in rows.items():
        within = [day for day in board.units[key].open if day in days]
        together.setdefault(hull(within) if within else days, {})[key] = row
    return [Stretch(each, found) for each, found in together.items()]


def _narrowed(
    board: Board, stretch: Stretch, wanted: Collection[date]
) -> Generator[Part, Rows, list[Stretch]]:
    """Settle a single day; cut a stretch to the days wanted; drop what nobody wants."""
    inside = [day for day in stretch.days if day in wanted]
    if not stretch.rows or not inside:
        return []
    if len(stretch.days) == 1:
        for key, row in stretch.rows.items():
            board.settle(key, stretch.days.first, row)
        return []
    around = hull(inside)
    if around == stretch.days:
        return [stretch]
    found = Stretch(around, present((yield part_of(around, stretch.rows)), stretch.rows))
    _clear_beside(board, stretch, found)
    return (yield from _narrowed(board, found, wanted))


def _clear_beside(board: Board, stretch: Stretch, found: Stretch) -> None:
    """Know what was not sent within a part of a stretch, and what was not sent beside it."""
    for key, row in stretch.rows.items():
        if key not in found.rows:
            board.clear(key, found.days)
        elif not differences([found.rows[key]], row, PLACING):
            for beside in stretch.outside(found.days):
                board.clear(key, beside)


def _pairs(board: Board, stretches: Iterable[Stretch]) -> Iterator[tuple[Stretch, Stretch | None]]:
    """Yield stretches two by two, the newer one first, where one question serves both."""
    waiting: Stretch | None = None
    for stretch in sorted(stretches, key=lambda each: each.days, reverse=True):
        if waiting is None:
            waiting = stretch
        elif _can_share(board, stretch, waiting):
            yield waiting, stretch
            waiting = None
        else:
            yield waiting, None
            waiting = stretch
    if waiting is not None:
        yield waiting, None


def _can_share(board: Board, older: Stretch, newer: Stretch) -> bool:
    """Return whether their units are told apart: each has only its own half in the question."""
    if older.days.last >= newer.days.first:
        return False
    messages = {message_id for message_id, _ in (*older.rows, *newer.rows)}
    before = Days(older.middle, newer.days.first - ONE_DAY)
    after = Days(older.days.last + ONE_DAY, newer.middle - ONE_DAY)
    return (
        len(messages) <= MOST_IDS
        and not any(board.units[key].may_have(before) for key in newer.rows)
        and not any(board.units[key].may_have(after) for key in older.rows)
    )


def _split(
    board: Board, stretch: Stretch, other: Stretch | None, *, wanted: Collection[date]
) -> Generator[Part, Rows, list[Stretch]]:
    """Ask for half of a stretch, and for half of an older one with it; return the four halves."""
    if other is None:
        found = yield part_of(stretch.newer, stretch.rows)
        return (yield from _halves(board, stretch, stretch.newer, found, wanted))
    asked = Days(other.middle, stretch.middle - ONE_DAY)
    found = yield part_of(asked, [*stretch.rows, *other.rows])
    mine = yield from _halves(board, stretch, stretch.older, found, wanted)
    return mine + (yield from _halves(board, other, other.newer, found, wanted))


def _halves(
    board: Board, stretch: Stretch, asked: Days, found: Rows, wanted: Collection[date]
) -> Generator[Part, Rows, list[Stretch]]:
    """Return both halves of a stretch, given what was found in one of them."""
    rest = stretch.older if asked == stretch.newer else stretch.newer
    in_asked = present(found, stretch.rows)
    in_rest: dict[UnitKey, TimedRow] = {}
    in_both: list[UnitKey] = []
    for key, row in stretch.rows.items():
        if key not in in_asked:
            board.clear(key, asked)
            in_rest[key] = row
        elif differences([in_asked[key]], row, PLACING):
            in_both.append(key)
        else:
            board.clear(key, rest)
    if in_both and any(day in wanted for day in rest):
        there = present((yield part_of(rest, in_both)), in_both)
        for key in in_both:
            if wrong := differences([in_asked[key], there.get(key)], stretch.rows[key], PLACING):
                board.notes.append(told(key, wrong, stretch.days))
            if key not in there:
                board.clear(key, rest)
        in_rest |= there
    return [Stretch(asked, in_asked), Stretch(rest, in_rest)]
