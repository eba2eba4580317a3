"""Columns from numpy and back are those that Arrow itself makes."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.arrow_buffers import (
    TIMESTAMP_UTC,
    boolean_mask,
    build_boolean_array,
    build_integer_array,
    build_timestamp_array,
    integers_to_numpy,
    timestamp_scalar,
    to_python_values,
)

MOMENTS = st.datetimes(
    min_value=datetime(1, 1, 2),  # noqa: DTZ001 - the zones are given beside
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=9))]),
)
"""From the second day of all on: the first began before the year 1, by UTC."""


@given(st.lists(st.lists(st.booleans(), max_size=20), max_size=3), st.integers(0, 3))
def test_booleans_go_both_ways(chunks: list[list[bool]], start: int) -> None:
    """In one piece or several, from the middle of a byte, or none at all."""
    column: Any = pa.chunked_array(
        [build_boolean_array(np.array(each, np.bool_)) for each in chunks], pa.bool_()
    )
    together = [value for each in chunks for value in each]
    assert column.to_pylist() == together
    assert boolean_mask(column).tolist() == together
    assert boolean_mask(column.slice(start)).tolist() == together[start:]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@given(data=st.data())
def test_whole_numbers_go_both_ways(dtype: type[np.int32 | np.int64], data: st.DataObject) -> None:
    """Of both widths, in one piece or several."""
    least, greatest = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    chunks = data.draw(st.lists(st.lists(st.integers(least, greatest), max_size=9), max_size=3))
    arrays = [build_integer_array(np.array(each, cast("Any", dtype))) for each in chunks]
    kind = {np.int32: pa.int32(), np.int64: pa.int64()}[dtype]
    column = cast("pa.ChunkedArray[Any]", pa.chunked_array(arrays, cast("Any", kind)))
    together = [value for each in chunks for value in each]
    assert column.type == kind
    assert column.to_pylist() == together
    assert integers_to_numpy(column).tolist() == together
    assert integers_to_numpy(column.slice(1)).tolist() == together[1:]


@given(st.lists(st.one_of(st.none(), MOMENTS), max_size=9))
def test_moments_are_as_arrow_reads_them(found: list[datetime | None]) -> None:
    """To the microsecond and in UTC, whatever their zone."""
    column = pa.chunked_array([pa.array(found, TIMESTAMP_UTC)])
    assert to_python_values(column) == column.to_pylist()
    assert {each.tzinfo for each in to_python_values(column) if each is not None} <= {UTC}
    for at in filter(None, found):
        assert timestamp_scalar(at).equals(pa.scalar(at, TIMESTAMP_UTC))
        assert build_timestamp_array(at, 3).equals(pa.array([at] * 3, TIMESTAMP_UTC))


def test_other_values_are_arrows_own() -> None:
    """What is no moment stays as Arrow has it."""
    assert to_python_values(pa.array(["a", None])) == ["a", None]
