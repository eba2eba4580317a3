"""Totals are placed on the days that the messages were sent, with few questions."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from klaviyo_assets.errors import MalformedPageError
from klaviyo_assets.model.report import DateRange
from klaviyo_assets.reports.allocation import DayAllocator
from klaviyo_assets.reports.bisect import TimedRow
from klaviyo_assets.reports.send_schedule import (
    SendDays,
    send_days_from_json,
)
from klaviyo_assets_tests.unit.reports.simulated_account import (
    SimulatedAccount,
    day_of_year,
    days_of_year,
    run_allocation,
)

YEAR = days_of_year(0, 364)


@st.composite
def worlds(draw: st.DrawFn) -> SimulatedAccount:
    """Draw messages sent on one to four neighbouring days, under claims that hold them."""
    sent: dict[str, dict[date, int]] = {}
    claims: dict[str, DateRange | None] = {}
    for number in range(draw(st.integers(0, 12))):
        name = f"m{number}"
        first = draw(st.integers(0, 57))
        counts = draw(st.lists(st.integers(0, 300), min_size=1, max_size=3))
        sent[name] = {day_of_year(first + n): count for n, count in enumerate(counts) if count}
        vague = days_of_year(max(0, first - 1), first + len(counts) - 1)
        claims[name] = draw(
            st.sampled_from(
                [
                    days_of_year(first, first) if len(counts) == 1 else vague,
                    vague,
                    None,
                ]
            )
        )
    return SimulatedAccount(sent, claims)


@st.composite
def false_accounts(draw: st.DrawFn) -> SimulatedAccount:
    """Draw messages sent on any three days, under claims that need not hold one of them."""
    sent: dict[str, dict[date, int]] = {}
    claims: dict[str, DateRange | None] = {}
    for number in range(draw(st.integers(0, 5))):
        name = f"m{number}"
        when = draw(st.sets(st.integers(0, 62), max_size=3))
        sent[name] = {day_of_year(each): draw(st.integers(1, 9)) for each in when}
        first = draw(st.integers(0, 60))
        claims[name] = draw(st.sampled_from([days_of_year(first, first + 2), None]))
    return SimulatedAccount(sent, claims)


frames = days_of_year(0, 62)
some_days = st.sets(st.integers(0, 62).map(day_of_year), min_size=1, max_size=63)


def beside_its_stretch() -> SimulatedAccount:
    """Return two messages of unknown days; one was sent beside the days that are looked at, too."""
    return SimulatedAccount(
        {"wide": {day_of_year(43): 1, day_of_year(44): 1}, "old": {day_of_year(0): 1}}, {}
    )


@given(worlds(), some_days)
@example(beside_its_stretch(), {day_of_year(n) for n in (0, 1, 44, 45)})
@example(beside_its_stretch(), {day_of_year(n) for n in (0, 1, 44, 47)})
def test_every_day_has_exactly_its_rows(world: SimulatedAccount, wanted: set[date]) -> None:
    """Whatever was sent when, each day wanted ends with Klaviyo's own rows for that day."""
    placing = DayAllocator(
        frames, world.build_rows(frames), wanted=wanted, knowledge=world.build_knowledge()
    )
    assert run_allocation(placing, world) == {each: world.true_rows(each) for each in wanted}
    assert placing.state.warnings == []


@given(worlds(), some_days, some_days)
@example(
    SimulatedAccount({"m0": {day_of_year(2): 1}}, {"m0": None}),
    {day_of_year(0), day_of_year(3)},
    {day_of_year(2)},
)
def test_what_one_metric_taught_spares_the_others(
    world: SimulatedAccount, first: set[date], second: set[date]
) -> None:
    """With the learned send days, stored and read back, the next metric sends no more requests."""
    learned = SendDays()
    world.start_allocation(frames, first, world.build_knowledge(learned))
    spent = len(world.requests)
    again = send_days_from_json(learned.to_json())
    placing = DayAllocator(
        frames,
        world.build_rows(frames),
        wanted=first | second,
        knowledge=world.build_knowledge(again),
    )
    assert run_allocation(placing, world) == {
        each: world.true_rows(each) for each in first | second
    }
    if second <= first:
        assert len(world.requests) - spent <= spent


@given(worlds(), some_days)
def test_never_more_than_a_question_a_day_and_one(
    world: SimulatedAccount, wanted: set[date]
) -> None:
    """Halving and single days together never cost more than two walks over the days."""
    world.start_allocation(frames, wanted, world.build_knowledge())
    assert len(world.requests) <= 2 * len(frames)


def test_messages_of_one_day_cost_nothing() -> None:
    """A thousand messages, each sent within one day, are placed by the total alone."""
    sent = {f"m{n}": {day_of_year(n % 365): 10 + n} for n in range(1000)}
    world = SimulatedAccount(
        sent, {name: DateRange(min(when), min(when)) for name, when in sent.items()}
    )
    placing = world.start_allocation(YEAR, YEAR, world.build_knowledge())
    assert world.requests == []
    assert not placing.take_finished_days()


def test_all_spread_messages_of_a_day_share_its_question() -> None:
    """Two messages over the same two days cost two questions, each for one day and both."""
    sent = {name: {day_of_year(5): 10, day_of_year(6): 20} for name in ("a", "b")}
    world = SimulatedAccount(sent, {name: days_of_year(5, 6) for name in sent})
    world.start_allocation(YEAR, YEAR, world.build_knowledge())
    assert [(part.date_range, part.message_ids) for part in world.requests] == [
        (days_of_year(6, 6), ("a", "b")),
        (days_of_year(5, 5), ("a", "b")),
    ]


def test_a_day_that_has_all_ends_the_search() -> None:
    """A message that could have run past midnight but did not costs one question, not two."""
    world = SimulatedAccount({"a": {day_of_year(6): 20}}, {"a": days_of_year(5, 6)})
    world.start_allocation(YEAR, YEAR, world.build_knowledge())
    assert len(world.requests) == 1


def test_learned_days_are_told_apart_in_stretches() -> None:
    """Twenty messages over two days each cost the second metric 21 questions instead of 40."""
    sent = {f"m{n}": {day_of_year(10 * n): 10, day_of_year(10 * n + 1): 20} for n in range(1, 21)}
    world = SimulatedAccount(
        sent,
        {name: days_of_year(10 * n, 10 * n + 1) for n, name in enumerate(sent, 1)},
    )
    learned = SendDays()
    world.start_allocation(YEAR, YEAR, world.build_knowledge(learned))
    assert len(world.requests) == 40
    world.requests.clear()
    placing = DayAllocator(
        YEAR, world.build_rows(YEAR), wanted=set(YEAR), knowledge=world.build_knowledge(learned)
    )
    assert run_allocation(placing, world) == {each: world.true_rows(each) for each in YEAR}
    assert len(world.requests) == 21


def test_unlisted_messages_are_found_together() -> None:
    """Three messages without a campaign, sent on one day, cost nine requests instead of 27."""
    sent = {name: {day_of_year(200): 10} for name in ("a", "b", "c")}
    world = SimulatedAccount(sent, {})
    world.start_allocation(YEAR, YEAR, world.build_knowledge())
    assert len(world.requests) <= 9


def test_hundreds_of_unlisted_messages_are_asked_for_without_a_filter() -> None:
    """Where one filter cannot hold them, one question without any serves them all."""
    world = SimulatedAccount({f"m{n:03}": {day_of_year(n % 3): 10} for n in range(250)}, {})
    placing = world.start_allocation(
        days_of_year(0, 2), days_of_year(0, 2), world.build_knowledge()
    )
    assert len(world.requests) == 2
    assert all(not part.message_ids for part in world.requests)
    assert not placing.state.open_days()


def test_one_day_alone_needs_no_search() -> None:
    """The total over one day is that day's, whatever the campaigns claim."""
    world = SimulatedAccount(
        {"a": {day_of_year(5): 10, day_of_year(6): 20}, "b": {day_of_year(5): 7}},
        {"b": days_of_year(99, 99)},
    )
    placing = DayAllocator(
        days_of_year(5, 5),
        world.build_rows(days_of_year(5, 5)),
        wanted={day_of_year(5)},
        knowledge=world.build_knowledge(),
    )
    assert run_allocation(placing, world) == {day_of_year(5): world.true_rows(day_of_year(5))}
    assert world.requests == []


def test_days_of_nobody_are_finished_at_once() -> None:
    """Days without an unfinished message are complete before any further request."""
    sent = {"a": {day_of_year(5): 10}, "b": {day_of_year(8): 10, day_of_year(9): 5}}
    world = SimulatedAccount(sent, {"a": days_of_year(5, 5), "b": days_of_year(8, 9)})
    placing = DayAllocator(
        days_of_year(0, 9),
        world.build_rows(days_of_year(0, 9)),
        wanted=set(days_of_year(0, 9)),
        knowledge=world.build_knowledge(),
    )
    finished = placing.take_finished_days()
    assert list(finished) == [day_of_year(n) for n in (7, 6, 5, 4, 3, 2, 1, 0)]
    assert [row.row.groupings["campaign_id"] for row in finished[day_of_year(5)]] == ["a"]


def part_at_an_edge() -> SimulatedAccount:
    """Return messages of which one has a part that another's wrong claim uncovered."""
    sent = {
        "a": {day_of_year(0): 1},
        "b": {day_of_year(2): 1, day_of_year(3): 1},
        "c": {day_of_year(0): 1, day_of_year(2): 1},
    }
    return SimulatedAccount(sent, {"a": days_of_year(0, 2), "c": days_of_year(4, 6)})


@given(false_accounts())
@example(part_at_an_edge())
def test_no_row_is_lost_whatever_is_claimed(world: SimulatedAccount) -> None:
    """Where campaigns claim other days than those of their messages, the totals tell."""
    placing = DayAllocator(
        frames, world.build_rows(frames), wanted=set(frames), knowledge=world.build_knowledge()
    )
    assert run_allocation(placing, world) == {each: world.true_rows(each) for each in frames}


@given(st.integers(0, 200), st.integers(1, 40))
def test_a_claim_that_is_wrong_is_found_out(first: int, later: int) -> None:
    """A message sent after its claimed days is requested until its total is allocated."""
    sent = {"a": {day_of_year(first): 40, day_of_year(first + 1 + later): 60}}
    world = SimulatedAccount(sent, {"a": days_of_year(first, first + 1)})
    placing = DayAllocator(
        YEAR, world.build_rows(YEAR), wanted=set(YEAR), knowledge=world.build_knowledge()
    )
    assert run_allocation(placing, world) == {each: world.true_rows(each) for each in YEAR}
    if later > 0:
        assert "recipients 40, not 100" in placing.state.warnings[0]


def test_a_message_sent_on_none_of_its_days_is_found() -> None:
    """A claim without a grain of truth loses no row."""
    world = SimulatedAccount({"a": {day_of_year(100): 10}}, {"a": days_of_year(5, 6)})
    placing = DayAllocator(
        YEAR, world.build_rows(YEAR), wanted=set(YEAR), knowledge=world.build_knowledge()
    )
    assert run_allocation(placing, world)[day_of_year(100)] == world.true_rows(day_of_year(100))


def test_more_sent_since_is_noticed() -> None:
    """Learned days count only while their sum is the total: what was sent later is found."""
    learned = SendDays()
    world = SimulatedAccount({"a": {day_of_year(5): 10, day_of_year(6): 20}}, {})
    world.start_allocation(YEAR, YEAR, world.build_knowledge(learned))
    world.recipients_by_day = {"a": {day_of_year(5): 10, day_of_year(6): 20, day_of_year(8): 30}}
    placing = DayAllocator(
        YEAR, world.build_rows(YEAR), wanted=set(YEAR), knowledge=world.build_knowledge(learned)
    )
    assert run_allocation(placing, world) == {each: world.true_rows(each) for each in YEAR}


class Moving(SimulatedAccount):
    """A world in which conversions arrive between the total and the questions about days."""

    def build_rows(self, days: DateRange, messages: Iterable[str] = ()) -> list[TimedRow]:
        """Return an answer; every filtered one has one conversion more."""
        found = super().build_rows(days, messages)
        return [replace_conversions(row) for row in found] if messages else found


def replace_conversions(timed: TimedRow) -> TimedRow:
    """Return the row with one conversion more."""
    more = {**timed.row.statistics, "conversions": (timed.row.statistics["conversions"] or 0) + 1}
    return replace(timed, row=replace(timed.row, statistics=more))


@pytest.mark.parametrize(("is_settled", "questions"), [(False, 2), (True, 4)])
def test_conversions_that_do_not_add_up_are_told(is_settled: bool, questions: int) -> None:  # noqa: FBT001
    """A difference is reported; days that should be final are requested one by one."""
    sent = {"a": {day_of_year(5): 70, day_of_year(9): 140}}
    learned = SendDays()
    SimulatedAccount(sent, {}).start_allocation(
        YEAR, YEAR, SimulatedAccount(sent, {}).build_knowledge(learned)
    )
    world = Moving(sent, {})
    knowledge = world.build_knowledge(learned, is_settled=is_settled)
    placing = world.start_allocation(YEAR, YEAR, knowledge)
    assert "conversions" in placing.state.warnings[0]
    assert len(world.requests) == questions


def test_messages_that_are_not_in_the_total_are_known_not_to_be() -> None:
    """A campaign that was stopped before it was sent costs no question, and is remembered."""
    learned = SendDays()
    spread = {("gone", "email"): days_of_year(5, 6), ("edge", "email"): days_of_year(364, 366)}
    knowledge = replace(
        SimulatedAccount({}, {}).build_knowledge(learned),
        spread_messages=spread,
        latest_settled_day=day_of_year(364),
    )
    DayAllocator(YEAR, [], wanted=set(YEAR), knowledge=knowledge)
    assert learned.ranges_without_sends(("gone", "email")) == (days_of_year(5, 6),)
    assert learned.ranges_without_sends(("edge", "email")) == (days_of_year(364, 364),)


def test_blank_messages_are_left_out_and_counted() -> None:
    """A message without numbers and campaign has no day; it is left out and counted."""
    world = SimulatedAccount({}, {})
    row = SimulatedAccount({"a": {day_of_year(1): 10}}, {}).build_rows(YEAR)[0]
    blank = replace(row, row=replace(row.row, statistics={"recipients": 0.0, "opens": None}))
    placing = DayAllocator(YEAR, [blank], wanted=set(YEAR), knowledge=world.build_knowledge())
    assert all(rows == {} for rows in run_allocation(placing, world).values())
    assert placing.state.warnings[0].startswith("1 messages without a recipient")


def test_two_rows_of_one_message_that_differ_are_refused() -> None:
    """A response that contradicts itself is refused; the same row twice counts once."""
    world = SimulatedAccount(
        {"a": {day_of_year(1): 10}, "b": {day_of_year(1): 20}}, {"a": days_of_year(1, 1)}
    )
    one, other = world.build_rows(YEAR)
    assert DayAllocator(
        YEAR, [one, one], wanted=set(YEAR), knowledge=world.build_knowledge()
    ).take_finished_days()
    twin = replace(other, row=replace(other.row, groupings=one.row.groupings))
    with pytest.raises(MalformedPageError, match="differ"):
        DayAllocator(YEAR, [one, twin], wanted=set(YEAR), knowledge=world.build_knowledge())
