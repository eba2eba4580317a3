"""Days that are known are told apart with few time frames."""

from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.sync.reports.stretches import stretches
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
