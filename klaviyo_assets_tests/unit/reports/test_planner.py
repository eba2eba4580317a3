"""One metric's days are completed with the fewest requests, cached responses first."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from klaviyo_assets.model.report import DateRange, ReportEndpoint
from klaviyo_assets.reports.bisect import ReportQuery, TimedRow
from klaviyo_assets.reports.planner import (
    CacheView,
    PartitionRequest,
    PlannedQuery,
    PlannerInputs,
    ReportResult,
    resolve_days,
)
from klaviyo_assets.reports.send_schedule import (
    SendDays,
    send_days_from_json,
)
from klaviyo_assets.streams.reports import CAMPAIGN_VALUES_REPORTS, FLOW_SERIES_REPORTS
from klaviyo_assets_tests.unit.reports.simulated_account import (
    REQUESTED_AT,
    SimulatedAccount,
    day_of_year,
    days_of_year,
)
from klaviyo_assets_tests.unit.reports.test_allocation import worlds

YEAR = days_of_year(0, 364)
WEEKS = days_of_year(0, 62)


def report(of: object) -> ReportEndpoint:
    """Return a stream's report."""
    assert isinstance(of, ReportEndpoint)
    return of


SERIES = PlannerInputs(report=report(FLOW_SERIES_REPORTS.source), bounds=YEAR, knowledge=None)
VALUES = report(CAMPAIGN_VALUES_REPORTS.source)


@dataclass(slots=True)
class Klaviyo:
    """Answers from a world, keeps what it answered, and counts."""

    world: SimulatedAccount
    now: datetime = REQUESTED_AT
    is_series: bool = False
    requested: set[DateRange] = field(default_factory=set[DateRange])
    stored: dict[ReportQuery, ReportResult] = field(default_factory=dict[ReportQuery, ReportResult])
    turns: list[PlannedQuery] = field(default_factory=list[PlannedQuery])

    def fetch(
        self, choose_query: Callable[[CacheView], PlannedQuery]
    ) -> tuple[PlannedQuery, ReportResult]:
        """Return a kept answer where one will do."""
        times = {query: result.fetched_at for query, result in self.stored.items()}
        turn = choose_query(CacheView(times, self.requested))
        part = turn.query
        if part in times and times[part] > turn.newer_than:
            return turn, replace(self.stored[part], requests=0)
        self.turns.append(turn)
        rows = self.series(part.date_range) if self.is_series else self.world.respond(part)
        answered = ReportResult(rows=rows, fetched_at=self.now, requests=1)
        self.stored[part] = answered
        if not part.message_ids:
            self.requested.add(part.date_range)
        return turn, answered

    def cached_results(self, planned: PlannedQuery) -> list[tuple[ReportQuery, Sequence[TimedRow]]]:
        """Return what was answered about parts of a turn's time frame."""
        return [
            (query, result.rows)
            for query, result in self.stored.items()
            if query.date_range.is_within(planned.query.date_range)
            and result.fetched_at > planned.newer_than
        ]

    def lock_allocation(self) -> AbstractContextManager[None]:
        """Keep nobody out: there is nobody."""
        return nullcontext()

    def series(self, when: DateRange) -> list[TimedRow]:
        """Return one row a message and day."""
        found = (
            (each, self.world.build_row(name, [each]))
            for name in self.world.recipients_by_day
            for each in when
        )
        return [replace(row, row=replace(row.row, day=each)) for each, row in found if row]

    @property
    def frames(self) -> list[DateRange]:
        """Return the time frames of all requests so far."""
        return [turn.query.date_range for turn in self.turns]


def rows_by_day(
    klaviyo: Klaviyo, change: PartitionRequest, terms: PlannerInputs
) -> dict[date, int]:
    """Return how many rows each finished day had."""
    return {
        when: len(rows)
        for finished in resolve_days(change, terms, klaviyo)
        for when, rows in finished.rows.items()
    }


def change(wanted: DateRange | set[date] | frozenset[date], **more: object) -> PartitionRequest:
    """Return a request for the days of the metric."""
    return replace(PartitionRequest(metric_id="m", days=frozenset(wanted)), **more)


@given(st.sets(st.integers(-5, 370).map(day_of_year), max_size=100))
def test_a_series_brings_each_day_once(wanted: set[date]) -> None:
    """Every day wanted within the bounds is finished once, with its rows and no others."""
    klaviyo = Klaviyo(
        SimulatedAccount(
            {"a": {day_of_year(3): 10, day_of_year(77): 5}, "b": {day_of_year(3): 1}}, {}
        ),
        is_series=True,
    )
    seen: list[date] = []
    for finished in resolve_days(change(wanted), SERIES, klaviyo):
        for when, rows in finished.rows.items():
            seen.append(when)
            assert {row.row.day for row in rows} <= {when}
            assert len(rows) == len(klaviyo.world.true_rows(when))
    assert sorted(seen) == sorted(each for each in wanted if each in YEAR)


def test_the_newest_days_come_first() -> None:
    """What is worth most is there first, should the quota end."""
    klaviyo = Klaviyo(SimulatedAccount({}, {}), is_series=True)
    seen = list(rows_by_day(klaviyo, change(YEAR), SERIES))
    assert seen == sorted(seen, reverse=True)
    assert len(klaviyo.turns) == 7


@pytest.mark.parametrize("order", [range(7), range(6, -1, -1), [3, 0, 6, 1, 5, 2, 4]])
def test_seven_sibling_runs_cost_one_request(order: Sequence[int]) -> None:
    """Runs of one day each are served by the response to the first one's request."""
    klaviyo = Klaviyo(SimulatedAccount({}, {}), is_series=True)
    for number in order:
        assert rows_by_day(klaviyo, change({day_of_year(200 + number)}), SERIES) == {
            day_of_year(200 + number): 0
        }
    assert len(klaviyo.turns) == 1


def test_chunks_of_a_backfill_cost_what_it_costs_whole() -> None:
    """Three runs that know each other's days send the seven time frames of the year."""
    klaviyo = Klaviyo(SimulatedAccount({}, {}), is_series=True)
    for chunk in (days_of_year(0, 179), days_of_year(180, 359), days_of_year(360, 364)):
        rows_by_day(klaviyo, change(chunk, sibling_days=frozenset(YEAR)), SERIES)
    assert len(klaviyo.turns) == 7


def test_who_asks_again_gets_a_later_answer() -> None:
    """A response that a finished run stored for a day does not serve that day again."""
    klaviyo = Klaviyo(SimulatedAccount({}, {}), is_series=True)
    week = days_of_year(300, 306)
    rows_by_day(klaviyo, change(week), SERIES)
    rows_by_day(klaviyo, change(week), SERIES)
    assert len(klaviyo.turns) == 1
    klaviyo.now += timedelta(hours=1)
    rows_by_day(klaviyo, change(week, delivered=dict.fromkeys(week, REQUESTED_AT)), SERIES)
    assert len(klaviyo.turns) == 2
    assert rows_by_day(klaviyo, change({day_of_year(310)}), SERIES) == {day_of_year(310): 0}
    assert len(klaviyo.turns) == 2


def test_without_siblings_a_frame_is_as_long_as_needed() -> None:
    """Without sibling runs longer time frames would only add pages."""
    klaviyo = Klaviyo(SimulatedAccount({}, {}), is_series=True)
    rows_by_day(klaviyo, change(days_of_year(300, 330), should_widen=False), SERIES)
    assert klaviyo.frames == [days_of_year(300, 330)]


def test_totals_bring_each_day_its_rows() -> None:
    """A year of totals costs one request, and two for a message over two days."""
    sent = {"a": {day_of_year(5): 10}, "b": {day_of_year(8): 10, day_of_year(9): 5}}
    world = SimulatedAccount(sent, {"a": days_of_year(5, 5), "b": days_of_year(8, 9)})
    klaviyo = Klaviyo(world)
    terms = PlannerInputs(report=VALUES, bounds=YEAR, knowledge=world.build_knowledge(SendDays()))
    costs: dict[date, tuple[int, int]] = {}
    for finished in resolve_days(change(YEAR), terms, klaviyo):
        assert finished.sharing_days == 365
        costs |= {when: (finished.requests, len(rows)) for when, rows in finished.rows.items()}
    assert costs[day_of_year(5)] == (1, 1)
    assert costs[day_of_year(9)] == (2, 1)
    assert costs[day_of_year(8)] == (3, 1)
    assert len(costs) == 365


def test_one_day_of_totals_without_siblings_costs_one() -> None:
    """A single day requested by itself needs no allocation, whatever was sent on it."""
    world = SimulatedAccount(
        {"b": {day_of_year(8): 10, day_of_year(9): 5}}, {"b": days_of_year(8, 9)}
    )
    klaviyo = Klaviyo(world)
    terms = PlannerInputs(report=VALUES, bounds=YEAR, knowledge=world.build_knowledge(SendDays()))
    assert rows_by_day(klaviyo, change({day_of_year(8)}, should_widen=False), terms) == {
        day_of_year(8): 1
    }
    assert len(klaviyo.turns) == 1


def test_differences_are_passed_on() -> None:
    """Totals that do not add up are reported with their days."""
    world = SimulatedAccount(
        {"b": {day_of_year(8): 10, day_of_year(20): 5}}, {"b": days_of_year(8, 9)}
    )
    terms = PlannerInputs(report=VALUES, bounds=YEAR, knowledge=world.build_knowledge(SendDays()))
    notes = [
        note for each in resolve_days(change(YEAR), terms, Klaviyo(world)) for note in each.warnings
    ]
    assert "recipients 10, not 15" in notes[0]


def placed_by_one(world: SimulatedAccount, wanted: frozenset[date], metrics: int) -> int:
    """Return what one run over all days asks for some metrics."""
    terms = PlannerInputs(report=VALUES, bounds=WEEKS, knowledge=world.build_knowledge(SendDays()))
    requested: set[DateRange] = set()
    everyone = [Klaviyo(world, requested=requested) for _ in range(metrics)]
    for klaviyo in everyone:
        assert rows_by_day(klaviyo, change(wanted), terms).keys() == wanted
    return sum(len(klaviyo.turns) for klaviyo in everyone)


# Nobody knows when it went out: on the eve of what is wanted, too.
@example(
    world=SimulatedAccount(
        recipients_by_day={"m0": {day_of_year(55): 1, day_of_year(56): 1}},
        possible_days={"m0": None},
        requests=[],
    ),
    order=[day_of_year(56), day_of_year(57)],
    is_late=True,
)
# Answers kept tell of a day between those wanted; known of one run, it would cost another more.
@example(
    world=SimulatedAccount(
        recipients_by_day={"m0": dict.fromkeys(days_of_year(31, 33), 1)},
        possible_days={"m0": None},
        requests=[],
    ),
    order=[day_of_year(30), day_of_year(33)],
    is_late=True,
)
@given(
    world=worlds(),
    order=st.lists(st.integers(0, 62).map(day_of_year), min_size=1, max_size=7, unique=True),
    is_late=st.booleans(),
)
def test_siblings_that_take_turns_cost_what_one_run_costs(
    *, world: SimulatedAccount, order: list[date], is_late: bool
) -> None:
    """Runs of a day each, in any order of metrics, together send the requests of one run.

    Also where the backfill learns `is_late`, after all of them, which days are finished.
    """
    wanted = frozenset(order)
    requested: set[DateRange] = set()
    everyone = [Klaviyo(world, requested=requested) for _ in range(2)]
    common: object = None
    for klaviyo in everyone:
        for place, each in enumerate(order):
            # What others committed is read when the turn comes.
            learned = send_days_from_json(common)
            terms = PlannerInputs(
                report=VALUES, bounds=WEEKS, knowledge=world.build_knowledge(learned)
            )
            pending = wanted if is_late else frozenset(order[place:])
            own = change({each}, sibling_days=wanted, pending_days=pending)
            assert rows_by_day(klaviyo, own, terms) == {each: len(world.true_rows(each))}
            common = learned.to_json()
    together = sum(len(klaviyo.turns) for klaviyo in everyone)
    assert together == placed_by_one(world, wanted, 2)


def test_where_the_messages_are_known_totals_over_parts_tell_the_days() -> None:
    """A further metric needs two totals, not one and both its halves again."""
    world = SimulatedAccount(
        {"b": {day_of_year(8): 10, day_of_year(9): 5}}, {"b": days_of_year(8, 9)}
    )
    terms = PlannerInputs(report=VALUES, bounds=WEEKS, knowledge=world.build_knowledge(SendDays()))
    first = Klaviyo(world)
    rows_by_day(first, change(WEEKS), terms)
    assert len(first.turns) == 3
    second = Klaviyo(world, requested=first.requested)
    assert rows_by_day(second, change(WEEKS), terms) == {
        when: len(world.true_rows(when)) for when in WEEKS
    }
    assert second.frames == [days_of_year(9, 62), days_of_year(0, 8)]


def test_what_siblings_are_served_by_is_told_without_a_day() -> None:
    """What is learned after a run's own days were complete is passed on to be stored."""
    world = SimulatedAccount(
        {"b": {day_of_year(8): 10, day_of_year(9): 5}}, {"b": days_of_year(8, 9)}
    )
    terms = PlannerInputs(report=VALUES, bounds=WEEKS, knowledge=world.build_knowledge(SendDays()))
    mine = change(
        {day_of_year(20)},
        sibling_days=frozenset(days_of_year(8, 20)),
        pending_days=frozenset(days_of_year(8, 20)),
    )
    found = list(resolve_days(mine, terms, Klaviyo(world)))
    assert [(list(each.rows), each.requests) for each in found] == [([day_of_year(20)], 1), ([], 3)]
