"""Lists of values become Arrow arrays, many columns at a stroke.

What belongs here: building. What does not: which column takes which value (`columns`).
A page of profiles has 89 columns of 100 values: a call a column costs more than its values, so
all columns of a type are built as one array and sliced.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Raw

from klaviyo_assets.model.column import ColumnType
from klaviyo_assets.tables.coercion import day_of, moment_of
from klaviyo_assets.tables.schema import ARROW_TYPES
from klaviyo_assets.tables.values import Array, array_of, json_array, nulls

Columns = Mapping[str, Sequence[object]]
"""Values by column; the columns may be of different lengths."""

_ENDS: Mapping[ColumnType, tuple[pa.DataType, int, int]] = {
    "timestamp": (pa.int64(), -62_135_596_800_000_000, 253_402_300_799_999_999),
    "date": (pa.int32(), -719_162, 2_932_896),
}
"""The first and the last moment (microseconds) and day of the years 1 to 9999, since 1970."""

REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True)
class Built:
    """Arrays by column; `cleaned`: columns that had NUL; `misfits`: rows of unreadable text."""

    arrays: dict[str, Array]
    cleaned: frozenset[str] = frozenset()
    misfits: dict[str, list[int]] = field(default_factory=dict[str, list[int]])


def built(kind: ColumnType, columns: Columns) -> Built:
    """Return an array a column, all of one type.

    Values are text for strings, timestamps and dates, JSON text (`Raw` or bytes, empty: null) for
    JSON, lists of text for ids, Python's own for the rest; None is null. Text that is no timestamp
    or date becomes null and is named. JSON is not checked to be UTF-8.
    """
    if kind == "json":
        raws = cast("list[Raw | bytes]", list(chain.from_iterable(columns.values())))
        return Built(_sliced(json_array(raws), columns))
    # Most columns of most pages have no value at all: they share one array.
    some = {name: values for name, values in columns.items() if not _is_empty(values)}
    made = _with_values(kind, some) if some else Built({})
    lengths = {name: len(columns[name]) for name in columns.keys() - some.keys()}
    empty = {rows: nulls(rows, ARROW_TYPES[kind]) for rows in set(lengths.values())}
    absent = {name: empty[rows] for name, rows in lengths.items()}
    return replace(made, arrays=made.arrays | absent)


def _is_empty(values: Sequence[object]) -> bool:
    return not any(values) and values.count(None) == len(values)


def _with_values(kind: ColumnType, columns: Columns) -> Built:
    match kind:
        case "string" | "ids":
            return _without_nul(columns, kind)
        case "timestamp":
            return _parsed(columns, kind, moment_of)
        case "date":
            return _parsed(columns, kind, day_of)
        case _:
            return Built(_sliced(_whole(columns, ARROW_TYPES[kind]), columns))


def _whole(columns: Columns, kind: "pa.DataType") -> Array:
    return array_of(list(chain.from_iterable(columns.values())), kind)


def _sliced(whole: Array, columns: Columns) -> dict[str, Array]:
    starts = accumulate(map(len, columns.values()), initial=0)
    return {
        name: whole.slice(start, len(values))
        for (name, values), start in zip(columns.items(), starts, strict=False)
    }


def _without_nul(columns: Columns, kind: ColumnType) -> Built:
    """Build text or lists of it; other programs end a string at NUL, so each becomes U+FFFD."""
    whole = _whole(columns, ARROW_TYPES[kind])
    # The characters are the last buffer, of strings and of lists of strings alike.
    data = whole.buffers()[-1]
    if data is None or b"\0" not in data.to_pybytes():
        return Built(_sliced(whole, columns))
    clean = {name: [_cleaned(value) for value in values] for name, values in columns.items()}
    changed = frozenset(name for name, values in columns.items() if clean[name] != list(values))
    return Built(_sliced(_whole(clean, ARROW_TYPES[kind]), clean), cleaned=changed)


def _cleaned(value: object) -> object:
    if isinstance(value, list):
        return [_cleaned(each) for each in cast("list[object]", value)]
    return value.replace("\0", REPLACEMENT) if isinstance(value, str) else value


def _is_within_years(whole: Array, kind: ColumnType) -> bool:
    """Tell whether Python can name every value: Arrow knows the years 0 and 10000, too."""
    number, first, last = _ENDS[kind]
    ends = cast("dict[str, int | None]", pc.min_max(whole.cast(number)).as_py())
    return all(end is None or first <= end <= last for end in ends.values())


def _parsed(columns: Columns, kind: ColumnType, one: Callable[[str], object]) -> Built:
    try:
        whole = _whole(columns, pa.string()).cast(ARROW_TYPES[kind])
    except pa.ArrowInvalid:
        # Arrow wants an offset and at most six decimals, and quotes the text: not passed on.
        whole = None
    if whole is not None and _is_within_years(whole, kind):
        return Built(_sliced(whole, columns))
    if len(columns) > 1:
        parts = [_parsed({name: texts}, kind, one) for name, texts in columns.items()]
        return Built(
            {name: array for part in parts for name, array in part.arrays.items()},
            misfits={name: rows for part in parts for name, rows in part.misfits.items()},
        )
    ((name, texts),) = columns.items()
    values = [one(text) if isinstance(text, str) else None for text in texts]
    rows = [row for row, text in enumerate(texts) if text is not None and values[row] is None]
    # Rare, so Arrow may bring pandas along.
    return Built({name: pa.array(values, ARROW_TYPES[kind])}, misfits={name: rows} if rows else {})
