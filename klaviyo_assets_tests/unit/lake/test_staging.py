"""Rows are grouped by their day, compared with Python's own calendar."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.lake.write.staging import split_by_day

MOMENTS = st.one_of(
    st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    # Close together, on both sides of a midnight and of 1970.
    st.integers(-3, 3).map(lambda at: datetime.fromtimestamp(at * 43_200, UTC)),
)


def batch(first: int, moments: list[datetime]) -> pa.RecordBatch:
    """Return rows numbered from `first` on, one a moment."""
    arrays: list[Any] = [
        pa.array(range(first, first + len(moments)), pa.int64()),
        pa.array(moments, pa.timestamp("us", tz="UTC")),
    ]
    return pa.RecordBatch.from_arrays(arrays, names=["number", "at"])


@given(st.lists(st.lists(MOMENTS, max_size=8), min_size=1, max_size=5))
def test_each_row_goes_to_its_day_once(pages: list[list[datetime]]) -> None:
    """Whatever the order, rows lie in the UTC day of their cursor, and none is lost or doubled."""
    batches = [batch(100 * number, moments) for number, moments in enumerate(pages)]
    pieces = list(split_by_day(batches, "at"))
    assert all(rows.num_rows for _, rows in pieces)
    found = [(day, row) for day, rows in pieces for row in rows.to_pylist()]
    assert [day for day, _ in found] == [f"day={row['at'].date()}" for _, row in found]
    numbers = sorted(row["number"] for _, row in found)
    assert numbers == [100 * at + row for at, page in enumerate(pages) for row in range(len(page))]


def test_rows_in_order_are_cut_once_a_day() -> None:
    """A page is not cut into more pieces than it has days."""
    moments = [datetime(2024, 1, 1 + at // 4, at % 4, tzinfo=UTC) for at in range(12)]
    pieces = [(day, rows.num_rows) for day, rows in split_by_day([batch(0, moments)], "at")]
    assert pieces == [("day=2024-01-01", 4), ("day=2024-01-02", 4), ("day=2024-01-03", 4)]
    backwards = [
        (day, rows.num_rows) for day, rows in split_by_day([batch(0, moments[::-1])], "at")
    ]
    assert backwards == pieces
