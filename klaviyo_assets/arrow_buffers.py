"""Builds Arrow arrays from buffers, and reads them into numpy and Python, without importing pandas.

Where pandas can be imported, as in our installations, the first `pyarrow.array` imports it: that
takes 280 to 500 ms and 47 MiB, against 4 ms and 6 MiB without it.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from msgspec import Raw

TIMESTAMP_UTC = pa.timestamp("us", tz="UTC")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

RowMask: TypeAlias = npt.NDArray[np.bool_]
"""One boolean a row."""

IntegerArray: TypeAlias = "npt.NDArray[np.integer[Any]]"
"""Positions of rows, or other whole numbers."""


def boolean_mask(column: "pa.ChunkedArray[Any] | pa.Array[Any]") -> RowMask:
    """Return a boolean column without NULL as a numpy array."""
    return integers_to_numpy(column.cast(pa.uint8())).view(np.bool_)


def integers_to_numpy(column: "pa.ChunkedArray[Any] | pa.Array[Any]") -> npt.NDArray[Any]:
    """Return an integer column without NULL as a numpy array; it must not be written to."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    arrays = [np.from_dlpack(cast("Any", chunk)) for chunk in chunks]
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate(arrays) if arrays else np.empty(0, column.type.to_pandas_dtype())


def to_python_values(column: "pa.ChunkedArray[Any] | pa.Array[Any]") -> list[Any]:
    """Return a column's values as Python objects; timestamps are datetimes in UTC."""
    if column.type != TIMESTAMP_UTC:
        return column.to_pylist()
    micros = column.cast(pa.int64()).to_pylist()
    return [None if each is None else datetime_from_microseconds(each) for each in micros]


def datetime_from_microseconds(microseconds: int) -> datetime:
    """Return the UTC datetime of a number of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=microseconds)


def build_boolean_array(mask: RowMask) -> pa.BooleanArray:
    """Return booleans as an Arrow array."""
    # The stubs only know arrays of one concrete type.
    return cast(
        "pa.BooleanArray",
        _array_from_buffers(pa.bool_(), len(mask), [None, _build_bit_buffer(mask)]),
    )


def build_integer_array(values: npt.NDArray[np.int32] | npt.NDArray[np.int64]) -> "pa.Array[Any]":
    """Return integers as an Arrow array of the same width."""
    return _array_from_buffers(
        pa.from_numpy_dtype(values.dtype), len(values), [None, _build_numpy_buffer(values)]
    )


def build_timestamp_array(at: datetime, rows: int) -> "pa.Array[Any]":
    """Return an array that repeats one timestamp, in UTC microseconds, for every row."""
    micros = np.datetime64(at.astimezone(UTC).replace(tzinfo=None), "us").astype(np.int64)
    return build_integer_array(np.full(rows, micros)).view(TIMESTAMP_UTC)


def timestamp_scalar(at: datetime) -> "pa.TimestampScalar[Any, Any]":
    """Return a timestamp as an Arrow scalar in UTC microseconds."""
    return build_timestamp_array(at, 1)[0]


ArrowArray: TypeAlias = "pa.Array[Any]"

_JSON_NULL = b"null"
_JSON_NULL_LENGTHS = frozenset({0, len(_JSON_NULL)})
_MAX_TEXT_BYTES = 2**31 - 1
"""Most bytes of text in one array, because its offsets have 32 bits."""
_NUMPY_TYPES: dict[pa.DataType, tuple[type[np.generic], object]] = {
    pa.int64(): (np.int64, 0),
    pa.float64(): (np.float64, 0.0),
    pa.bool_(): (np.bool_, False),
}


def build_array(values: Sequence[object], kind: pa.DataType) -> ArrowArray:
    """Return values of one type as an array; None becomes NULL.

    The types are string, int64, float64, bool, and lists of strings that contain no None.

    Raises:
        KeyError: `kind` is another type.
        OverflowError: more than 2 GiB of text.
    """
    if kind == pa.string():
        return build_string_array(cast("Sequence[str | None]", values))
    if kind == pa.list_(pa.string()):
        return _build_list_array(cast("Sequence[Sequence[str] | None]", values))
    dtype, fill = _NUMPY_TYPES[kind]
    presence = _presence_mask(values)
    if presence is not None:
        values = [fill if value is None else value for value in values]
    numbers: npt.NDArray[Any] = np.fromiter(cast("Any", values), dtype, len(values))
    data = _build_bit_buffer(numbers) if kind == pa.bool_() else _build_numpy_buffer(numbers)
    return _array_from_buffers(kind, len(values), [_build_validity_buffer(presence), data])


def build_string_array(values: Sequence[str | None]) -> ArrowArray:
    """Return texts as an array; None becomes NULL.

    Raises:
        OverflowError: more than 2 GiB of text.
    """
    presence, texts = None, cast("Sequence[str]", values)
    try:
        text = "".join(texts)
    except TypeError:
        presence, texts = _presence_mask(values), [value or "" for value in values]
        text = "".join(texts)
    data = text.encode()
    # Counting the characters of each text is faster than encoding each text to count its bytes.
    is_ascii = len(data) == len(text)
    lengths = map(len, texts) if is_ascii else map(len, map(str.encode, texts))
    buffers = [
        _build_validity_buffer(presence),
        _build_offsets_buffer(lengths, len(texts), len(data)),
        pa.py_buffer(data),
    ]
    return _array_from_buffers(pa.string(), len(values), buffers)


def build_json_array(raws: Sequence[Raw | bytes]) -> ArrowArray:
    """Return JSON values as an array of text; NULL for JSON null and for absent (empty) values."""
    lengths = list(map(len, raws))
    presence = None
    # Most pages have no value of these two lengths, and comparing lengths is faster than bytes.
    if not _JSON_NULL_LENGTHS.isdisjoint(lengths):
        raws = [
            b"" if length == len(_JSON_NULL) and bytes(raw) == _JSON_NULL else raw
            for length, raw in zip(lengths, raws, strict=True)
        ]
        lengths = list(map(len, raws))
        presence = np.array(lengths, np.bool_)
    data = b"".join(raws)
    buffers = [
        _build_validity_buffer(presence),
        _build_offsets_buffer(lengths, len(raws), len(data)),
        pa.py_buffer(data),
    ]
    return _array_from_buffers(pa.string(), len(raws), buffers)


def build_null_array(rows: int, kind: pa.DataType) -> ArrowArray:
    """Return an array of only NULL."""
    # The stubs only know `pa.nulls` of one concrete type.
    return cast("ArrowArray", pa.nulls(rows, cast("Any", kind)))


def _build_list_array(values: Sequence[Sequence[str] | None]) -> ArrowArray:
    presence = _presence_mask(values)
    lists = [value or () for value in values]
    items = build_string_array(list(chain.from_iterable(lists)))
    buffers = [
        _build_validity_buffer(presence),
        _build_offsets_buffer(map(len, lists), len(lists), len(items)),
    ]
    return _array_from_buffers(pa.list_(pa.string()), len(lists), buffers, [items])


def _presence_mask(values: Sequence[object]) -> RowMask | None:
    """Return which values are not None; None if all are."""
    if None not in values:
        return None
    return np.fromiter([value is not None for value in values], np.bool_, len(values))


def _build_offsets_buffer(lengths: Iterable[int], count: int, total: int) -> pa.Buffer:
    if total > _MAX_TEXT_BYTES:
        raise OverflowError(f"{total} bytes of text in one array of Arrow's")
    offsets = np.zeros(count + 1, np.int32)
    np.cumsum(np.fromiter(lengths, np.int32, count), out=offsets[1:])
    return _build_numpy_buffer(offsets)


def _build_validity_buffer(presence: RowMask | None) -> pa.Buffer | None:
    return None if presence is None else _build_bit_buffer(presence)


def _build_bit_buffer(flags: RowMask) -> pa.Buffer:
    return _build_numpy_buffer(np.packbits(flags, bitorder="little"))


def _build_numpy_buffer(values: npt.NDArray[Any]) -> pa.Buffer:
    # The stubs do not know that numpy arrays are buffers.
    return pa.py_buffer(cast("Any", values))


def _array_from_buffers(
    kind: pa.DataType,
    rows: int,
    buffers: Sequence[pa.Buffer | None],
    children: Sequence[ArrowArray] | None = None,
) -> ArrowArray:
    # The stubs only know arrays of one concrete type.
    return cast("Any", pa.Array).from_buffers(kind, rows, buffers, children=children)
