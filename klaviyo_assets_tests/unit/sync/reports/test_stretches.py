"""Days that are known are told apart with few time frames."""

from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.sync.reports.cover import runs
from klaviyo_assets.sync.reports.stretches import pieces, stretches
from klaviyo_assets_tests.unit.sync.reports.world import day, days

names = st.dictionaries(
    st.sampled_from("abcdef"), st.sets(st.integers(0, 25).map(day), min_size=1, max_size=3)
)


@given(names, st.sets(st.integers(0, 25).map(day)))
def test_each_pair_is_asked_for_once_and_alone(
    sent: dict[str, set[date]], interest: set[date]
) -> None:
    """A name has one day in each time frame that it is asked for, and every day its turn."""
    wanted = {name: when & interest for name, when in sent.items()}
    found = stretches(sent, wanted)
    for frame, asked in found:
        assert all(sent[name] & set(frame) == {when} for name, when in asked.items())
    pairs = [(name, when) for _, asked in found for name, when in asked.items()]
    assert sorted(pairs) == sorted((name, when) for name in sent for when in wanted[name])


@given(names)
def test_never_more_than_one_a_day(sent: dict[str, set[date]]) -> None:
    """It is never dearer than asking day by day."""
    assert len(stretches(sent, sent)) <= len({when for each in sent.values() for when in each})


def test_the_drawing_holds() -> None:
    """Two messages over four days are told apart by two time frames."""
    sent = {"a": {day(0), day(7)}, "b": {day(4), day(8)}}
    assert [frame for frame, _ in stretches(sent, sent)] == [days(7, 8), days(0, 4)]


def test_nothing_of_interest_costs_nothing() -> None:
    """Names without a day wanted are not asked for."""
    assert stretches({"a": {day(0), day(7)}}, {"a": set()}) == ()


@given(names, st.sets(st.integers(0, 25).map(day)))
def test_pieces_make_up_the_whole_and_tell_days_apart(
    sent: dict[str, set[date]], interest: set[date]
) -> None:
    """No piece holds a day of interest with another day of the same name; no day is left out."""
    found = pieces(days(2, 22), sent, interest)
    assert list(runs([when for piece in found for when in piece])) == [days(2, 22)]
    assert sum(map(len, found)) == 21
    for piece in found:
        for when in sent.values():
            inside = when & set(piece)
            assert len(inside) <= 1 or inside.isdisjoint(interest)


@given(names)
def test_pieces_cost_less_than_the_whole_and_its_stretches(sent: dict[str, set[date]]) -> None:
    """Totals over pieces are never more than the days apart, and one without any days."""
    twice = {name: when for name, when in sent.items() if len(when) > 1}
    assert len(pieces(days(0, 25), sent, days(0, 25))) <= max(1, len(stretches(twice, twice)))


def test_the_drawing_of_pieces_holds() -> None:
    """Two messages over four days are told apart by two totals."""
    sent = {"a": {day(0), day(7)}, "b": {day(4), day(8)}}
    assert pieces(days(0, 10), sent, days(0, 10)) == (days(5, 10), days(0, 4))
