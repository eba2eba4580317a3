"""What was learned of messages survives being written, and is united with what others learned."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.errors import ConfigError
from klaviyo_assets.sync.reports.learned import Learned, learned_from_json
from klaviyo_assets_tests.unit.sync.reports.world import day, days

notes = st.lists(
    st.tuples(
        st.tuples(st.sampled_from(["m1", "a/b", ""]), st.sampled_from(["email", ""])),
        st.integers(0, 40),
        st.integers(0, 6),
        st.integers(0, 3),
    )
)


def learned_of(facts: list[tuple[tuple[str, str], int, int, int]]) -> Learned:
    """Return what these notes make."""
    learned = Learned()
    for unit, first, length, recipients in facts:
        last = first if recipients else first + length
        learned.note(unit, days(first, last), recipients)
    return learned


@given(notes)
def test_it_survives_being_written(facts: list[tuple[tuple[str, str], int, int, int]]) -> None:
    """Its JSON, as text, reads back as the same."""
    learned = learned_of(facts)
    again = learned_from_json(json.loads(json.dumps(learned.to_json())))
    assert again.to_json() == learned.to_json()


@given(notes, notes)
def test_the_later_word_counts(
    older: list[tuple[tuple[str, str], int, int, int]],
    newer: list[tuple[tuple[str, str], int, int, int]],
) -> None:
    """Taking what another learned equals having noted it afterwards."""
    united = learned_of(older)
    united.take(learned_of(newer))
    for unit in learned_of(newer).units():
        for each, recipients in learned_of(newer).sent(unit).items():
            assert united.sent(unit)[each] == recipients


def test_stretches_without_recipients_grow_together() -> None:
    """What touches or overlaps becomes one stretch, so that the notes stay short."""
    learned = Learned()
    for first, last in ((5, 7), (0, 2), (3, 4), (20, 21)):
        learned.note(("m", "email"), days(first, last), 0)
    assert learned.none(("m", "email")) == (days(0, 7), days(20, 21))


def test_a_day_without_is_no_day_with() -> None:
    """A day that turned out empty no longer counts with its former recipients."""
    learned = Learned()
    learned.note(("m", "email"), days(3, 3), 10)
    learned.note(("m", "email"), days(2, 4), 0)
    assert dict(learned.sent(("m", "email"))) == {}
    learned.note(("m", "email"), days(9, 9), 5)
    assert dict(learned.sent(("m", "email"))) == {day(9): 5}


@pytest.mark.parametrize("written", ["text", {"m/email": {"sent": {}}}, {"m/email": {"sent": []}}])
def test_what_another_version_wrote_is_refused(written: object) -> None:
    """Unreadable notes are a clear error, never a guess."""
    with pytest.raises(ConfigError, match="another version"):
        learned_from_json(written)


def test_none_is_nothing() -> None:
    """A lake that never learned anything knows nothing."""
    assert learned_from_json(None).to_json() == {}
