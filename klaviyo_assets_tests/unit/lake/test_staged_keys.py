"""Whether a key came twice is told by what was staged, and never told wrongly."""

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.lake.write import staging
from klaviyo_assets.lake.write.staging import StagedKeys

# One stage: for each partition that it touches, keys that are there once.
STAGES = st.lists(
    st.dictionaries(
        st.sampled_from(["day=2024-01-01", "day=2024-01-02"]),
        st.sets(st.integers(0, 30), min_size=1, max_size=5),
        min_size=1,
    ),
    max_size=5,
)


def rows_of(numbers: set[int]) -> pa.Table:
    """Return rows of these keys, in two chunks."""
    keys = [f"k{number:02}" for number in sorted(numbers)]
    return pa.table([pa.chunked_array([keys[:1], keys[1:]], pa.string())], names=["id"])


def noted(stages: list[dict[str, set[int]]], *key: str) -> StagedKeys:
    """Return what is known after these stages."""
    known = StagedKeys(key)
    for stage in stages:
        for partition, numbers in stage.items():
            known.add(partition, rows_of(numbers))
    return known


def came_twice(stages: list[dict[str, set[int]]], partition: str) -> bool:
    """Tell whether a key came to the partition in two stages."""
    return any(
        times > 1
        for times in Counter(
            number for stage in stages for number in stage.get(partition, ())
        ).values()
    )


@given(STAGES)
def test_keys_that_came_once_are_known_to_be_unique(stages: list[dict[str, set[int]]]) -> None:
    """Partition by partition, neither more nor less than what came."""
    known = noted(stages, "id")
    for partition in {each for stage in stages for each in stage}:
        assert known.has_unique_keys(partition) != came_twice(stages, partition)


@given(STAGES, st.integers(0, 60))
def test_beyond_the_bound_nothing_is_claimed(stages: list[dict[str, set[int]]], bound: int) -> None:
    """With memory for fewer keys than came, no partition with a repeated key passes as unique."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "MAX_STAGED_KEY_BYTES", bound)
        known = noted(stages, "id")
        for partition in {each for stage in stages for each in stage}:
            assert not (known.has_unique_keys(partition) and came_twice(stages, partition))


def test_memory_is_bounded() -> None:
    """What does not fit is let go of, and what comes afterwards is not kept either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "MAX_STAGED_KEY_BYTES", 40)
        known = noted([{"": {1, 2, 3, 4, 5}}, {"": {6, 7, 8, 9}}, {"": {10}}], "id")
    assert not known.keys_by_partition
    assert not known.has_unique_keys("")


def test_keys_of_two_columns_are_known_by_their_stages_alone() -> None:
    """One stage holds each key once; of two nothing is known."""
    assert noted([{"": {1}}], "id", "version").has_unique_keys("")
    assert not noted([{"": {1}}, {"": {2}}], "id", "version").has_unique_keys("")
