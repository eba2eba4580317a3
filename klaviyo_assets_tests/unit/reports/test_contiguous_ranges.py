"""Known days are distinguished with few time frames."""

from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.model.report import contiguous_ranges
from klaviyo_assets.reports.calendar import choose_isolating_timeframes, split_timeframe
from klaviyo_assets_tests.unit.reports.simulated_account import day_of_year, days_of_year

names = st.dictionaries(
    st.sampled_from("abcdef"), st.sets(st.integers(0, 25).map(day_of_year), min_size=1, max_size=3)
)


@given(names, st.sets(st.integers(0, 25).map(day_of_year)))
def test_each_pair_is_asked_for_once_and_alone(
    sent: dict[str, set[date]], interest: set[date]
) -> None:
    """A name has one day in each time frame requested for it, and each day is in one of them."""
    wanted = {name: when & interest for name, when in sent.items()}
    found = choose_isolating_timeframes(sent, wanted)
    for frame, requested in found:
        assert all(sent[name] & set(frame) == {when} for name, when in requested.items())
    pairs = [(name, when) for _, requested in found for name, when in requested.items()]
    assert sorted(pairs) == sorted((name, when) for name in sent for when in wanted[name])


@given(names)
def test_never_more_than_one_a_day(sent: dict[str, set[date]]) -> None:
    """It is never dearer than asking day by day."""
    assert len(choose_isolating_timeframes(sent, sent)) <= len(
        {when for each in sent.values() for when in each}
    )


def test_the_drawing_holds() -> None:
    """Two messages over four days are distinguished by two time frames."""
    sent = {"a": {day_of_year(0), day_of_year(7)}, "b": {day_of_year(4), day_of_year(8)}}
    assert [frame for frame, _ in choose_isolating_timeframes(sent, sent)] == [
        days_of_year(7, 8),
        days_of_year(0, 4),
    ]


def test_nothing_of_interest_costs_nothing() -> None:
    """Names without a requested day need no time frame."""
    assert choose_isolating_timeframes({"a": {day_of_year(0), day_of_year(7)}}, {"a": set()}) == ()


@given(names, st.sets(st.integers(0, 25).map(day_of_year)))
def test_pieces_make_up_the_whole_and_tell_days_apart(
    sent: dict[str, set[date]], interest: set[date]
) -> None:
    """No piece holds a day of interest with another day of the same name; no day is left out."""
    found = split_timeframe(days_of_year(2, 22), sent, interest)
    assert contiguous_ranges(when for piece in found for when in piece) == [days_of_year(2, 22)]
    assert sum(map(len, found)) == 21
    for piece in found:
        for when in sent.values():
            inside = when & set(piece)
            assert len(inside) <= 1 or inside.isdisjoint(interest)


@given(names)
def test_pieces_cost_less_than_the_whole_and_its_stretches(sent: dict[str, set[date]]) -> None:
    """Totals over pieces are never more than the days apart, and one without any days."""
    twice = {name: when for name, when in sent.items() if len(when) > 1}
    assert len(split_timeframe(days_of_year(0, 25), sent, days_of_year(0, 25))) <= max(
        1, len(choose_isolating_timeframes(twice, twice))
    )


def test_the_drawing_of_pieces_holds() -> None:
    """Two messages over four days are distinguished by two totals."""
    sent = {"a": {day_of_year(0), day_of_year(7)}, "b": {day_of_year(4), day_of_year(8)}}
    assert split_timeframe(days_of_year(0, 10), sent, days_of_year(0, 10)) == (
        days_of_year(5, 10),
        days_of_year(0, 4),
    )
