"""One metric's days come complete with the fewest requests, kept answers first."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from klaviyo_assets.model.report import Days, Report
from klaviyo_assets.streams.reports import CAMPAIGN_VALUES_REPORTS, FLOW_SERIES_REPORTS
from klaviyo_assets.sync.reports.asking import Answered, Kept, Turn, View
from klaviyo_assets.sync.reports.halving import Part
from klaviyo_assets.sync.reports.learned import Learned, learned_from_json
from klaviyo_assets.sync.reports.sending import SentOn, Spread, Unknown
from klaviyo_assets.sync.reports.units import TimedRow
from klaviyo_assets.sync.reports.walk import Terms, Wish, walk
from klaviyo_assets_tests.unit.sync.reports.test_place import worlds
from klaviyo_assets_tests.unit.sync.reports.world import ASKED, World, day, days

YEAR = days(0, 364)
WEEKS = days(0, 62)


def report(of: object) -> Report:
    """Return a stream's report."""
    assert isinstance(of, Report)
    return of


SERIES = Terms(report=report(FLOW_SERIES_REPORTS.source), bounds=YEAR, knowledge=None)
VALUES = report(CAMPAIGN_VALUES_REPORTS.source)


@dataclass(slots=True)
class Klaviyo:
    """Answers from a world, keeps what it answered, and counts."""

    world: World
    now: datetime = ASKED
    is_series: bool = False
    asked: set[Days] = field(default_factory=set[Days])
    kept: list[tuple[Kept, Answered]] = field(default_factory=list[tuple[Kept, Answered]])
    turns: list[Turn] = field(default_factory=list[Turn])

    def ask(self, choose: Callable[[View], Turn]) -> tuple[Turn, Answered]:
        """Return a kept answer where one will do."""
        turn = choose(View([kept for kept, _ in self.kept], self.asked))
        part = turn.part
        for kept, answered in self.kept:
            is_same = (kept.days, kept.message_ids) == (part.days, part.message_ids)
            if is_same and kept.fetched_at > turn.newer_than:
                return turn, replace(answered, requests=0)
        self.turns.append(turn)
        rows = self.series(part.days) if self.is_series else self.world.answer(part)
        answered = Answered(rows=rows, fetched_at=self.now, requests=1)
        self.kept.append((Kept(part.days, self.now, part.message_ids), answered))
        if not part.message_ids:
            self.asked.add(part.days)
        return turn, answered

    def paid(self, turn: Turn) -> list[tuple[Part, Sequence[TimedRow]]]:
        """Return what was answered about parts of a turn's time frame."""
        return [
            (Part(kept.days, kept.message_ids), answered.rows)
            for kept, answered in self.kept
            if kept.days.first in turn.part.days and kept.days.last in turn.part.days
            if kept.fetched_at > turn.newer_than
        ]

    def alone(self) -> AbstractContextManager[None]:
        """Keep nobody out: there is nobody."""
        return nullcontext()

    def series(self, when: Days) -> list[TimedRow]:
        """Return one row a message and day."""
        found = ((each, self.world.row(name, [each])) for name in self.world.sent for each in when)
        return [replace(row, row=replace(row.row, day=each)) for each, row in found if row]

    @property
    def frames(self) -> list[Days]:
        """Return the time frames of all requests so far."""
        return [turn.part.days for turn in self.turns]


def rows_by_day(klaviyo: Klaviyo, wish: Wish, terms: Terms) -> dict[date, int]:
    """Return how many rows each finished day had."""
    return {
        when: len(rows)
        for finished in walk(wish, terms, klaviyo)
        for when, rows in finished.rows.items()
    }


def wish(wanted: Days | set[date] | frozenset[date], **more: object) -> Wish:
    """Return a wish for the days of the metric."""
    return replace(Wish(metric_id="m", days=frozenset(wanted)), **more)


@given(st.sets(st.integers(-5, 370).map(day), max_size=100))
def test_a_series_brings_each_day_once(wanted: set[date]) -> None:
    """Every day wanted within the bounds is finished once, with its rows and no others."""
    klaviyo = Klaviyo(World({"a": {day(3): 10, day(77): 5}, "b": {day(3): 1}}, {}), is_series=True)
    seen: list[date] = []
    for finished in walk(wish(wanted), SERIES, klaviyo):
        for when, rows in finished.rows.items():
            seen.append(when)
            assert {row.row.day for row in rows} <= {when}
            assert len(rows) == len(klaviyo.world.truth(when))
    assert sorted(seen) == sorted(each for each in wanted if each in YEAR)


def test_the_newest_days_come_first() -> None:
    """What is worth most is there first, should the quota end."""
    klaviyo = Klaviyo(World({}, {}), is_series=True)
    seen = list(rows_by_day(klaviyo, wish(YEAR), SERIES))
    assert seen == sorted(seen, reverse=True)
    assert len(klaviyo.turns) == 7


@pytest.mark.parametrize("order", [range(7), range(6, -1, -1), [3, 0, 6, 1, 5, 2, 4]])
def test_seven_sibling_runs_cost_one_request(order: Sequence[int]) -> None:
    """Runs of one day each are served by the answer that the first of them paid for."""
    klaviyo = Klaviyo(World({}, {}), is_series=True)
    for number in order:
        assert rows_by_day(klaviyo, wish({day(200 + number)}), SERIES) == {day(200 + number): 0}
    assert len(klaviyo.turns) == 1


def test_chunks_of_a_backfill_cost_what_it_costs_whole() -> None:
    """Three runs that know of each other's days ask for the seven time frames of the year."""
    klaviyo = Klaviyo(World({}, {}), is_series=True)
    for chunk in (days(0, 179), days(180, 359), days(360, 364)):
        rows_by_day(klaviyo, wish(chunk, among=frozenset(YEAR)), SERIES)
    assert len(klaviyo.turns) == 7


def test_who_asks_again_gets_a_later_answer() -> None:
    """An answer that a finished run has stored for a day does not serve that day a second time."""
    klaviyo = Klaviyo(World({}, {}), is_series=True)
    week = days(300, 306)
    rows_by_day(klaviyo, wish(week), SERIES)
    rows_by_day(klaviyo, wish(week), SERIES)
    assert len(klaviyo.turns) == 1
    klaviyo.now += timedelta(hours=1)
    rows_by_day(klaviyo, wish(week, delivered=dict.fromkeys(week, ASKED)), SERIES)
    assert len(klaviyo.turns) == 2
    assert rows_by_day(klaviyo, wish({day(310)}), SERIES) == {day(310): 0}
    assert len(klaviyo.turns) == 2


def test_without_siblings_a_frame_is_as_long_as_needed() -> None:
    """Where nobody else is served, longer answers would only bring more pages."""
    klaviyo = Klaviyo(World({}, {}), is_series=True)
    rows_by_day(klaviyo, wish(days(300, 330), widens=False), SERIES)
    assert klaviyo.frames == [days(300, 330)]


def test_totals_bring_each_day_its_rows() -> None:
    """A year of totals costs one request, and two for a message over two days."""
    sent = {"a": {day(5): 10}, "b": {day(8): 10, day(9): 5}}
    world = World(sent, {"a": SentOn(day(5)), "b": Spread(days(8, 9))})
    klaviyo = Klaviyo(world)
    terms = Terms(report=VALUES, bounds=YEAR, knowledge=world.knowledge(Learned()))
    costs: dict[date, tuple[int, int]] = {}
    for finished in walk(wish(YEAR), terms, klaviyo):
        assert finished.shared_by == 365
        costs |= {when: (finished.requests, len(rows)) for when, rows in finished.rows.items()}
    assert costs[day(5)] == (1, 1)
    assert costs[day(9)] == (2, 1)
    assert costs[day(8)] == (3, 1)
    assert len(costs) == 365


def test_one_day_of_totals_without_siblings_costs_one() -> None:
    """A single day asked for by itself needs no placing, whatever was sent on it."""
    world = World({"b": {day(8): 10, day(9): 5}}, {"b": Spread(days(8, 9))})
    klaviyo = Klaviyo(world)
    terms = Terms(report=VALUES, bounds=YEAR, knowledge=world.knowledge(Learned()))
    assert rows_by_day(klaviyo, wish({day(8)}, widens=False), terms) == {day(8): 1}
    assert len(klaviyo.turns) == 1


def test_differences_are_passed_on() -> None:
    """What does not add up is told with the days that it concerns."""
    world = World({"b": {day(8): 10, day(20): 5}}, {"b": Spread(days(8, 9))})
    terms = Terms(report=VALUES, bounds=YEAR, knowledge=world.knowledge(Learned()))
    notes = [note for each in walk(wish(YEAR), terms, Klaviyo(world)) for note in each.notes]
    assert "recipients 10, not 15" in notes[0]


def placed_by_one(world: World, wanted: frozenset[date], metrics: int) -> int:
    """Return what one run over all days asks for some metrics."""
    terms = Terms(report=VALUES, bounds=WEEKS, knowledge=world.knowledge(Learned()))
    asked: set[Days] = set()
    everyone = [Klaviyo(world, asked=asked) for _ in range(metrics)]
    for klaviyo in everyone:
        assert rows_by_day(klaviyo, wish(wanted), terms).keys() == wanted
    return sum(len(klaviyo.turns) for klaviyo in everyone)


# Nobody knows when it went out: on the eve of what is wanted, too.
@example(
    world=World(sent={"m0": {day(55): 1, day(56): 1}}, claims={"m0": Unknown()}, questions=[]),
    order=[day(56), day(57)],
    is_late=True,
)
# Answers kept tell of a day between those wanted; known of one run, it would cost another more.
@example(
    world=World(
        sent={"m0": dict.fromkeys(days(31, 33), 1)}, claims={"m0": Unknown()}, questions=[]
    ),
    order=[day(30), day(33)],
    is_late=True,
)
@given(
    world=worlds(),
    order=st.lists(st.integers(0, 62).map(day), min_size=1, max_size=7, unique=True),
    is_late=st.booleans(),
)
def test_siblings_that_take_turns_cost_what_one_run_costs(
    *, world: World, order: list[date], is_late: bool
) -> None:
    """Runs of a day each, metric by metric, in any order, ask together exactly what one asks.

    Also where the backfill learns `is_late`, after all of them, which days are finished.
    """
    wanted = frozenset(order)
    asked: set[Days] = set()
    everyone = [Klaviyo(world, asked=asked) for _ in range(2)]
    common: object = None
    for klaviyo in everyone:
        for place, each in enumerate(order):
            # What others committed is read when the turn comes.
            learned = learned_from_json(common)
            terms = Terms(report=VALUES, bounds=WEEKS, knowledge=world.knowledge(learned))
            pending = wanted if is_late else frozenset(order[place:])
            own = wish({each}, among=wanted, pending=pending)
            assert rows_by_day(klaviyo, own, terms) == {each: len(world.truth(each))}
            common = learned.to_json()
    together = sum(len(klaviyo.turns) for klaviyo in everyone)
    assert together == placed_by_one(world, wanted, 2)


def test_where_the_messages_are_known_totals_over_parts_tell_the_days() -> None:
    """A further metric asks for two totals, not for one and both its halves again."""
    world = World({"b": {day(8): 10, day(9): 5}}, {"b": Spread(days(8, 9))})
    terms = Terms(report=VALUES, bounds=WEEKS, knowledge=world.knowledge(Learned()))
    first = Klaviyo(world)
    rows_by_day(first, wish(WEEKS), terms)
    assert len(first.turns) == 3
    second = Klaviyo(world, asked=first.asked)
    assert rows_by_day(second, wish(WEEKS), terms) == {
        when: len(world.truth(when)) for when in WEEKS
    }
    assert second.frames == [days(9, 62), days(0, 8)]


def test_what_siblings_are_served_by_is_told_without_a_day() -> None:
    """What was learned after a run's own days were finished is handed on to be kept."""
    world = World({"b": {day(8): 10, day(9): 5}}, {"b": Spread(days(8, 9))})
    terms = Terms(report=VALUES, bounds=WEEKS, knowledge=world.knowledge(Learned()))
    mine = wish({day(20)}, among=frozenset(days(8, 20)), pending=frozenset(days(8, 20)))
    found = list(walk(mine, terms, Klaviyo(world)))
    assert [(list(each.rows), each.requests) for each in found] == [([day(20)], 1), ([], 3)]
