"""Lists of values become Arrow arrays, many columns at a stroke.

What belongs here: text, times and JSON in bulk. What does not: which column takes which value
(`columns`). A page of profiles has 89 columns of 100 values: a call a column costs more than its
values, so columns of one type are built as one array and sliced.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, chain

import pyarrow as pa
from msgspec import Raw

from klaviyo_assets.tables.coercion import day_of, moment_of
from klaviyo_assets.tables.schema import MOMENT

Texts = Sequence[str | None]
Misfits = dict[str, list[int]]
"""Rows, by column, whose text could not be read."""

REPLACEMENT = "\ufffd"


def text_arrays(columns: Mapping[str, Texts]) -> tuple[dict[str, pa.Array], set[str]]:
    """Return an array of strings a column, and the columns that had NUL characters.

    Other programs end a string at NUL, so each becomes U+FFFD.
    """
    whole = pa.array(list(chain.from_iterable(columns.values())), pa.string())
    data = whole.buffers()[2]
    if data is None or b"\0" not in data.to_pybytes():
        return _sliced(whole, columns), set()
    cleaned = {
        name: [text and text.replace("\0", REPLACEMENT) for text in texts]
        for name, texts in columns.items()
    }
    changed = {name for name, texts in columns.items() if cleaned[name] != list(texts)}
    return text_arrays(cleaned)[0], changed


def moment_arrays(columns: Mapping[str, Texts]) -> tuple[dict[str, pa.Array], Misfits]:
    """Return an array of UTC microseconds a column; what is no moment is null and named."""
    return _parsed(columns, MOMENT, moment_of)


def day_arrays(columns: Mapping[str, Texts]) -> tuple[dict[str, pa.Array], Misfits]:
    """Return an array of days a column; what is no day is null and named."""
    return _parsed(columns, pa.date32(), day_of)


def _parsed(
    columns: Mapping[str, Texts], kind: pa.DataType, one: Callable[[str], object]
) -> tuple[dict[str, pa.Array], Misfits]:
    whole = pa.array(list(chain.from_iterable(columns.values())), pa.string())
    try:
        return _sliced(whole.cast(kind), columns), {}
    except pa.ArrowInvalid:
        # Arrow wants an offset and at most six decimals, and says so with the value: not passed on.
        pass
    if len(columns) > 1:
        parts = [_parsed({name: texts}, kind, one) for name, texts in columns.items()]
        arrays = {name: array for part, _ in parts for name, array in part.items()}
        return arrays, {name: rows for _, part in parts for name, rows in part.items()}
    ((name, texts),) = columns.items()
    values = [None if text is None else one(text) for text in texts]
    rows = [row for row, text in enumerate(texts) if text is not None and values[row] is None]
    return {name: pa.array(values, kind)}, {name: rows} if rows else {}


def _sliced(whole: pa.Array, columns: Mapping[str, Texts]) -> dict[str, pa.Array]:
    starts = accumulate((len(texts) for texts in columns.values()), initial=0)
    return {
        name: whole.slice(start, len(columns[name]))
        for name, start in zip(columns, starts, strict=False)
    }


def json_array(raws: Sequence[Raw | bytes]) -> pa.Array:
    """Return JSON text as it was sent; null for JSON null and for absent (empty) values.

    UTF-8 is not checked here.
    """
    lengths = list(map(len, raws))
    validity = None
    if lengths and min(lengths) <= len(b"null"):
        is_there = [bytes(raw) not in {b"", b"null"} for raw in raws]
        raws = [raw if there else b"" for raw, there in zip(raws, is_there, strict=True)]
        lengths = list(map(len, raws))
        validity = pa.array(is_there, pa.bool_()).buffers()[1]
    offsets = pa.array(list(accumulate(lengths, initial=0)), pa.int32()).buffers()[1]
    data = pa.py_buffer(b"".join(raws))
    return pa.StringArray.from_buffers(len(lengths), offsets, data, validity)
