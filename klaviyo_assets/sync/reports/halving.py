"""Finding the days of messages of which nobody tells when they were sent, by halving.

What belongs here: the search, pure. What does not: messages that a campaign tells the days of
(`place`). WhatsApp campaigns cannot be listed and deleted ones are gone, but reports have them.
"""

from collections.abc import Collection, Generator, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from klaviyo_assets.api.reports import MOST_IDS
from klaviyo_assets.model.report import Days
from klaviyo_assets.sync.reports.cover import hull
from klaviyo_assets.sync.reports.learned import UnitKey
from klaviyo_assets.sync.reports.units import PLACING, Board, TimedRow, differences, is_blank, told


@dataclass(frozen=True, slots=True)
class Part:
    """A time frame to ask about again, for these messages; none means all."""

    days: Days
    message_ids: tuple[str, ...]


Rows = Mapping[UnitKey, TimedRow]
"""An answer: one row a unit, over the whole time frame that was asked for."""

Questions = Generator[Part, Rows, None]
"""Yields what to ask, takes the answer."""


def part_of(days: Days, units: Iterable[UnitKey]) -> Part:
    """Return the question about some units; about all messages where a filter cannot hold them.

    Several requests with a filter each would cost more than one without.
    """
    ids = tuple(sorted({message_id for message_id, _ in units}))
    return Part(days, ids if len(ids) <= MOST_IDS and all(ids) else ())


def halve(board: Board, rows: Rows, days: Days, *, wanted: Collection[date]) -> Questions:
    """Ask until every unit of `rows`, its totals over `days`, has its rows on the days wanted.

    All units are searched for together, in the newer half first; a unit whose total is found whole
    in one half is not looked for in the other. Costs about log2(days) questions if all were sent on
    one day, and never more than one a day.
    """
    inside = [day for day in days if day in wanted]
    if not rows or not inside:
        return
    if len(days) == 1:
        for key, row in rows.items():
            board.settle(key, days.first, row)
        return
    around = hull(inside)
    if around != days:
        found = yield part_of(around, rows)
        there = {key: found[key] for key in rows if not is_blank(found.get(key))}
        for key in rows.keys() - there.keys():
            board.clear(key, around)
        yield from halve(board, there, around, wanted=wanted)
        return
    yield from _in_halves(board, rows, days, wanted=wanted)


def _in_halves(board: Board, rows: Rows, days: Days, *, wanted: Collection[date]) -> Questions:
    middle = days.first + timedelta(days=len(days) // 2)
    older, newer = Days(days.first, middle - timedelta(days=1)), Days(middle, days.last)
    found = yield part_of(newer, rows)
    in_newer = {key: found[key] for key in rows if not is_blank(found.get(key))}
    in_older: dict[UnitKey, TimedRow] = {}
    in_both: list[UnitKey] = []
    for key, row in rows.items():
        if key not in in_newer:
            board.clear(key, newer)
            in_older[key] = row
        elif differences([in_newer[key]], row, PLACING):
            in_both.append(key)
        else:
            board.clear(key, older)
    yield from halve(board, in_newer, newer, wanted=wanted)
    if in_both and any(day in wanted for day in older):
        found = yield part_of(older, in_both)
        for key in in_both:
            rest = found.get(key)
            if wrong := differences([in_newer[key], rest], rows[key], PLACING):
                board.notes.append(told(key, wrong, days))
            if rest is None or is_blank(rest):
                board.clear(key, older)
            else:
                in_older[key] = rest
    yield from halve(board, in_older, older, wanted=wanted)
