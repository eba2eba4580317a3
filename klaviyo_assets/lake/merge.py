"""Newest wins: which rows of a key stay. Pure Arrow, no disk.

What belongs here: the rule. What does not: where the rows come from and what becomes of the files
(`rewrite`). Rows are told apart by two columns that the caller adds: `SOURCE`, the number of the
file that a row lies in (a later one for what came in later), and `ROW`, its place there.

A key of one column, as all but reports and histories have it, is compared by hashing that column:
Arrow's group_by and join bring pandas along, a third of a second and 30 MB at the first call.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from klaviyo_assets.lake.vectors import flags, mask, numbers, whole_numbers

SOURCE = "__source"
ROW = "__row"
SETTLED = "__settled"
COUNT = "count_all"


def numbered(rows: pa.Table, source: int, *, settled: bool = False) -> pa.Table:
    """Return the rows with their source and place, and whether they were in the table before."""
    count = rows.num_rows
    return (
        rows.append_column(SOURCE, numbers(np.full(count, source, dtype=np.int32)))
        .append_column(ROW, numbers(np.arange(count, dtype=np.int64)))
        .append_column(SETTLED, flags(np.full(count, settled)))
    )


def matching(rows: pa.Table, keys: pa.Table, key: Sequence[str]) -> pa.Table:
    """Return the rows whose key is among `keys`, in no order."""
    if len(key) > 1:
        return rows.join(keys.select(list(key)), list(key), join_type="left semi")
    return rows.filter(pc.is_in(rows[key[0]], value_set=keys[key[0]].combine_chunks()))


def repeats(rows: pa.Table, key: Sequence[str]) -> pa.Table | None:
    """Return the keys that are there more than once; None where each is there once."""
    if len(key) > 1:
        counts = rows.group_by(list(key)).aggregate([([], COUNT)])
        return counts.filter(pc.field(COUNT) > 1) if counts.num_rows < rows.num_rows else None
    column = rows[key[0]]
    if pc.count_distinct(column, mode="all").as_py() == rows.num_rows:
        return None
    counted = pa.Table.from_struct_array(pc.value_counts(column))
    is_repeated = flags(whole_numbers(counted["counts"]) > 1)
    return counted.filter(is_repeated).select(["values"]).rename_columns(list(key))


def losers(rows: pa.Table, key: Sequence[str], versions: Sequence[str]) -> pa.Table:
    """Return `SOURCE` and `ROW` of every row that another row of the same key beats.

    Of equal keys the row with the greatest `versions` stays, compared from the first column on,
    NULL below everything; between equal versions the later source, then the later row.
    """
    repeated = repeats(rows, key)
    if repeated is None:
        return rows.select([SOURCE, ROW]).slice(0, 0)
    again = matching(rows, repeated, key)
    # The stubs lag behind pyarrow 25, which moved the place of NULL into the keys.
    order: Any = [(column, "ascending", "at_start") for column in (*key, *versions, SOURCE, ROW)]
    ranked = again.take(pc.sort_indices(again, sort_keys=order))
    beaten = np.ones(len(ranked), dtype=bool)
    beaten[-1] = False
    for column in key:
        values = ranked[column]
        beaten[:-1] &= mask(pc.equal(values.slice(1), values.slice(0, len(ranked) - 1)))
    return ranked.filter(flags(beaten)).select([SOURCE, ROW])


def kept(lost: pa.Table, source: int, count: int) -> pa.BooleanArray | None:
    """Return which of the `count` rows of a source stay, as booleans in order; None for all."""
    rows = whole_numbers(lost[ROW])[whole_numbers(lost[SOURCE]) == source]
    if not len(rows):
        return None
    stay = np.ones(count, dtype=bool)
    stay[rows] = False
    return flags(stay)
