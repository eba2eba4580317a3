"""Totals are placed on the days that the messages were sent, with few questions."""

from dataclasses import replace
from datetime import date

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from klaviyo_assets.errors import MalformedPageError
from klaviyo_assets.model.report import Days
from klaviyo_assets.sync.reports.learned import Learned, learned_from_json
from klaviyo_assets.sync.reports.place import Placing
from klaviyo_assets.sync.reports.sending import Sending, SentOn, Spread, Unknown
from klaviyo_assets.sync.reports.units import TimedRow
from klaviyo_assets_tests.unit.sync.reports.world import World, day, days, run

YEAR = days(0, 364)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draw messages sent on one to four neighbouring days, under claims that hold them."""
    sent: dict[str, dict[date, int]] = {}
    claims: dict[str, Sending] = {}
    for number in range(draw(st.integers(0, 12))):
        name = f"m{number}"
        first = draw(st.integers(0, 57))
        counts = draw(st.lists(st.integers(0, 300), min_size=1, max_size=3))
        sent[name] = {day(first + n): count for n, count in enumerate(counts) if count}
        vague = Spread(days(max(0, first - 1), first + len(counts) - 1))
        claims[name] = draw(
            st.sampled_from([SentOn(day(first)) if len(counts) == 1 else vague, vague, Unknown()])
        )
    return World(sent, claims)


@st.composite
def lies(draw: st.DrawFn) -> World:
    """Draw messages sent on any three days, under claims that need not hold one of them."""
    sent: dict[str, dict[date, int]] = {}
    claims: dict[str, Sending] = {}
    for number in range(draw(st.integers(0, 5))):
        name = f"m{number}"
        when = draw(st.sets(st.integers(0, 62), max_size=3))
        sent[name] = {day(each): draw(st.integers(1, 9)) for each in when}
        first = draw(st.integers(0, 60))
        claims[name] = draw(st.sampled_from([Spread(days(first, first + 2)), Unknown()]))
    return World(sent, claims)


frames = days(0, 62)
some_days = st.sets(st.integers(0, 62).map(day), min_size=1, max_size=63)


def beside_its_stretch() -> World:
    """Return two messages of unknown days; one was sent beside the days that are looked at, too."""
    return World({"wide": {day(43): 1, day(44): 1}, "old": {day(0): 1}}, {})


@given(worlds(), some_days)
@example(beside_its_stretch(), {day(n) for n in (0, 1, 44, 45)})
@example(beside_its_stretch(), {day(n) for n in (0, 1, 44, 47)})
def test_every_day_has_exactly_its_rows(world: World, wanted: set[date]) -> None:
    """Whatever was sent when, each day wanted ends with Klaviyo's own rows for that day."""
    placing = Placing(frames, world.rows(frames), wanted=wanted, knowledge=world.knowledge())
    assert run(placing, world) == {each: world.truth(each) for each in wanted}
    assert placing.board.notes == []


@given(worlds(), some_days, some_days)
def test_what_one_metric_taught_spares_the_others(
    world: World, first: set[date], second: set[date]
) -> None:
    """With what was learned, and read back, the next metric asks no more and is as exact."""
    learned = Learned()
    world.place(frames, first, world.knowledge(learned))
    spent = len(world.questions)
    again = learned_from_json(learned.to_json())
    placing = Placing(
        frames, world.rows(frames), wanted=first | second, knowledge=world.knowledge(again)
    )
    assert run(placing, world) == {each: world.truth(each) for each in first | second}
    if second <= first:
        assert len(world.questions) - spent <= spent


@given(worlds(), some_days)
def test_never_more_than_a_question_a_day_and_one(world: World, wanted: set[date]) -> None:
    """Halving and single days together never cost more than two walks over the days."""
    world.place(frames, wanted, world.knowledge())
    assert len(world.questions) <= 2 * len(frames)


def test_messages_of_one_day_cost_nothing() -> None:
    """A thousand messages, each sent within one day, are placed by the total alone."""
    sent = {f"m{n}": {day(n % 365): 10 + n} for n in range(1000)}
    world = World(sent, {name: SentOn(min(when)) for name, when in sent.items()})
    placing = world.place(YEAR, YEAR, world.knowledge())
    assert world.questions == []
    assert not placing.finished()


def test_all_spread_messages_of_a_day_share_its_question() -> None:
    """Two messages over the same two days cost two questions, each for one day and both."""
    sent = {name: {day(5): 10, day(6): 20} for name in ("a", "b")}
    world = World(sent, {name: Spread(days(5, 6)) for name in sent})
    world.place(YEAR, YEAR, world.knowledge())
    assert [(part.days, part.message_ids) for part in world.questions] == [
        (days(6, 6), ("a", "b")),
        (days(5, 5), ("a", "b")),
    ]


def test_a_day_that_has_all_ends_the_search() -> None:
    """A message that could have run past midnight but did not costs one question, not two."""
    world = World({"a": {day(6): 20}}, {"a": Spread(days(5, 6))})
    world.place(YEAR, YEAR, world.knowledge())
    assert len(world.questions) == 1


def test_learned_days_are_told_apart_in_stretches() -> None:
    """Twenty messages over two days each cost the second metric 21 questions instead of 40."""
    sent = {f"m{n}": {day(10 * n): 10, day(10 * n + 1): 20} for n in range(1, 21)}
    world = World(sent, {name: Spread(days(10 * n, 10 * n + 1)) for n, name in enumerate(sent, 1)})
    learned = Learned()
    world.place(YEAR, YEAR, world.knowledge(learned))
    assert len(world.questions) == 40
    world.questions.clear()
    placing = Placing(YEAR, world.rows(YEAR), wanted=set(YEAR), knowledge=world.knowledge(learned))
    assert run(placing, world) == {each: world.truth(each) for each in YEAR}
    assert len(world.questions) == 21


def test_unlisted_messages_are_found_together() -> None:
    """Three messages that no campaign tells of, sent on one day, cost nine questions, not 27."""
    sent = {name: {day(200): 10} for name in ("a", "b", "c")}
    world = World(sent, {})
    world.place(YEAR, YEAR, world.knowledge())
    assert len(world.questions) <= 9


def test_hundreds_of_unlisted_messages_are_asked_for_without_a_filter() -> None:
    """Where one filter cannot hold them, one question without any serves them all."""
    world = World({f"m{n:03}": {day(n % 3): 10} for n in range(250)}, {})
    placing = world.place(days(0, 2), days(0, 2), world.knowledge())
    assert len(world.questions) == 2
    assert all(not part.message_ids for part in world.questions)
    assert not placing.board.open_days()


def test_one_day_alone_needs_no_search() -> None:
    """The total over one day is that day's, whatever the campaigns claim."""
    world = World({"a": {day(5): 10, day(6): 20}, "b": {day(5): 7}}, {"b": SentOn(day(99))})
    placing = Placing(
        days(5, 5), world.rows(days(5, 5)), wanted={day(5)}, knowledge=world.knowledge()
    )
    assert run(placing, world) == {day(5): world.truth(day(5))}
    assert world.questions == []


def test_days_of_nobody_are_finished_at_once() -> None:
    """What no unfinished message touches is there before anything more is asked."""
    sent = {"a": {day(5): 10}, "b": {day(8): 10, day(9): 5}}
    world = World(sent, {"a": SentOn(day(5)), "b": Spread(days(8, 9))})
    placing = Placing(
        days(0, 9), world.rows(days(0, 9)), wanted=set(days(0, 9)), knowledge=world.knowledge()
    )
    finished = placing.finished()
    assert list(finished) == [day(n) for n in (7, 6, 5, 4, 3, 2, 1, 0)]
    assert [row.row.groupings["campaign_id"] for row in finished[day(5)]] == ["a"]


def part_at_an_edge() -> World:
    """Return messages of which one has a part that another's wrong claim uncovered."""
    sent = {"a": {day(0): 1}, "b": {day(2): 1, day(3): 1}, "c": {day(0): 1, day(2): 1}}
    return World(sent, {"a": Spread(days(0, 2)), "c": Spread(days(4, 6))})


@given(lies())
@example(part_at_an_edge())
def test_no_row_is_lost_whatever_is_claimed(world: World) -> None:
    """Where campaigns claim other days than those of their messages, the totals tell."""
    placing = Placing(frames, world.rows(frames), wanted=set(frames), knowledge=world.knowledge())
    assert run(placing, world) == {each: world.truth(each) for each in frames}


@given(st.integers(0, 200), st.integers(1, 40))
def test_a_claim_that_is_wrong_is_found_out(first: int, later: int) -> None:
    """A message that went on after the days it claims is asked for until its total is placed."""
    sent = {"a": {day(first): 40, day(first + 1 + later): 60}}
    world = World(sent, {"a": Spread(days(first, first + 1))})
    placing = Placing(YEAR, world.rows(YEAR), wanted=set(YEAR), knowledge=world.knowledge())
    assert run(placing, world) == {each: world.truth(each) for each in YEAR}
    if later > 0:
        assert "recipients 40, not 100" in placing.board.notes[0]


def test_a_message_sent_on_none_of_its_days_is_found() -> None:
    """A claim without a grain of truth loses no row."""
    world = World({"a": {day(100): 10}}, {"a": Spread(days(5, 6))})
    placing = Placing(YEAR, world.rows(YEAR), wanted=set(YEAR), knowledge=world.knowledge())
    assert run(placing, world)[day(100)] == world.truth(day(100))


def test_more_sent_since_is_noticed() -> None:
    """Learned days count only while their sum is the total: what was sent later is found."""
    learned = Learned()
    world = World({"a": {day(5): 10, day(6): 20}}, {})
    world.place(YEAR, YEAR, world.knowledge(learned))
    world.sent = {"a": {day(5): 10, day(6): 20, day(8): 30}}
    placing = Placing(YEAR, world.rows(YEAR), wanted=set(YEAR), knowledge=world.knowledge(learned))
    assert run(placing, world) == {each: world.truth(each) for each in YEAR}


class Moving(World):
    """A world in which conversions arrive between the total and the questions about days."""

    def rows(self, when: Days, messages: object = ()) -> list[TimedRow]:
        """Return an answer; every filtered one has one conversion more."""
        found = super().rows(when, messages)  # pyright: ignore[reportArgumentType]
        return [replace_conversions(row) for row in found] if messages else found


def replace_conversions(timed: TimedRow) -> TimedRow:
    """Return the row with one conversion more."""
    more = {**timed.row.statistics, "conversions": (timed.row.statistics["conversions"] or 0) + 1}
    return replace(timed, row=replace(timed.row, statistics=more))


@pytest.mark.parametrize(("is_settled", "questions"), [(False, 2), (True, 4)])
def test_conversions_that_do_not_add_up_are_told(is_settled: bool, questions: int) -> None:  # noqa: FBT001
    """A difference is noted; days that should have come to rest are asked for one by one."""
    sent = {"a": {day(5): 70, day(9): 140}}
    learned = Learned()
    World(sent, {}).place(YEAR, YEAR, World(sent, {}).knowledge(learned))
    world = Moving(sent, {})
    knowledge = world.knowledge(learned, is_settled=is_settled)
    placing = world.place(YEAR, YEAR, knowledge)
    assert "conversions" in placing.board.notes[0]
    assert len(world.questions) == questions


def test_messages_that_are_not_in_the_total_are_known_not_to_be() -> None:
    """A campaign that was stopped before it was sent costs no question, and is remembered."""
    learned = Learned()
    spread = {("gone", "email"): days(5, 6), ("edge", "email"): days(364, 366)}
    knowledge = replace(World({}, {}).knowledge(learned), spread=spread, lasting=day(364))
    Placing(YEAR, [], wanted=set(YEAR), knowledge=knowledge)
    assert learned.none(("gone", "email")) == (days(5, 6),)
    assert learned.none(("edge", "email")) == (days(364, 364),)


def test_blank_messages_are_left_out_and_counted() -> None:
    """A message without any number and without a campaign has no day, and is told of."""
    world = World({}, {})
    row = World({"a": {day(1): 10}}, {}).rows(YEAR)[0]
    blank = replace(row, row=replace(row.row, statistics={"recipients": 0.0, "opens": None}))
    placing = Placing(YEAR, [blank], wanted=set(YEAR), knowledge=world.knowledge())
    assert all(rows == {} for rows in run(placing, world).values())
    assert placing.board.notes[0].startswith("1 messages without a recipient")


def test_two_rows_of_one_message_that_differ_are_refused() -> None:
    """Nothing is guessed where an answer contradicts itself; the same row twice is one."""
    world = World({"a": {day(1): 10}, "b": {day(1): 20}}, {"a": SentOn(day(1))})
    one, other = world.rows(YEAR)
    assert Placing(YEAR, [one, one], wanted=set(YEAR), knowledge=world.knowledge()).finished()
    twin = replace(other, row=replace(other.row, groupings=one.row.groupings))
    with pytest.raises(MalformedPageError, match="differ"):
        Placing(YEAR, [one, twin], wanted=set(YEAR), knowledge=world.knowledge())
