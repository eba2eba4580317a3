"""Columns from numpy and back, and moments, without pandas.

What belongs here: the passage. What does not: what is computed on either side. `pyarrow.array` and
`pyarrow.scalar` import pandas when first called, 0.2 s and 46 MiB; buffers do without.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

MOMENT = pa.timestamp("us", tz="UTC")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Mask: TypeAlias = npt.NDArray[np.bool_]
"""A boolean a row."""


def mask(column: "pa.ChunkedArray[Any] | pa.Array[Any]") -> Mask:
    """Return a column of booleans without NULL as an array."""
    return whole_numbers(column.cast(pa.uint8())).view(np.bool_)


def whole_numbers(column: "pa.ChunkedArray[Any] | pa.Array[Any]") -> npt.NDArray[Any]:
    """Return a column of whole numbers without NULL as an array, not to be written to."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    arrays = [np.from_dlpack(cast("Any", chunk)) for chunk in chunks]
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate(arrays) if arrays else np.empty(0, column.type.to_pandas_dtype())


def values_of(column: "pa.ChunkedArray[Any] | pa.Array[Any]") -> list[Any]:
    """Return a column's values as Python's, moments with their time zone in UTC."""
    if column.type != MOMENT:
        return column.to_pylist()
    micros = column.cast(pa.int64()).to_pylist()
    return [None if each is None else moment_of(each) for each in micros]


def moment_of(micros: int) -> datetime:
    """Return the moment so many microseconds after 1970 began in UTC."""
    return _EPOCH + timedelta(microseconds=micros)


def flags(stay: Mask) -> pa.BooleanArray:
    """Return booleans as a column."""
    return _from_buffer(pa.bool_(), len(stay), np.packbits(stay, bitorder="little"))


def numbers(values: npt.NDArray[np.int32] | npt.NDArray[np.int64]) -> "pa.Array[Any]":
    """Return whole numbers as a column of their width."""
    return _from_buffer(pa.from_numpy_dtype(values.dtype), len(values), values)


def moments(at: datetime, rows: int) -> "pa.Array[Any]":
    """Return a moment as often as there are rows."""
    micros = np.datetime64(at.astimezone(UTC).replace(tzinfo=None), "us").astype(np.int64)
    return numbers(np.full(rows, micros)).view(MOMENT)


def moment(at: datetime) -> "pa.TimestampScalar[Any, Any]":
    """Return a moment as the columns have it."""
    return moments(at, 1)[0]


def _from_buffer(kind: pa.DataType, rows: int, data: npt.NDArray[Any]) -> Any:  # noqa: ANN401
    # The stubs know arrays of single types alone, and not that numpy's are buffers.
    return cast("Any", pa.Array).from_buffers(kind, rows, [None, pa.py_buffer(cast("Any", data))])
