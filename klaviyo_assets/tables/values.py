"""Python's values become Arrow arrays without pandas, for which Arrow's own `array` looks first.

What belongs here: types, buffers and bits. What does not: what a page says (`arrays`). At its first
list, number or moment `pyarrow.array` imports pandas: 0.2 s and 46 MiB of a process that has no
use for it.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from msgspec import Raw

from klaviyo_assets.tables.schema import MOMENT

Array: TypeAlias = "pa.Array[Any]"
Mask: TypeAlias = npt.NDArray[np.bool_]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NULL = b"null"
_LENGTHS_OF_NULL = frozenset({0, len(_NULL)})
_MOST = 2**31 - 1
"""Bytes of text in one array: offsets have 32 bits."""
_FILL: dict[pa.DataType, tuple[type[np.generic], object]] = {
    pa.int64(): (np.int64, 0),
    pa.float64(): (np.float64, 0.0),
    pa.bool_(): (np.bool_, False),
}


def array_of(values: Sequence[object], kind: pa.DataType) -> Array:
    """Return values of one type, None for NULL, as an array.

    The types: string, int64, float64, bool, and lists of strings without NULL in them.

    Raises:
        KeyError: another type.
        OverflowError: more than 2 GiB of text.
    """
    if kind == pa.string():
        return strings(cast("Sequence[str | None]", values))
    if kind == pa.list_(pa.string()):
        return _lists(cast("Sequence[Sequence[str] | None]", values))
    dtype, fill = _FILL[kind]
    there = _present(values)
    if there is not None:
        values = [fill if value is None else value for value in values]
    numbers: npt.NDArray[Any] = np.fromiter(cast("Any", values), dtype, len(values))
    data = _bits(numbers) if kind == pa.bool_() else _buffer(numbers)
    return _from_buffers(kind, len(values), [_validity(there), data])


def strings(values: Sequence[str | None]) -> Array:
    """Return texts as an array; None is NULL.

    Raises:
        OverflowError: more than 2 GiB of text.
    """
    there, texts = None, cast("Sequence[str]", values)
    try:
        text = "".join(texts)
    except TypeError:
        there, texts = _present(values), [value or "" for value in values]
        text = "".join(texts)
    data = text.encode()
    # Characters are counted more quickly than they are encoded one text at a time.
    is_ascii = len(data) == len(text)
    lengths = map(len, texts) if is_ascii else map(len, map(str.encode, texts))
    buffers = [_validity(there), _offsets(lengths, len(texts), len(data)), pa.py_buffer(data)]
    return _from_buffers(pa.string(), len(values), buffers)


def json_array(raws: Sequence[Raw | bytes]) -> Array:
    """Return JSON text as it was sent; null for JSON null and for absent (empty) values."""
    lengths = list(map(len, raws))
    there = None
    # Most pages have none of either length, and lengths are looked at more quickly than bytes.
    if not _LENGTHS_OF_NULL.isdisjoint(lengths):
        raws = [
            b"" if length == len(_NULL) and bytes(raw) == _NULL else raw
            for length, raw in zip(lengths, raws, strict=True)
        ]
        lengths = list(map(len, raws))
        there = np.array(lengths, np.bool_)
    data = b"".join(raws)
    buffers = [_validity(there), _offsets(lengths, len(raws), len(data)), pa.py_buffer(data)]
    return _from_buffers(pa.string(), len(raws), buffers)


def nulls(rows: int, kind: pa.DataType) -> Array:
    """Return a column without any value."""
    # The stubs know `nulls` of single types alone.
    return cast("Array", pa.nulls(rows, cast("Any", kind)))


def moments(at: datetime, rows: int) -> Array:
    """Return a moment as often as there are rows: microseconds, UTC."""
    since = at - _EPOCH
    micros = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return _from_buffers(MOMENT, rows, [None, _buffer(np.full(rows, micros, np.int64))])


def moment(at: datetime) -> "pa.TimestampScalar[Any, Any]":
    """Return a moment as a scalar of the columns' type: microseconds, UTC."""
    return cast("pa.TimestampScalar[Any, Any]", moments(at, 1)[0])


def _lists(values: Sequence[Sequence[str] | None]) -> Array:
    there = _present(values)
    lists = [value or () for value in values]
    items = strings(list(chain.from_iterable(lists)))
    buffers = [_validity(there), _offsets(map(len, lists), len(lists), len(items))]
    return _from_buffers(pa.list_(pa.string()), len(lists), buffers, [items])


def _present(values: Sequence[object]) -> Mask | None:
    """Return which values are there; None for all."""
    if None not in values:
        return None
    return np.fromiter([value is not None for value in values], np.bool_, len(values))


def _offsets(lengths: Iterable[int], count: int, total: int) -> pa.Buffer:
    if total > _MOST:
        raise OverflowError(f"{total} bytes of text in one array of Arrow's")
    offsets = np.zeros(count + 1, np.int32)
    np.cumsum(np.fromiter(lengths, np.int32, count), out=offsets[1:])
    return _buffer(offsets)


def _validity(there: Mask | None) -> pa.Buffer | None:
    return None if there is None else _bits(there)


def _bits(flags: Mask) -> pa.Buffer:
    return _buffer(np.packbits(flags, bitorder="little"))


def _buffer(values: npt.NDArray[Any]) -> pa.Buffer:
    # The stubs do not know that numpy's arrays are buffers.
    return pa.py_buffer(cast("Any", values))


def _from_buffers(
    kind: pa.DataType,
    rows: int,
    buffers: Sequence[pa.Buffer | None],
    children: Sequence[Array] | None = None,
) -> Array:
    # The stubs know arrays of single types alone.
    return cast("Any", pa.Array).from_buffers(kind, rows, buffers, children=children)
