"""Facts of report partitions survive being packed, and stay small."""

import json
import random
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.errors import CorruptFileError
from klaviyo_assets.lake.delta.state import (
    METRIC_REFUSALS_KEY,
    PARTITION_STATES_KEY,
    MetricRefusal,
    PartitionState,
    merge_partition_states,
    pack_partition_states,
    read_metric_refusals,
    read_partition_states,
    serialize_metric_refusal,
    unpack_partition_states,
)
from klaviyo_assets.model.report import ReportPartition

MOMENTS = st.datetimes(
    datetime(1971, 1, 1),  # noqa: DTZ001 - the zone is given beside
    datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
).map(lambda moment: moment.replace(microsecond=0))
FACTS = st.builds(
    PartitionState, fetched_at=MOMENTS, is_final=st.booleans(), rows=st.integers(0, 10**6)
)
DAYS = st.dictionaries(st.dates(date(1990, 1, 1), date(2100, 1, 1)), FACTS, max_size=20)


@given(DAYS)
def test_packed_facts_come_back(days: dict[date, PartitionState]) -> None:
    """Whatever days there are, in whatever order, each comes back with its own facts."""
    assert unpack_partition_states(pack_partition_states(days)) == days


@given(before=DAYS, after=DAYS, other=DAYS)
def test_new_facts_replace_those_of_their_partitions_alone(
    before: dict[date, PartitionState],
    after: dict[date, PartitionState],
    other: dict[date, PartitionState],
) -> None:
    """A partition fetched again has its new facts; all other days and metrics keep theirs."""
    known = {ReportPartition("A", day): each for day, each in before.items()}
    known |= {ReportPartition("B", day): each for day, each in other.items()}
    state = {PARTITION_STATES_KEY: merge_partition_states({}, known, stream="s")}
    fresh = {ReportPartition("A", day): each for day, each in after.items()}
    written = json.loads(
        json.dumps({PARTITION_STATES_KEY: merge_partition_states(state, fresh, stream="s")})
    )
    assert read_partition_states(written, stream="s") == known | fresh


def test_fractions_of_a_second_are_left_off() -> None:
    """A time is stored to the second, rounded down."""
    moment = datetime(2026, 11, 23, 1, 2, 3, 999_999, tzinfo=UTC)
    [stored] = unpack_partition_states(
        pack_partition_states(
            {date(2026, 11, 1): PartitionState(fetched_at=moment, is_final=True, rows=1)}
        )
    ).values()
    assert stored.fetched_at == moment.replace(microsecond=0)


def test_three_years_of_a_metric_stay_small() -> None:
    """With every day final at another moment, a commit carries four bytes a partition."""
    luck = random.Random(1)
    first, moment = date(2024, 1, 1), datetime(2024, 2, 1, 3, tzinfo=UTC)
    days = {
        first + timedelta(days=number): PartitionState(
            fetched_at=moment + timedelta(days=number, seconds=luck.randrange(120)),
            is_final=number < 1065,
            rows=luck.randrange(60),
        )
        for number in range(1095)
    }
    assert len(pack_partition_states(days)) < 4 * len(days)


@pytest.mark.parametrize(
    "text", ["", "}", "not base85 \x7f", "c$|e-0RR91", pack_partition_states({})[:-4]]
)
def test_partition_state_that_cannot_be_read_is_reported(text: str) -> None:
    """Rubbish is neither believed nor taken for nothing: everything would be fetched again."""
    with pytest.raises(CorruptFileError, match="state of days"):
        read_partition_states({PARTITION_STATES_KEY: {"A": text}}, stream="s")


def test_a_state_without_facts_has_none() -> None:
    """A table that holds no partition yet is one whose partitions are all missing."""
    assert read_partition_states({}, stream="s") == {}
    assert read_metric_refusals({}) == {}


def test_a_refusal_is_read_as_it_was_written() -> None:
    """Day, reason and whether there is such a metric; the first release wrote the day alone."""
    refusal = MetricRefusal(refused_on=date(2026, 11, 2), reason="not so", is_known=False)
    state = json.loads(json.dumps({"A": serialize_metric_refusal(refusal), "B": "2026-10-01"}))
    assert read_metric_refusals({METRIC_REFUSALS_KEY: state}) == {
        "A": refusal,
        "B": MetricRefusal(refused_on=date(2026, 10, 1), reason="", is_known=True),
    }
