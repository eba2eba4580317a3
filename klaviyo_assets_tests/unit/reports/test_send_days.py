"""What was learned of messages survives being written, and is united with what others learned."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.errors import ConfigError
from klaviyo_assets.reports.send_schedule import SendDays, send_days_from_json
from klaviyo_assets_tests.unit.reports.simulated_account import day_of_year, days_of_year

notes = st.lists(
    st.tuples(
        st.tuples(st.sampled_from(["m1", "a/b", ""]), st.sampled_from(["email", ""])),
        st.integers(0, 40),
        st.integers(0, 6),
        st.integers(0, 3),
    )
)


def learned_of(facts: list[tuple[tuple[str, str], int, int, int]]) -> SendDays:
    """Return what these notes make."""
    learned = SendDays()
    for unit, first, length, recipients in facts:
        last = first if recipients else first + length
        learned.record_recipients(unit, days_of_year(first, last), recipients)
    return learned


@given(notes)
def test_it_survives_being_written(facts: list[tuple[tuple[str, str], int, int, int]]) -> None:
    """Its JSON, as text, reads back as the same."""
    learned = learned_of(facts)
    again = send_days_from_json(json.loads(json.dumps(learned.to_json())))
    assert again.to_json() == learned.to_json()


@given(notes, notes)
def test_the_later_word_counts(
    older: list[tuple[tuple[str, str], int, int, int]],
    newer: list[tuple[tuple[str, str], int, int, int]],
) -> None:
    """Taking what another learned equals having noted it afterwards."""
    united = learned_of(older)
    united.merge(learned_of(newer))
    for unit in learned_of(newer).message_keys():
        for each, recipients in learned_of(newer).recipients_by_day(unit).items():
            assert united.recipients_by_day(unit)[each] == recipients


def test_stretches_without_recipients_grow_together() -> None:
    """What touches or overlaps becomes one stretch, so that the notes stay short."""
    learned = SendDays()
    for first, last in ((5, 7), (0, 2), (3, 4), (20, 21)):
        learned.record_recipients(("m", "email"), days_of_year(first, last), 0)
    assert learned.ranges_without_sends(("m", "email")) == (
        days_of_year(0, 7),
        days_of_year(20, 21),
    )


def test_a_day_without_is_no_day_with() -> None:
    """A day that turned out empty no longer counts with its former recipients."""
    learned = SendDays()
    learned.record_recipients(("m", "email"), days_of_year(3, 3), 10)
    learned.record_recipients(("m", "email"), days_of_year(2, 4), 0)
    assert dict(learned.recipients_by_day(("m", "email"))) == {}
    learned.record_recipients(("m", "email"), days_of_year(9, 9), 5)
    assert dict(learned.recipients_by_day(("m", "email"))) == {day_of_year(9): 5}


@pytest.mark.parametrize("written", ["text", {"m/email": {"sent": {}}}, {"m/email": {"sent": []}}])
def test_what_another_version_wrote_is_refused(written: object) -> None:
    """Unreadable notes are a clear error, never a guess."""
    with pytest.raises(ConfigError, match="another version"):
        send_days_from_json(written)


def test_none_is_nothing() -> None:
    """A lake that never learned anything knows nothing."""
    assert send_days_from_json(None).to_json() == {}
