"""One metric's days, time frame by time frame: what to ask, and which days are then complete.

What belongs here: the order of questions for one metric, the same whether they are sent (`fetch`)
or only counted (`cost`). What does not: sending, storing, counting.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from typing import Protocol

from klaviyo_assets.model.report import Days, Report
from klaviyo_assets.sync.reports.cover import cover
from klaviyo_assets.sync.reports.halving import Part
from klaviyo_assets.sync.reports.place import Knowledge, Placing
from klaviyo_assets.sync.reports.units import TimedRow, by_unit

LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The days wanted of one metric.

    `among` are the days that sibling runs want of it too. `delivered` tells of days when the answer
    was given that a finished run has stored for them: who asks again wants a later one. `widens` is
    false where nobody else can be served: then time frames are only as long as needed.
    """

    metric_id: str
    days: frozenset[date]
    among: frozenset[date] = frozenset()
    delivered: Mapping[date, datetime] = field(default_factory=dict[date, datetime])
    widens: bool = True


@dataclass(frozen=True, slots=True)
class Kept:
    """The time frame of an answer, without a filter, that was paid for already, and its time."""

    days: Days
    fetched_at: datetime


@dataclass(frozen=True, slots=True)
class Turn:
    """What to ask next; an answer that was given after `newer_than` (UTC) will do."""

    part: Part
    newer_than: datetime
    days: frozenset[date]
    """The days wanted that the answer is for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer with all its pages. `requests` were spent on it now: 0 if it was there already."""

    rows: Sequence[TimedRow]
    fetched_at: datetime
    requests: int


class Asking(Protocol):
    """What answers: Klaviyo and the answers kept, or an estimate."""

    def ask(self, choose: Callable[[Sequence[Kept]], Turn]) -> tuple[Turn, Answered]:
        """Return an answer to what is chosen in view of the answers kept, and what was chosen.

        While it is chosen and asked, no other process asks for the same metric.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Days that are complete: their rows, and what they cost together with others.

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


def walk(wish: Wish, terms: Terms, asking: Asking) -> Iterator[Finished]:
    """Yield the days wanted within the bounds as they become complete, the newest first.

    Raises:
        KlaviyoAssetsError: as `asking` says; what was yielded before stands.
    """
    rest = frozenset(day for day in wish.days if day in terms.bounds)
    while rest:
        turn, answered = asking.ask(partial(_next_frame, rest, wish=wish, terms=terms))
        yield from _placed(turn, answered, terms=terms, asking=asking)
        rest -= turn.days


def _next_frame(rest: frozenset[date], kept: Sequence[Kept], *, wish: Wish, terms: Terms) -> Turn:
    """Return the kept answer that serves most of what is left, else the newest time frame."""
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
    return _turn(frames[0], frozenset(day for day in rest if day in frames[0]), wish)


def _served(rest: frozenset[date], kept: Kept, wish: Wish) -> frozenset[date]:
    return frozenset(
        day
        for day in rest
        if day in kept.days and kept.fetched_at > wish.delivered.get(day, LONG_AGO)
    )


def _turn(frame: Days, days: frozenset[date], wish: Wish) -> Turn:
    newer_than = max((wish.delivered.get(day, LONG_AGO) for day in days), default=LONG_AGO)
    return Turn(Part(frame, ()), newer_than, days)


def _placed(turn: Turn, answered: Answered, *, terms: Terms, asking: Asking) -> Iterator[Finished]:
    """Yield the days of one time frame as the answer, and those to further questions, give them."""
    if terms.knowledge is None:
        by_day: dict[date, list[TimedRow]] = {day: [] for day in sorted(turn.days, reverse=True)}
        for row in answered.rows:
            if row.row.day is not None and row.row.day in by_day:
                by_day[row.row.day].append(row)
        yield _finished(by_day, turn, answered, requests=answered.requests)
        return
    requests = answered.requests
    placing = Placing(turn.part.days, answered.rows, wanted=turn.days, knowledge=terms.knowledge)
    questions = placing.questions()
    part = next(questions, None)
    while True:
        rows = placing.finished()
        if rows or placing.board.notes:
            yield _finished(rows, turn, answered, requests=requests, placing=placing)
        if part is None:
            return
        _, found = asking.ask(_only(Turn(part, turn.newer_than, turn.days)))
        requests += found.requests
        units = by_unit(found.rows, terms.knowledge.message_field)
        try:
            part = questions.send(units)
        except StopIteration:
            part = None


def _only(turn: Turn) -> Callable[[Sequence[Kept]], Turn]:
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
