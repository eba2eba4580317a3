"""Placing by answers that were paid for already, whatever they were asked for.

What belongs here: what an answer about part of a time frame tells of the units that are placed in
it, pure. What does not: which answers there are (`paying`), what is asked next (`place`).
"""

from collections.abc import Collection
from datetime import date

from klaviyo_assets.model.report import Days
from klaviyo_assets.sync.reports.cover import runs
from klaviyo_assets.sync.reports.halving import Rows
from klaviyo_assets.sync.reports.units import (
    PLACING,
    Board,
    Unit,
    differences,
    is_blank,
    is_same,
    value,
)


def replay(
    board: Board,
    days: Days,
    message_ids: Collection[str],
    rows: Rows,
    *,
    wanted: Collection[date],
) -> None:
    """Take what an answer over `days` about these messages tells; none means all messages."""
    for unit in list(board.units.values()):
        if not unit.open.isdisjoint(days) and (not message_ids or unit.key[0] in message_ids):
            _told(board, unit, days, rows, wanted=wanted)


def _only_day(unit: Unit, days: Days) -> date | None:
    """Return the one day in which all of a stretch must lie, None where there are several.

    Of a unit that is looked for everywhere, what is not open and no part is known to be nothing.
    """
    inside = unit.open.intersection(days)
    is_known = unit.is_lost and len(inside) == 1 and unit.parts.keys().isdisjoint(days)
    return next(iter(inside)) if is_known else None


def _told(board: Board, unit: Unit, days: Days, rows: Rows, *, wanted: Collection[date]) -> None:
    row = rows.get(unit.key)
    if len(days) == 1:
        board.settle(unit.key, days.first, None if is_blank(row) else row)
    elif unit.is_exact:
        sent = board.learned.sent(unit.key)
        inside = [day for day in sent if day in days]
        if len(inside) == 1 and is_same(value(row, "recipients"), sent[inside[0]]):
            board.settle(unit.key, inside[0], row)
    elif is_blank(row):
        board.clear(unit.key, days)
    elif (day := _only_day(unit, days)) and day in wanted:
        # On other days nothing is placed: known in part, they would part the totals of other
        # metrics where these do not tell the days.
        board.settle(unit.key, day, row)
    elif not differences([row], unit.total, PLACING):
        for beside in runs([day for day in unit.open if day not in days]):
            board.clear(unit.key, beside)
