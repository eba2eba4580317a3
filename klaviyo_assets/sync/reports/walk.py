"""One metric's days, time frame by time frame: what to ask, and which days are then complete.

What belongs here: the order of questions for one metric, the same whether they are sent (`fetch`)
or only counted (`cost`). What does not: sending, storing, counting.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial

from klaviyo_assets.model.report import Days, Report
from klaviyo_assets.sync.reports.asking import Answered, Asking, Kept, Turn, View
from klaviyo_assets.sync.reports.cover import cover
from klaviyo_assets.sync.reports.halving import Part
from klaviyo_assets.sync.reports.learned import Learned
from klaviyo_assets.sync.reports.place import Knowledge, Placing
from klaviyo_assets.sync.reports.replay import replay
from klaviyo_assets.sync.reports.stretches import pieces
from klaviyo_assets.sync.reports.units import TimedRow, by_unit

LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The days wanted of one metric.

    `among` are the days that sibling runs want of it too, `pending` those of them that none has
    finished: totals are placed on them as well, so that all siblings ask what one run would.
    `delivered` tells of days when the answer was given that a finished run has stored for them: who
    asks again wants a later one. `widens` is false where nobody else can be served: then time
    frames are only as long as needed.
    """

    metric_id: str
    days: frozenset[date]
    among: frozenset[date] = frozenset()
    pending: frozenset[date] = frozenset()
    delivered: Mapping[date, datetime] = field(default_factory=dict[date, datetime])
    widens: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Days that are complete: their rows, and what they cost together with others.

    Without a day it tells that something was learned, from days that are for siblings alone.

    `requests` is what their time frame has cost so far, `shared_by` for how many days wanted.
    `fetched_at` is when the answer was given that all of them rest on, UTC.
    """

    rows: Mapping[date, Sequence[TimedRow]]
    fetched_at: datetime
    requests: int
    shared_by: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What holds for every metric: the report, the days that may be asked for, what is known."""

    report: Report
    bounds: Days
    knowledge: Knowledge | None
    """None for a series, which tells the days itself."""


def walk(wish: Wish, terms: Terms, asking: Asking) -> Generator[Finished]:
    """Yield the days wanted within the bounds as they become complete, the newest first.

    Raises:
        KlaviyoAssetsError: as `asking` says; what was yielded before stands.
    """
    rest = frozenset(day for day in wish.days if day in terms.bounds)
    while rest:
        with asking.alone():
            turn, answered = asking.ask(partial(_next_frame, rest, wish=wish, terms=terms))
            yield from _placed(turn, answered, wish=wish, terms=terms, asking=asking)
        rest -= turn.days


def _next_frame(rest: frozenset[date], view: View, *, wish: Wish, terms: Terms) -> Turn:
    """Return the kept answer that serves most of what is left, else the newest time frame."""
    kept = [each for each in view.kept if not each.message_ids]
    served = [(_served(rest, each, wish), each) for each in kept]
    days, best = max(served, key=lambda each: len(each[0]), default=(frozenset[date](), None))
    if best is not None and days:
        return _turn(best.days, days, wish)
    covered = {day for each in kept for day in each.days}
    frames = cover(
        rest,
        bounds=terms.bounds,
        most_days=terms.report.most_days,
        among=wish.among - covered,
        widens=wish.widens,
    )
    frame = frames[0]
    if terms.knowledge is not None:
        frame = _told_apart(frame, rest, view, wish=wish, learned=terms.knowledge.learned)
    return _turn(frame, frozenset(day for day in rest if day in frame), wish)


def _told_apart(
    frame: Days, rest: frozenset[date], view: View, *, wish: Wish, learned: Learned
) -> Days:
    """Return the part of a time frame whose totals need no placing, as far as that is known.

    Where another metric was asked about the same days, it is known which messages there are. Totals
    over parts, each with one day of a message, then cost one request less than the total over all
    of them, and the same parts of it again. The newest part that holds days of `rest` is returned.
    """
    newest = [day for day in rest if day in frame]
    known = [each for each in view.frames if all(day in each for day in newest)]
    if not known:
        return frame
    sent = {key: learned.sent(key) for key in learned.units()}
    choice = max if wish.widens else min
    whole = frame if frame in known else choice(known, key=lambda each: (len(each), each))
    parts = pieces(whole, sent, rest | wish.pending)
    return next(each for each in parts if max(newest) in each)


def _served(rest: frozenset[date], kept: Kept, wish: Wish) -> frozenset[date]:
    return frozenset(
        day
        for day in rest
        if day in kept.days and kept.fetched_at > wish.delivered.get(day, LONG_AGO)
    )


def _turn(frame: Days, days: frozenset[date], wish: Wish) -> Turn:
    newer_than = max((wish.delivered.get(day, LONG_AGO) for day in days), default=LONG_AGO)
    return Turn(Part(frame, ()), newer_than, days)


def _placed(
    turn: Turn, answered: Answered, *, wish: Wish, terms: Terms, asking: Asking
) -> Iterator[Finished]:
    """Yield the days of one time frame as the answer, and those to further questions, give them."""
    if terms.knowledge is None:
        yield _of_series(turn, answered)
        return
    wanted = turn.days | wish.pending
    placing = Placing(turn.part.days, answered.rows, wanted=wanted, knowledge=terms.knowledge)
    if wanted & placing.board.open_days():
        for part, rows in asking.paid(turn):
            units = by_unit(rows, terms.knowledge.message_field)
            replay(placing.board, part.days, part.message_ids, units, wanted=placing.wanted)
    asked = _asked(placing, turn, answered.requests, knowledge=terms.knowledge, asking=asking)
    requests = told = answered.requests
    for requests in asked:
        rows = {day: each for day, each in placing.finished().items() if day in turn.days}
        if rows or placing.board.notes:
            told = requests
            yield _finished(rows, turn, answered, requests=requests, placing=placing)
    if requests > told:
        yield _finished({}, turn, answered, requests=requests)


def _of_series(turn: Turn, answered: Answered) -> Finished:
    by_day: dict[date, list[TimedRow]] = {day: [] for day in sorted(turn.days, reverse=True)}
    for row in answered.rows:
        if row.row.day is not None and row.row.day in by_day:
            by_day[row.row.day].append(row)
    return _finished(by_day, turn, answered, requests=answered.requests)


def _asked(
    placing: Placing, turn: Turn, requests: int, *, knowledge: Knowledge, asking: Asking
) -> Iterator[int]:
    """Yield before each question, and after the last, how many requests the time frame has cost."""
    questions = placing.questions()
    part = next(questions, None)
    while part is not None:
        yield requests
        _, found = asking.ask(_only(Turn(part, turn.newer_than, turn.days)))
        requests += found.requests
        try:
            part = questions.send(by_unit(found.rows, knowledge.message_field))
        except StopIteration:
            part = None
    yield requests


def _only(turn: Turn) -> Callable[[View], Turn]:
    return lambda _: turn


def _finished(
    rows: Mapping[date, Sequence[TimedRow]],
    turn: Turn,
    answered: Answered,
    *,
    requests: int,
    placing: Placing | None = None,
) -> Finished:
    notes: list[str] = placing.board.notes if placing is not None else []
    told = tuple(notes)
    notes.clear()
    return Finished(
        rows=rows,
        fetched_at=answered.fetched_at,
        requests=requests,
        shared_by=len(turn.days),
        notes=told,
    )
